//! What every flavour promises. Each function is one promise, and makes a flavour of its own.

use crate::flavour::Flavour;
use crate::objects::{Sets, Tally, message, until, watched};
use quietus::InsideSection;
use quietus::slab::{self, Cache, SlabBox};
use std::alloc::Layout;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::Duration;

/// Lets a flavour be reached from deferred functions, which must be `'static`.
struct Reach<F>(*const F);
impl<F> Clone for Reach<F> {
    fn clone(&self) -> Self {
        Reach(self.0)
    }
}
// SAFETY: flavours are Sync, and outlive what is deferred to them: each test ends with a barrier or fails.
unsafe impl<F: Sync> Send for Reach<F> {}
impl<F> Reach<F> {
    fn get(&self) -> &F {
        // SAFETY: as above.
        unsafe { &*self.0 }
    }
}

fn retire<F: Flavour, T: Send>(f: &F, value: T) {
    // SAFETY: fresh, known to nobody else; what it borrows outlives the barrier at the end of each test.
    unsafe { f.domain().retire(SlabBox::into_raw(SlabBox::new(value))) }
}

fn retire_bytes<F: Flavour>(f: &F, size: usize) {
    // SAFETY: fresh, known to nobody else.
    unsafe { f.domain().retire_ptr(slab::alloc(Layout::from_size_align(size, 16).unwrap()).unwrap()) }
}

/// Another thread inside a section, until told to leave.
struct Reader {
    leave: mpsc::Sender<()>,
    left: mpsc::Receiver<()>,
}

impl Reader {
    fn leave(self) {
        self.leave.send(()).unwrap();
        self.left.recv().unwrap();
    }
}

fn reader<'s, F: Flavour>(scope: &'s std::thread::Scope<'s, '_>, f: &'s F) -> Reader {
    let (leave, told) = mpsc::channel::<()>();
    let (entered, wait) = mpsc::channel();
    let (gone, left) = mpsc::channel();
    scope.spawn(move || {
        let guard = f.pin();
        entered.send(()).unwrap();
        let _ = told.recv(); // an error, too, is an end: the test has failed
        drop(guard);
        let _ = gone.send(());
    });
    wait.recv().unwrap();
    Reader { leave, left }
}

pub(crate) fn waits_for_an_open_section<F: Flavour>() {
    let f = F::alone();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = reader(scope, &f);
        scope.spawn(|| {
            f.synchronize();
            done.store(true, SeqCst);
        });
        let cookie = f.domain().cookie();
        for _ in 0..30 {
            f.drive();
            assert!(!cookie.is_elapsed());
        }
        assert!(!cookie.wait_timeout(Duration::from_millis(20)));
        assert!(!done.load(SeqCst), "synchronize did not wait");
        reader.leave();
        until("the section has ended", || f.drive(), || cookie.is_elapsed() && done.load(SeqCst));
        cookie.wait();
    });
}

pub(crate) fn does_not_wait_for_later_sections<F: Flavour>() {
    let f = F::alone();
    std::thread::scope(|scope| {
        // A grace period that begins for another reason after the later section may wait for it: several tries, each with more time than
        // the one before.
        let waited = (0..32).all(|n| {
            let cookie = f.domain().cookie();
            let later = reader(scope, &f);
            let waited = !cookie.wait_timeout(Duration::from_millis(50 * (n + 1)));
            later.leave();
            waited
        });
        assert!(!waited, "a grace period waited for a section that was opened after it");
    });
}

/// Somebody is always inside, but nobody stays.
pub(crate) fn a_relay_of_sections_holds_nothing_up<F: Flavour>() {
    let f = F::alone();
    std::thread::scope(|scope| {
        let mut inside = reader(scope, &f);
        let cookie = f.domain().cookie();
        let relay = || {
            std::mem::replace(&mut inside, reader(scope, &f)).leave();
            f.drive();
        };
        until("it elapses beside the later sections", relay, || cookie.is_elapsed());
        inside.leave();
    });
}

pub(crate) fn cookies_elapse_once_and_for_all<F: Flavour>() {
    let f = F::alone();
    let first = f.domain().cookie();
    f.synchronize();
    assert!(first.is_elapsed(), "synchronize came later, and is over");
    let guard = f.pin();
    let second = f.domain().cookie();
    for _ in 0..10 {
        f.drive();
        assert!(first.is_elapsed(), "once elapsed, always elapsed");
        assert!(!second.is_elapsed(), "this thread is inside");
    }
    drop(guard);
    assert!(second.wait_timeout(Duration::from_secs(60)));
    second.wait();
    first.wait();
    let third = f.domain().cookie();
    until("a cookie that is only looked at elapses", || (), || third.is_elapsed());
}

pub(crate) fn deferred_functions_run_after<F: Flavour>() {
    let f = F::alone();
    let ran = Arc::new(AtomicU32::new(0));
    std::thread::scope(|scope| {
        let reader = reader(scope, &f);
        let count = Arc::clone(&ran);
        f.domain().defer(move || {
            count.fetch_add(1, SeqCst);
        });
        f.domain().flush();
        for _ in 0..80 {
            f.drive();
            assert_eq!(ran.load(SeqCst), 0, "a deferred function ran inside a section that was open");
        }
        reader.leave();
        until("the deferred function runs", || f.drive(), || ran.load(SeqCst) > 0);
    });
    f.domain().barrier();
    assert_eq!(ran.load(SeqCst), 1);
}

pub(crate) fn barriers_cover_everything<F: Flavour>() {
    const EACH: usize = 300;
    let f = F::alone();
    let cache: Cache<[u64; 8]> = Cache::new("contract-plain");
    let typed: Cache<crate::objects::Object> = Cache::new("contract-typed");
    for _ in 0..3 {
        let tally = Tally::new(3 * 4 * EACH);
        let before = f.domain().stats().kvfree;
        std::thread::scope(|scope| {
            for part in 0..3 {
                let (f, cache, typed, tally) = (&f, &cache, &typed, &tally);
                scope.spawn(move || {
                    for i in 0..EACH {
                        let id = (part * EACH + i) * 4;
                        retire(f, tally.object(id));
                        let deferred = tally.object(id + 1);
                        f.domain().defer(move || drop(deferred));
                        // SAFETY: fresh, known to nobody else, all four.
                        unsafe {
                            f.domain().retire_box(NonNull::from(Box::leak(Box::new(tally.object(id + 2)))));
                            f.domain().retire(SlabBox::into_raw(typed.alloc(tally.object(id + 3))));
                            f.domain().retire(SlabBox::into_raw(cache.alloc([1; 8])));
                            f.domain().retire_in(cache, SlabBox::into_raw(cache.alloc([1; 8])));
                        }
                        retire_bytes(f, 40 * i);
                    }
                });
            }
        });
        f.domain().barrier();
        tally.each_once();
        let s = f.domain().stats().kvfree;
        assert_eq!((s.pending_objects, s.pending_bytes), (0, 0));
        assert_eq!(s.reclaimed_objects - before.reclaimed_objects, (3 * 7 * EACH) as u64);
        assert_eq!((s.leaked, s.inline_waits), (before.leaked, before.inline_waits));
        assert_eq!((cache.stats().live, typed.stats().live), (0, 0));
    }
}

struct Link<F: Flavour> {
    f: Reach<F>,
    tally: Arc<Tally>,
    id: usize,
}

impl<F: Flavour> Drop for Link<F> {
    fn drop(&mut self) {
        drop(self.tally.object(self.id));
        let f = self.f.get();
        if self.id == 0 {
            return;
        }
        let next = Link { f: self.f.clone(), tally: Arc::clone(&self.tally), id: self.id - 1 };
        match self.id % 3 {
            0 => retire(f, next),
            1 => {
                // SAFETY: a Box that nobody else knows; the flavour outlives the barrier.
                unsafe { f.domain().retire_box(NonNull::from(Box::leak(Box::new(next)))) }
            }
            _ => {
                let _guard = f.pin();
                retire(f, next);
                retire_bytes(f, 100);
            }
        }
    }
}

pub(crate) fn barriers_follow_destructors_that_retire<F: Flavour>() {
    let f = F::alone();
    let tally = Tally::new(100);
    retire(&f, Link { f: Reach(&f), tally: Arc::clone(&tally), id: 99 });
    f.domain().barrier();
    tally.each_once();
    assert_eq!(f.domain().stats().kvfree.pending_objects, 0);
}

pub(crate) fn barriers_end_although_others_retire<F: Flavour>() {
    let f = F::alone();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    f.domain().defer(|| ());
                    retire_bytes(&f, 64);
                }
            });
        }
        let _stop = Sets(&stop);
        for _ in 0..3 {
            let tally = Tally::new(100);
            (0..100).for_each(|id| retire(&f, tally.object(id)));
            watched("a barrier beside others that retire", || f.domain().barrier());
            tally.each_once();
        }
    });
    f.domain().barrier();
}

pub(crate) fn values_are_dropped_once<F: Flavour>() {
    const EACH: usize = 5000;
    let f = F::alone();
    let tally = Tally::new(4 * EACH);
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (f, tally) = (&f, &tally);
            scope.spawn(move || {
                for i in 0..EACH {
                    let guard = (i % 3 == 0).then(|| f.pin());
                    retire(f, tally.object(part * EACH + i));
                    drop(guard);
                    if i % 1000 == 999 && part == 0 {
                        f.domain().barrier();
                    }
                }
            });
        }
    });
    until("all are dropped", || f.drive(), || tally.dropped() == 4 * EACH);
    f.domain().barrier();
    tally.each_once();
}

pub(crate) fn retiring_inside_a_section<F: Flavour>() {
    let f = F::alone();
    let tally = Tally::new(1000);
    let guard = f.pin();
    (0..1000).for_each(|id| retire(&f, tally.object(id)));
    f.domain().flush();
    for _ in 0..80 {
        f.drive();
    }
    assert_eq!(tally.dropped(), 0, "freed inside the section that retired them");
    drop(guard);
    until("they are freed after it", || f.drive(), || tally.dropped() == 1000);
    f.domain().barrier();
    tally.each_once();
}

pub(crate) fn guards_drop_in_any_order<F: Flavour>() {
    let f = F::alone();
    let held = |what: &str| {
        let cookie = f.domain().cookie();
        for _ in 0..5 {
            f.drive();
            assert!(!cookie.is_elapsed(), "{what}");
        }
    };
    let free = || {
        let cookie = f.domain().cookie();
        until("no guard is left", || f.drive(), || cookie.is_elapsed());
    };
    // The first guard goes first.
    let (a, b) = (f.pin(), f.pin());
    drop(a);
    held("the second guard is alive");
    drop(b);
    free();
    // Swapped.
    let (mut a, mut b) = (f.pin(), f.pin());
    std::mem::swap(&mut a, &mut b);
    drop(b);
    held("the other guard is alive");
    drop(a);
    free();
    // A repin lets old sections go, but not while there is another guard.
    let mut a = f.pin();
    let cookie = f.domain().cookie();
    let b = f.pin();
    if F::SHARED {
        F::repin(&mut a);
        assert!(!cookie.is_elapsed(), "the second guard is alive");
        drop(b);
        assert!(!cookie.is_elapsed(), "a repin that did nothing");
        F::repin(&mut a);
    } else {
        // Each moves by itself; the second is in the way of what came after it.
        let later = f.domain().cookie();
        F::repin(&mut a);
        assert!(!later.is_elapsed(), "the second reader is alive");
        drop(b);
    }
    let again = || {
        f.drive();
        if !F::EXACT {
            F::repin(&mut a);
        }
    };
    until("repinned", again, || cookie.is_elapsed());
    held("the guard is still alive");
    drop(a);
    free();
    // Many, in an order of their own.
    let mut guards: Vec<_> = (0..50).map(|_| f.pin()).collect();
    let mut at = 7usize;
    while !guards.is_empty() {
        held("guards are alive");
        at = at.wrapping_mul(31).wrapping_add(11);
        drop(guards.swap_remove(at % guards.len()));
    }
    free();
}

pub(crate) fn waiting_for_oneself_panics<F: Flavour>() {
    let f = F::alone();
    let guard = f.pin();
    let panics = |body: &dyn Fn()| {
        let result = watched("waiting inside one's own section", || catch_unwind(AssertUnwindSafe(body)));
        message(result.expect_err("no panic"))
    };
    let cookie = f.domain().cookie();
    for text in [
        panics(&|| f.synchronize()),
        panics(&|| f.domain().synchronize()),
        panics(&|| f.domain().barrier()),
        panics(&|| cookie.wait()),
        panics(&|| {
            cookie.wait_timeout(Duration::from_secs(1));
        }),
    ] {
        assert!(text.contains("read-side section"), "{text}");
    }
    assert_eq!(f.domain().try_synchronize(), Err(InsideSection));
    assert!(InsideSection.to_string().contains("read-side section"));
    drop(guard);
    f.synchronize();
    f.domain().barrier();
    assert_eq!(f.domain().try_synchronize(), Ok(()));
}

pub(crate) fn barriers_in_deferred_functions_panic<F: Flavour>() {
    let f = F::alone();
    let before = f.domain().stats().kvfree.panics;
    let said = Arc::new(std::sync::Mutex::new(String::new()));
    let (reach, say) = (Reach(&f), Arc::clone(&said));
    f.domain().defer(move || {
        let reach = &reach;
        let payload = catch_unwind(AssertUnwindSafe(|| reach.get().domain().barrier())).expect_err("no panic");
        *say.lock().unwrap() = message(payload);
    });
    let reach = Reach(&f);
    f.domain().defer(move || {
        let reach = &reach;
        reach.get().domain().barrier();
    });
    let (reach, synchronized) = (Reach(&f), Arc::new(AtomicBool::new(false)));
    let done = Arc::clone(&synchronized);
    f.domain().defer(move || {
        let reach = &reach;
        reach.get().synchronize(); // outside sections, so this is possible
        done.store(true, SeqCst);
    });
    watched("a barrier beside deferred ones", || f.domain().barrier());
    assert_eq!(f.domain().stats().kvfree.panics, before + 1);
    assert!(said.lock().unwrap().contains("inside a deferred function"), "{}", said.lock().unwrap());
    assert!(synchronized.load(SeqCst));
}

struct Fragile(crate::objects::Object);
impl Drop for Fragile {
    fn drop(&mut self) {
        assert!(!self.0.id.is_multiple_of(7), "this destructor panics, as the test wants it to");
    }
}

pub(crate) fn panicking_destructors_stop_nothing<F: Flavour>() {
    let f = F::alone();
    let cache: Cache<Fragile> = Cache::new("contract-fragile");
    let before = f.domain().stats().kvfree.panics;
    let tally = Tally::new(70);
    for id in 0..70 {
        let object = Fragile(tally.object(id));
        match id % 3 {
            // SAFETY: fresh, known to nobody else.
            0 => unsafe { f.domain().retire(SlabBox::into_raw(cache.alloc(object))) },
            // SAFETY: fresh, known to nobody else.
            1 => unsafe { f.domain().retire_box(NonNull::from(Box::leak(Box::new(object)))) },
            _ => f.domain().defer(move || drop(object)),
        }
    }
    f.domain().barrier();
    tally.each_once();
    let s = f.domain().stats().kvfree;
    assert_eq!((s.panics - before, s.pending_objects), (10, 0));
    assert_eq!(cache.stats().live, 0, "the memory of a value whose destructor panicked is free, too");
}

pub(crate) fn threads_may_end_before_their_objects<F: Flavour>() {
    let f = F::alone();
    let tally = Tally::new(200);
    for id in 0..100 {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let guard = f.pin();
                retire(&f, tally.object(2 * id));
                drop(guard);
                retire(&f, tally.object(2 * id + 1));
            });
        });
    }
    until("all are freed", || f.drive(), || tally.dropped() == 200);
    f.domain().barrier();
    tally.each_once();
}

/// Runs a list of promises for one flavour, or makes tests of them.
macro_rules! promises {
    ($apply:ident) => {
        $apply! {
            waits_for_an_open_section,
            a_relay_of_sections_holds_nothing_up,
            cookies_elapse_once_and_for_all,
            deferred_functions_run_after,
            barriers_cover_everything,
            barriers_follow_destructors_that_retire,
            barriers_end_although_others_retire,
            values_are_dropped_once,
            retiring_inside_a_section,
            guards_drop_in_any_order,
            waiting_for_oneself_panics,
            barriers_in_deferred_functions_panic,
            panicking_destructors_stop_nothing,
            threads_may_end_before_their_objects,
        }
    };
}
pub(crate) use promises;

/// The same, for promises that only exact numbers keep.
macro_rules! exact_promises {
    ($apply:ident) => {
        $apply! {
            does_not_wait_for_later_sections,
        }
    };
}
pub(crate) use exact_promises;
