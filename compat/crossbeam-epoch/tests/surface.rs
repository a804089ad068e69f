//! Every public item, used as crossbeam-epoch's documentation types it: that this compiles is half of the test.

#![allow(deprecated, reason = "the older names are part of the surface")]

use crossbeam_epoch::{
    self as epoch, Atomic, Collector, CompareAndSetError, CompareAndSetOrdering, CompareExchangeError, Guard,
    LocalHandle, Owned, Pointable, Pointer, Shared,
};
use std::borrow::{Borrow, BorrowMut};
use std::mem::MaybeUninit;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

type Slice = [MaybeUninit<u16>];

/// What the pointer leads to.
fn value(p: Shared<'_, u64>) -> Option<u64> {
    // SAFETY: each test below loads live objects only.
    unsafe { p.as_ref() }.copied()
}

#[test]
fn free_functions_have_their_types() {
    let _: fn() -> Guard = epoch::pin;
    let _: fn() -> bool = epoch::is_pinned;
    let _: fn() -> &'static Collector = epoch::default_collector;
    let _: unsafe fn() -> &'static Guard = epoch::unprotected;
    assert!(!epoch::is_pinned());
    let guard = epoch::pin();
    assert!(epoch::is_pinned());
    assert_eq!(guard.collector(), Some(epoch::default_collector()));
    drop(guard);
    assert!(!epoch::is_pinned());
}

#[test]
fn what_is_shared_can_be_sent() {
    fn send<T: Send>() {}
    fn both<T: Send + Sync>() {}
    both::<Collector>();
    both::<Atomic<u64>>();
    both::<Atomic<Slice>>();
    both::<Owned<u64>>();
    send::<Owned<std::cell::Cell<u64>>>();
    fn unwind<T: std::panic::UnwindSafe + std::panic::RefUnwindSafe + Unpin>() {}
    unwind::<Atomic<u64>>();
    unwind::<Owned<u64>>();
    unwind::<Shared<'static, u64>>();
}

#[test]
fn collectors_and_handles() {
    let collector = Collector::new();
    let handle: LocalHandle = collector.register();
    assert!(!handle.is_pinned());
    let guard = handle.pin();
    assert!(handle.is_pinned());
    assert_eq!(guard.collector(), Some(&collector));
    assert_eq!(handle.collector(), &collector.clone());
    assert_ne!(Collector::default(), collector);
    let shown = format!("{collector:?} {handle:?} {guard:?}");
    assert_eq!(shown, "Collector { .. } LocalHandle { .. } Guard { .. }");
}

#[test]
fn guards_have_their_doors() {
    let mut guard = Collector::new().register().pin();
    let returned: u64 = guard.repin_after(|| 7);
    assert_eq!(returned, 7);
    guard.repin();
    guard.defer(|| 1);
    // SAFETY: the closure borrows nothing; the object is nobody else's.
    unsafe {
        guard.defer_unchecked(|| "anything");
        guard.defer_destroy(Owned::new(1u64).into_shared(&guard));
        guard.defer_destroy(Owned::<Slice>::init(3).into_shared(&guard));
    }
    guard.flush();
}

#[test]
fn atomics_are_made_from_everything() {
    static NULL: Atomic<u64> = Atomic::null();
    let guard = &epoch::pin();
    assert!(NULL.load(Acquire, guard) == Shared::null() && Shared::<u64>::null().is_null());
    assert!(Atomic::<u64>::default().load(Acquire, guard).is_null());
    let on_stack = 5u64;
    let borrowed = Atomic::from(std::ptr::from_ref(&on_stack));
    assert_eq!(value(borrowed.load(Acquire, guard)), Some(5));
    assert!(std::ptr::eq(borrowed.load(Acquire, guard).as_raw(), &on_stack));
    let owned = [
        Atomic::new(5u64),
        Atomic::init(5),
        Atomic::from(5),
        Atomic::from(Box::new(5)),
        Atomic::from(Owned::new(5)),
        Atomic::from(Owned::new(5).into_shared(guard)),
    ];
    for atomic in owned {
        let copy = atomic.clone();
        assert_eq!(value(copy.load_consume(guard)), Some(5));
        assert_eq!(format!("{atomic:p}"), format!("{:p}", atomic.load(Relaxed, guard).as_raw()));
        let raw = atomic.load(Relaxed, guard).as_raw();
        assert_eq!(format!("{atomic:?}"), format!("Atomic {{ raw: {raw:?}, tag: 0 }}"));
        // SAFETY: each has an object of its own, which nobody else knows.
        assert_eq!(*unsafe { atomic.into_owned() }, 5);
    }
    // SAFETY: null.
    assert!(unsafe { Atomic::<u64>::null().try_into_owned() }.is_none());
    // SAFETY: its own object.
    assert!(unsafe { Atomic::new(1u64).try_into_owned() }.is_some());
}

#[test]
fn zeroed_memory_is_null() {
    // SAFETY: this is what is tested: zeroed atomics are valid.
    let tower: [Atomic<u64>; 4] = unsafe { MaybeUninit::zeroed().assume_init() };
    let guard = &epoch::pin();
    assert!(tower.iter().all(|a| a.load(Acquire, guard) == Shared::null()));
    assert_eq!(size_of::<Atomic<Slice>>(), size_of::<usize>());
}

#[test]
fn atomics_change() {
    let guard = &epoch::pin();
    let one = Owned::new(1u64).into_shared(guard);
    let atomic = Atomic::<u64>::null();
    atomic.store(one, Release);
    assert_eq!(value(atomic.swap(Owned::new(2), AcqRel, guard)), Some(1));
    let two = atomic.load(Acquire, guard);
    let failed: CompareExchangeError<'_, u64, Owned<u64>> =
        atomic.compare_exchange(one, Owned::new(3), AcqRel, Acquire, guard).unwrap_err();
    assert!(failed.current == two && *failed.new == 3);
    assert!(format!("{failed:?}").starts_with("CompareExchangeError { current: Shared { raw: 0x"));
    let three = atomic.compare_exchange(two, failed.new, AcqRel, Acquire, guard).expect("two is there");
    assert_eq!((value(three), atomic.load(Acquire, guard)), (Some(3), three));
    while atomic.compare_exchange_weak(three, two, AcqRel, Acquire, guard).is_err() {}
    // The older names.
    let failed: CompareAndSetError<'_, u64, Shared<'_, u64>> =
        atomic.compare_and_set(three, one, AcqRel, guard).unwrap_err();
    assert!(failed.current == two && failed.new == one);
    assert_eq!(atomic.compare_and_set(two, one, (AcqRel, Acquire), guard).ok(), Some(one));
    while atomic.compare_and_set_weak(one, two, SeqCst, guard).is_err() {}
    assert_eq!((CompareAndSetOrdering::success(&AcqRel), CompareAndSetOrdering::failure(&AcqRel)), (AcqRel, Acquire));
    assert_eq!((Release.failure(), SeqCst.failure(), (AcqRel, Relaxed).failure()), (Relaxed, SeqCst, Relaxed));
    // A function that is asked.
    assert_eq!(atomic.fetch_update(AcqRel, Acquire, guard, |p| (p == two).then_some(three)), Ok(two));
    assert_eq!(atomic.fetch_update(AcqRel, Acquire, guard, |p| (p == two).then_some(three)), Err(three));
    for p in [one, two, three] {
        // SAFETY: three objects that nobody else knows; the atomic is not read any more.
        drop(unsafe { p.into_owned() });
    }
}

#[test]
fn tags() {
    let guard = &epoch::pin();
    let atomic = Atomic::from(Owned::new(1u64).with_tag(0b1011));
    assert_eq!(atomic.load(Acquire, guard).tag(), 0b011, "only what the alignment leaves free");
    assert_eq!(atomic.fetch_or(0b1100, AcqRel, guard).tag(), 0b011);
    assert_eq!(atomic.fetch_and(0b0101, AcqRel, guard).tag(), 0b111);
    assert_eq!(atomic.fetch_xor(0b1001, AcqRel, guard).tag(), 0b101);
    let p = atomic.load(Acquire, guard);
    assert_eq!((p.tag(), value(p)), (0b100, Some(1)));
    assert!(p.with_tag(0) != p && p.with_tag(0).as_raw() == p.as_raw());
    assert!(Shared::<u64>::null().with_tag(3).is_null());
    let raw = p.as_raw();
    assert_eq!(format!("{p:?} {p:p}"), format!("Shared {{ raw: {raw:?}, tag: 4 }} {raw:p}"));
    // SAFETY: its own object.
    assert_eq!(unsafe { p.into_owned() }.tag(), 0b100);
}

#[test]
fn shared_pointers() {
    let guard = &epoch::pin();
    let mut p: Shared<'_, u64> = Owned::new(1).into_shared(guard);
    // SAFETY: nobody else knows the object.
    unsafe {
        *p.deref_mut() += 1;
        assert_eq!((p.deref(), p.as_ref(), Shared::<u64>::null().as_ref()), (&2, Some(&2), None));
    }
    assert!(Shared::<u64>::default() < p && p.max(Shared::null()) == p && Shared::from(p.as_raw()) == p);
    // SAFETY: null, and an object that nobody else knows.
    unsafe {
        assert!(Shared::<u64>::null().try_into_owned().is_none());
        assert_eq!(p.try_into_owned().map(|o| *o), Some(2));
    }
}

#[test]
fn a_pointer_that_is_not_aligned_is_refused() {
    let odd = std::ptr::without_provenance::<u64>(3);
    assert!(std::panic::catch_unwind(|| Atomic::<u64>::from(odd)).is_err());
    assert!(std::panic::catch_unwind(|| Shared::<u64>::from(odd).is_null()).is_err());
}

#[test]
fn owners() {
    let mut owned = Owned::<String>::from(String::from("a")).with_tag(1);
    owned.push('b');
    *owned.as_mut() += "c";
    BorrowMut::<String>::borrow_mut(&mut owned).push('d');
    let copy = owned.clone();
    assert_eq!((copy.as_ref().as_str(), Borrow::<String>::borrow(&copy).as_str(), copy.tag()), ("abcd", "abcd", 1));
    assert!(format!("{copy:?}").ends_with(", tag: 1 }"));
    let boxed: Box<String> = owned.into_box();
    let again = Owned::<String>::from(boxed);
    let word = Pointer::into_usize(again);
    // SAFETY: the word of an Owned, once; then the address of a Box.
    unsafe {
        let again: Owned<String> = Pointer::from_usize(word);
        let raw = Box::into_raw(again.into_box());
        assert_eq!(*Owned::from_raw(raw), "abcd");
    }
}

#[test]
fn slices_of_any_alignment() {
    #[repr(align(64))]
    struct Wide(u8);
    fn check<T>(len: usize, first: impl Fn() -> T) {
        let mut slice = Owned::<[MaybeUninit<T>]>::init(len);
        assert_eq!((slice.len(), slice.as_ptr().addr() % align_of::<T>()), (len, 0));
        slice.iter_mut().for_each(|place| *place = MaybeUninit::new(first()));
        // Destroyed at the end of this function, with the collector.
        let guard = &Collector::new().register().pin();
        let shared = slice.with_tag(1).into_shared(guard);
        // SAFETY: nobody else knows it.
        unsafe {
            assert_eq!((shared.deref().len(), shared.tag()), (len, 1));
            guard.defer_destroy(shared);
        }
    }
    check(0, || 1u8);
    check(7, || 1u8);
    check(1000, || 1u64);
    check(3, || Wide(1));
    assert_eq!((<[MaybeUninit<Wide>]>::ALIGN, <[MaybeUninit<u8>]>::ALIGN), (64, align_of::<usize>()));
    assert_eq!((<Wide as Pointable>::ALIGN, Wide(3).0), (64, 3));
}
