//! Who may go before whom: guards, handles, collectors, threads and their thread-locals.

mod counted;

use counted::{Count, Counted, flush_twice};
use crossbeam_epoch::{self as epoch, Collector, Guard, LocalHandle, Owned};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

#[test]
fn a_guard_outlives_its_handle_and_protects() {
    let (collector, count) = (Collector::new(), Count::default());
    let handle = collector.register();
    let guard = handle.pin();
    drop(handle);
    let other = collector.register();
    count.defer(&other.pin(), 1);
    flush_twice(&other);
    assert_eq!(count.dropped(), 0, "freed under a guard");
    assert_eq!(guard.collector(), Some(&collector));
    count.defer(&guard, 1);
    drop(guard);
    flush_twice(&other);
    assert_eq!(count.dropped(), 2);
}

#[test]
fn a_collector_may_go_before_its_handles_and_they_before_their_guards() {
    let count = Count::default();
    let handle = Collector::new().register();
    let guard = handle.pin();
    drop(handle);
    count.defer(&guard, 3);
    assert_eq!(count.dropped(), 0);
    drop(guard);
    assert_eq!(count.dropped(), 3, "the collector is gone, and with it what was deferred");
}

#[test]
fn functions_that_defer_again_all_run_when_the_collector_goes() {
    static RUN: AtomicUsize = AtomicUsize::new(0);
    fn link(collector: &Collector, left: usize) {
        let handle = collector.register();
        let guard = handle.pin();
        let weak = if left == 0 { None } else { Some(left - 1) };
        let collector = collector.clone();
        guard.defer(move || {
            RUN.fetch_add(1, SeqCst);
            weak.into_iter().for_each(|left| link(&collector, left));
        });
    }
    let collector = Collector::new();
    link(&collector, 99);
    let handle = collector.register();
    // Each link holds the collector: it goes when the last has run.
    while RUN.load(SeqCst) < 100 {
        flush_twice(&handle);
    }
    // And without anybody who flushes: what the last handle leaves behind runs at the end.
    let count = Count::default();
    count.defer(&handle.pin(), 10);
    drop((handle, collector));
    assert_eq!(count.dropped(), 10);
}

#[test]
fn a_leaked_guard_holds_up_its_own_collector_only() {
    let (collector, other, count) = (Collector::new(), Collector::new(), Count::default());
    let handle = collector.register();
    std::mem::forget(handle.pin());
    count.defer(&handle.pin(), 5);
    flush_twice(&handle);
    drop((handle, collector));
    assert_eq!(count.dropped(), 0, "a leaked guard protects for ever");
    let handle = other.register();
    count.defer(&handle.pin(), 2);
    flush_twice(&handle);
    assert_eq!(count.dropped(), 2);
}

#[test]
fn a_deferred_function_may_leak_a_guard() {
    // The turn runs it right before a section is opened: that section must be counted as the second.
    let collector = Collector::new();
    let handle = collector.register();
    static LEAKED: AtomicBool = AtomicBool::new(false);
    let address = std::ptr::from_ref(&handle).expose_provenance();
    // SAFETY: run by this thread, below, while the handle lives.
    unsafe {
        handle.pin().defer_unchecked(move || {
            let handle: &LocalHandle = &*std::ptr::with_exposed_provenance(address);
            std::mem::forget(handle.pin());
            LEAKED.store(true, SeqCst);
        });
    }
    // Fills the block, and takes turns.
    while !LEAKED.load(SeqCst) {
        handle.pin().defer(|| ());
    }
    assert!(handle.is_pinned(), "the leaked guard is still there");
    let guard = handle.pin();
    drop(guard);
    assert!(handle.is_pinned());
    let count = Count::default();
    count.defer(&handle.pin(), 1);
    flush_twice(&collector.register());
    assert_eq!(count.dropped(), 0);
}

#[test]
fn a_thread_may_end_before_what_it_deferred() {
    let (collector, count) = (Collector::new(), Count::default());
    for _ in 0..20 {
        thread::scope(|s| {
            s.spawn(|| count.defer(&collector.register().pin(), 10)).join().expect("it only defers");
        });
    }
    flush_twice(&collector.register());
    assert_eq!(count.dropped(), 200);
}

#[test]
fn threads_that_have_ended_hold_nothing_up() {
    // Through the default collector, whose handles are thread-locals.
    let count = Count::default();
    thread::scope(|s| {
        s.spawn(|| {
            let guard = epoch::pin();
            count.defer(&guard, 1);
        });
    });
    while count.dropped() == 0 {
        epoch::pin().flush();
    }
}

#[test]
fn thread_locals_may_pin_when_they_are_destroyed() {
    struct Late(Option<Guard>, bool);
    static PINNED: AtomicUsize = AtomicUsize::new(0);
    impl Drop for Late {
        fn drop(&mut self) {
            let kept = self.0.take();
            let guard = epoch::pin();
            guard.defer(|| ());
            // SAFETY: nobody else knows the object.
            unsafe { guard.defer_destroy(Owned::new(Counted::default()).into_shared(&guard)) };
            guard.flush();
            assert!(self.1 || epoch::default_collector() == guard.collector().expect("it is a real one"));
            drop((guard, kept));
            PINNED.fetch_add(1, SeqCst);
        }
    }
    thread_local! {
        static BEFORE: RefCell<Option<Late>> = const { RefCell::new(None) };
        static AFTER: RefCell<Option<Late>> = const { RefCell::new(None) };
    }
    for keep in [false, true] {
        thread::spawn(move || {
            // Registered before and after the crate's own: one of the two is destroyed later, whatever the platform's order.
            BEFORE.with_borrow_mut(|late| *late = Some(Late(None, false)));
            let guard = epoch::pin();
            AFTER.with_borrow_mut(|late| *late = Some(Late(None, false)));
            if keep {
                BEFORE.with_borrow_mut(|late| *late = Some(Late(Some(guard), false)));
                AFTER.with_borrow_mut(|late| *late = Some(Late(Some(epoch::pin()), false)));
            }
        })
        .join()
        .expect("destructors that pin");
    }
    // Two each, and those that were replaced.
    assert_eq!(PINNED.load(SeqCst), 6);
    let count = Count::default();
    count.defer(&epoch::pin(), 1);
    while count.dropped() == 0 {
        epoch::pin().flush();
    }
}

#[test]
fn repin_moves_on_if_it_is_the_only_guard() {
    let (collector, count) = (Collector::new(), Count::default());
    let (handle, other) = (collector.register(), collector.register());
    let mut guard = handle.pin();
    count.defer(&other.pin(), 1);
    // Its grace period has begun, and waits for the guard.
    flush_twice(&other);
    let second = handle.pin();
    guard.repin();
    flush_twice(&other);
    assert_eq!(count.dropped(), 0, "the second guard was not asked");
    drop(second);
    flush_twice(&other);
    assert_eq!(count.dropped(), 0, "freed under a guard");
    guard.repin();
    flush_twice(&other);
    assert_eq!(count.dropped(), 1);
    assert!(handle.is_pinned());
}

#[test]
fn repin_after_is_outside_meanwhile() {
    let (collector, count) = (Collector::new(), Count::default());
    let (handle, other) = (collector.register(), collector.register());
    let mut guard = handle.pin();
    count.defer(&other.pin(), 1);
    guard.repin_after(|| {
        assert!(!handle.is_pinned());
        flush_twice(&other);
        assert_eq!(count.dropped(), 1);
    });
    assert!(handle.is_pinned());
    // Not outside, if there is another guard.
    let second = handle.pin();
    guard.repin_after(|| assert!(handle.is_pinned()));
    drop(second);
    // Inside again after a panic.
    let panic = catch_unwind(AssertUnwindSafe(|| guard.repin_after(|| panic!("on purpose"))));
    assert!(panic.is_err() && handle.is_pinned());
    count.defer(&other.pin(), 1);
    flush_twice(&other);
    assert_eq!(count.dropped(), 1, "freed under a guard");
    drop(guard);
    flush_twice(&other);
    assert_eq!(count.dropped(), 2);
}

#[test]
fn repin_after_may_drop_the_handle() {
    let count = Count::default();
    let handle = Cell::new(Some(Collector::new().register()));
    let taken = handle.take().expect("there");
    let mut guard = taken.pin();
    guard.repin_after(move || drop(taken));
    count.defer(&guard, 1);
    guard.repin();
    assert!(guard.collector().is_some() && count.dropped() == 0);
    drop(guard);
    assert_eq!(count.dropped(), 1);
}
