//! Objects against grace periods: never freed before theirs, always after it, exactly once; and what the numbers say.

mod support;

use quietus_kvfree::{Config, Cookie, GracePeriods, Kvfree};
use quietus_slab::{Cache, POISON, SlabBox};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::{Duration, Instant};
use support::machine::{Watchdog, in_one_place};
use support::pages::{no_worker, turn};
use support::{Inside, Instant_, Manual, Opens, Stop, Tally, pointer, retire, retire_bytes, until};

#[test]
fn nothing_is_freed_before_its_grace_period() {
    let _turn = turn();
    let gp = Manual::default();
    let kvfree = Kvfree::new(gp.clone(), no_worker());
    let _opens = Opens(&gp);
    let cache: Cache<[u64; 8]> = Cache::builder("poisoned").poison(true).build().unwrap();
    let keep = cache.alloc([1; 8]); // keeps the slab mapped, so that freed objects can be looked at
    let tally = Tally::new(200);
    let mut plain = Vec::new();
    for id in 0..200 {
        retire(&kvfree, tally.object(id));
        let p = SlabBox::into_raw(cache.alloc([id as u64; 8]));
        plain.push(p);
        // SAFETY: nobody else knows it.
        unsafe { kvfree.retire(p) };
    }
    // SAFETY: the slabs are mapped as long as `keep` lives in one of their segment; no other thread uses the cache.
    let look = |p: NonNull<[u64; 8]>| unsafe { p.as_ptr().cast::<u64>().read_volatile() };
    for _ in 0..20 {
        assert!(kvfree.tick());
        assert_eq!(tally.dropped(), 0);
        assert!(plain.iter().enumerate().all(|(i, &p)| look(p) == i as u64), "freed too early");
    }
    let s = kvfree.stats();
    assert_eq!((s.pending_objects, s.reclaimed_objects), (400, 0));
    gp.complete(gp.started());
    assert!(!kvfree.tick());
    tally.each_once();
    assert!(plain.iter().all(|&p| look(p) == u64::from_ne_bytes([POISON; 8])), "not freed");
    let s = kvfree.stats();
    assert_eq!((s.pending_objects, s.pending_bytes, s.reclaimed_objects, s.leaked), (0, 0, 400, 0));
    assert_eq!(cache.stats().live, 1);
    drop(keep);
}

/// What is retired later waits for a later cookie.
#[test]
fn each_batch_waits_for_its_own_cookie() {
    let _turn = turn();
    let gp = Manual::default();
    let kvfree = Kvfree::new(gp.clone(), no_worker());
    let _opens = Opens(&gp);
    let (first, second) = (Tally::new(10), Tally::new(10));
    (0..10).for_each(|id| retire(&kvfree, first.object(id)));
    kvfree.tick();
    let early = gp.started();
    (0..10).for_each(|id| retire(&kvfree, second.object(id)));
    kvfree.tick();
    gp.complete(early);
    kvfree.tick();
    first.each_once();
    assert_eq!(second.dropped(), 0, "freed under an older cookie");
    gp.complete(gp.started());
    kvfree.tick();
    second.each_once();
}

/// An object is only ever freed under a cookie that was handed out after it was retired. Here one grace period ends at a time,
/// the oldest that is waited for, so that an object in a batch whose cookie is too old is freed while its own is still open.
#[test]
fn cookies_are_taken_after_what_they_cover() {
    struct Stamped {
        gp: Manual,
        stamp: u64,
        wrong: Arc<AtomicU64>,
        ends: Arc<AtomicU64>,
    }
    impl Drop for Stamped {
        fn drop(&mut self) {
            if self.gp.completed() <= self.stamp {
                self.wrong.fetch_add(1, Relaxed);
            }
            self.ends.fetch_add(1, Relaxed);
        }
    }
    let _turn = turn();
    let gp = Manual::default();
    let kvfree = Kvfree::new(gp.clone(), no_worker());
    let _opens = Opens(&gp);
    let (wrong, ends, begun) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let _stop = Stop(&stop);
                while !stop.load(Relaxed) {
                    // So many that blocks are closed by their retirers, too; so few that the oldest is never far.
                    if begun.load(Relaxed).saturating_sub(ends.load(Relaxed)) > 3000 {
                        std::thread::yield_now();
                        continue;
                    }
                    begun.fetch_add(1, Relaxed);
                    let (wrong, ends) = (Arc::clone(&wrong), Arc::clone(&ends));
                    retire(&kvfree, Stamped { gp: gp.clone(), stamp: gp.started(), wrong, ends });
                }
            });
        }
        let _stop = Stop(&stop);
        let end = Instant::now() + Duration::from_millis(1000);
        // A while, and until many have gone; whoever runs the tests ends it if they never do.
        while (Instant::now() < end || ends.load(Relaxed) <= 5000) && wrong.load(Relaxed) == 0 {
            kvfree.tick();
            gp.complete(gp.asked());
        }
    });
    assert_eq!(wrong.load(SeqCst), 0, "of {begun:?} objects freed under a cookie older than themselves");
    gp.open();
    kvfree.barrier();
    assert_eq!(ends.load(SeqCst), begun.load(SeqCst));
}

/// Says yes to the first look at each grace period, and no to the second: takes its word back.
struct Flaky {
    started: AtomicU64,
    liar: Arc<AtomicBool>,
    polled: AtomicU64,
}
// SAFETY: it breaks contract 3 on purpose; there are no sections, so that nothing could be freed too early.
unsafe impl GracePeriods for Flaky {
    fn start(&self) -> Cookie {
        Cookie(self.started.fetch_add(1, SeqCst) + 1)
    }
    fn poll(&self, _: Cookie) -> bool {
        !self.liar.load(SeqCst) || self.polled.fetch_add(1, SeqCst).is_multiple_of(2)
    }
    fn advance(&self, _: Cookie) -> bool {
        false
    }
    fn synchronize(&self, _: Cookie) {}
}

#[test]
fn a_grace_period_that_is_taken_back_leaks_and_says_so() {
    let _turn = turn();
    for calls in [false, true] {
        let liar = Arc::new(AtomicBool::new(true));
        let gp = Flaky { started: AtomicU64::new(0), liar: Arc::clone(&liar), polled: AtomicU64::new(0) };
        let kvfree = Kvfree::new(gp, no_worker());
        let cache: Cache<[u64; 8]> = Cache::builder("flaky").poison(true).build().unwrap();
        let tally = Tally::new(30);
        let plain: Vec<_> = (0..30).map(|i| SlabBox::into_raw(cache.alloc([i; 8]))).collect();
        for (id, &p) in plain.iter().enumerate() {
            if calls {
                retire(&kvfree, tally.object(id));
            } else {
                // SAFETY: nobody else knows it.
                unsafe { kvfree.retire(p) };
            }
        }
        kvfree.barrier();
        let s = kvfree.stats();
        assert_eq!((s.leaked, s.reclaimed_objects, s.calls_run), (30, 0, 0), "{s:?}");
        assert_eq!((s.pending_objects, s.pending_bytes), (0, 0), "what is leaked is not pending");
        assert_eq!(tally.dropped(), 0, "leaked, never freed");
        assert_eq!(cache.stats().live, 30);
        // SAFETY: leaked objects stay as they are for ever.
        assert!(plain.iter().enumerate().all(|(i, p)| unsafe { p.as_ref() } == &[i as u64; 8]));
        // The rest of its life is not affected.
        liar.store(false, SeqCst);
        let tally = Tally::new(20);
        (0..20).for_each(|id| retire(&kvfree, tally.object(id)));
        kvfree.barrier();
        tally.each_once();
        assert_eq!(kvfree.stats().leaked, 30);
    }
}

/// Each kind of lane, each size: freed once, and the bytes go up and down by what the objects occupy.
#[test]
fn bytes_and_objects_add_up() {
    let _turn = turn();
    let gp = Manual::default();
    let kvfree = Kvfree::new(gp.clone(), no_worker());
    let _opens = Opens(&gp);
    let cache: Cache<[u64; 100]> = Cache::new("typed"); // 800 bytes
    let tally = Tally::new(3);
    for _ in 0..700 {
        // SAFETY: nobody else knows it.
        unsafe { kvfree.retire(SlabBox::into_raw(cache.alloc([0; 100]))) };
    }
    for _ in 0..700 {
        retire_bytes(&kvfree, 64);
    }
    retire_bytes(&kvfree, 3000); // a class of its own: 3,072
    retire_bytes(&kvfree, 100_000); // large
    retire(&kvfree, tally.object(0)); // 16 bytes, with a destructor
    // SAFETY: a Box that nobody else knows.
    unsafe { kvfree.retire_box(NonNull::from(Box::leak(Box::new(tally.object(1))))) };
    let last = tally.object(2);
    kvfree.defer(move || drop(last)); // a Box of 16 bytes
    // Large objects are rounded up to what they map.
    let exact = 700 * 800 + 700 * 64 + 3072 + 3 * 16;
    let s = kvfree.stats();
    assert_eq!(s.pending_objects, 1405);
    let large = s.pending_bytes.checked_sub(exact).expect("bytes are missing");
    assert!((100_000..110_000).contains(&large), "{large} for the large object");
    assert!(!kvfree.tick() || kvfree.stats().pending_bytes == s.pending_bytes, "closing blocks changes nothing");
    gp.complete(gp.started());
    kvfree.tick();
    tally.each_once();
    let t = kvfree.stats();
    assert_eq!((t.pending_objects, t.pending_bytes), (0, 0));
    assert_eq!((t.queued_objects, t.reclaimed_objects, t.reclaimed_bytes), (1405, 1405, s.pending_bytes));
    assert_eq!((t.calls_run, t.panics, t.leaked), (3, 0, 0));
    assert!(t.peak_pending_bytes >= s.pending_bytes);
    assert_eq!(cache.stats().live, 0);
}

/// A block with more than 64 KiB in a few objects does not wait to fill; nor does one of large objects with 512 KiB.
#[test]
fn heavy_objects_close_their_block_at_once() {
    let _turn = turn();
    in_one_place(heavy_objects);
}

fn heavy_objects() {
    let gp = Manual::default();
    let kvfree = Kvfree::new(gp.clone(), no_worker());
    let _opens = Opens(&gp);
    // Two slots are the least a block has; 64 KiB close it before the third object comes.
    let kept = |kvfree: &Kvfree<Manual>| (kvfree.stats().batches, kvfree.stats().queued_objects);
    retire_bytes(&kvfree, 32 << 10);
    assert_eq!(kept(&kvfree), (0, 0));
    retire_bytes(&kvfree, 32 << 10);
    assert_eq!(kept(&kvfree), (1, 2), "the block was closed: {:?}", kvfree.stats());
    retire_bytes(&kvfree, 500 << 10);
    assert_eq!(kept(&kvfree), (1, 2));
    retire_bytes(&kvfree, 128 << 10);
    assert_eq!(kept(&kvfree), (2, 4), "the block was closed: {:?}", kvfree.stats());
    // The same for a call that says it stands for much.
    unsafe fn nothing(_: *mut u8) {}
    // SAFETY: the function does nothing with its pointer.
    unsafe { kvfree.call(NonNull::dangling(), nothing, 15) };
    assert_eq!(kvfree.stats().batches, 2);
    // SAFETY: as above.
    unsafe { kvfree.call(NonNull::dangling(), nothing, 128 << 10) };
    let s = kvfree.stats();
    assert_eq!((s.batches, s.queued_objects), (3, 6), "{s:?}");
    kvfree.grace_periods().open();
    kvfree.barrier();
    assert_eq!(kvfree.stats().pending_bytes, 0);
}

/// Above the budget, retirers help with what has elapsed ...
#[test]
fn retirers_help_with_what_has_elapsed() {
    let _turn = turn();
    let kvfree = Kvfree::new(Instant_::default(), Config { budget: 64 << 10, ..no_worker() });
    for _ in 0..5000 {
        retire_bytes(&kvfree, 1024);
    }
    let s = kvfree.stats();
    assert!(s.helped > 0 && s.reclaimed_objects > 3000, "{s:?}");
    assert!(s.pending_bytes < 2 << 20, "{s:?}");
}

/// ... and yield, a bounded number of times, while nothing has: a retire never waits.
#[test]
fn retirers_above_the_budget_yield_and_go_on() {
    let _turn = turn();
    let gp = Manual::default();
    let kvfree = Kvfree::new(gp.clone(), Config { budget: 64 << 10, ..no_worker() });
    let _opens = Opens(&gp);
    let _watchdog = Watchdog::new("a retirer waits");
    for _ in 0..2000 {
        retire_bytes(&kvfree, 1024);
    }
    let s = kvfree.stats();
    assert!(s.yields > 0 && s.yields <= 8 * s.batches, "{s:?}");
    assert_eq!((s.reclaimed_objects, s.pending_objects, s.inline_waits), (0, 2000, 0));
    // Below the budget, they do not.
    let gp = Manual::default();
    let calm = Kvfree::new(gp.clone(), no_worker());
    let _opens_too = Opens(&gp);
    for _ in 0..2000 {
        retire_bytes(&calm, 1024);
    }
    assert_eq!(calm.stats().yields, 0);
}

/// Helping runs no user code: destructors are for workers, ticks and barriers.
#[test]
fn retirers_run_no_destructors() {
    let _turn = turn();
    thread_local!(static RETIRING: Cell<bool> = const { Cell::new(false) });
    struct Shy(Arc<AtomicU64>);
    impl Drop for Shy {
        fn drop(&mut self) {
            self.0.fetch_add(u64::from(RETIRING.get()), SeqCst);
        }
    }
    let seen = Arc::new(AtomicU64::new(0));
    let kvfree = Kvfree::new(Instant_::default(), Config { budget: 1 << 10, ..no_worker() });
    RETIRING.set(true);
    for _ in 0..3000 {
        retire(&kvfree, Shy(Arc::clone(&seen)));
        retire_bytes(&kvfree, 1024);
    }
    RETIRING.set(false);
    assert_eq!(seen.load(SeqCst), 0);
    kvfree.barrier();
    assert_eq!(kvfree.stats().calls_run, 3000);
}

#[test]
fn the_worker_frees_by_age() {
    let _turn = turn();
    let kvfree = Kvfree::new(Instant_::default(), Config { age: Duration::from_millis(5), ..Config::default() });
    let tally = Tally::new(1);
    retire(&kvfree, tally.object(0));
    until("the worker frees by age", || tally.dropped() == 1);
    // And again after it has slept, which it does some time after that: sooner or later an object comes then.
    let mut pause = Duration::ZERO;
    until("it is woken again", || {
        retire_bytes(&kvfree, 64);
        until("the worker frees by age", || kvfree.stats().pending_objects == 0);
        pause += Duration::from_millis(5);
        std::thread::sleep(pause);
        kvfree.stats().worker_wakes >= 2
    });
}

/// Dropping the handle frees everything, with a worker and without.
#[test]
fn a_dropped_handle_leaves_nothing_pending() {
    let _turn = turn();
    for workers in [false, true] {
        let tally = Tally::new(2000);
        let cache: Cache<[u64; 8]> = Cache::new("handle");
        let kvfree = Kvfree::new(Manual::willing(), Config { workers, ..Config::default() });
        std::thread::scope(|scope| {
            for part in 0..2 {
                let (tally, cache, kvfree) = (&tally, &cache, &kvfree);
                scope.spawn(move || {
                    for id in 0..1000 {
                        retire(kvfree, tally.object(part * 1000 + id));
                        // SAFETY: nobody else knows it.
                        unsafe { kvfree.retire(SlabBox::into_raw(cache.alloc([7; 8]))) };
                    }
                });
            }
        });
        drop(kvfree);
        tally.each_once();
        assert_eq!(cache.stats().live, 0);
    }
}

/// Where dropping cannot wait, inside a section, it leaks rather than hang or free too early.
#[test]
fn a_handle_dropped_inside_a_section_leaks() {
    let _turn = turn();
    for workers in [false, true] {
        let gp = Manual::default();
        let tally = Tally::new(10);
        let kvfree = Kvfree::new(gp.clone(), Config { workers, ..Config::default() });
        let _opens = Opens(&gp);
        (0..10).for_each(|id| retire(&kvfree, tally.object(id)));
        let inside = Inside::enter();
        let _watchdog = Watchdog::new("a handle that is dropped inside a section");
        drop(kvfree);
        drop(inside);
        gp.open();
        assert_eq!(tally.dropped(), 0);
    }
}

/// The last handle may be inside one of its own deferred functions: what else is pending is leaked, and nothing hangs or panics.
#[test]
fn a_handle_dropped_by_its_own_function() {
    let _turn = turn();
    let kvfree = Arc::new(Kvfree::new(Instant_::default(), Config::default()));
    let (mine, done) = (Arc::clone(&kvfree), Arc::new(AtomicBool::new(false)));
    let told = Arc::clone(&done);
    kvfree.defer(move || {
        until("the other handle has gone", || Arc::strong_count(&mine) == 1);
        let result = catch_unwind(AssertUnwindSafe(|| drop(mine)));
        assert!(result.is_ok(), "dropping the handle panicked");
        told.store(true, SeqCst);
    });
    drop(kvfree);
    until("the function has dropped the last handle", || done.load(SeqCst));
}

#[test]
fn barriers_where_they_cannot_be() {
    let _turn = turn();
    let kvfree: &'static Kvfree<Instant_> =
        Box::leak(Box::new(Kvfree::new(Instant_::default(), Config { workers: true, ..Config::default() })));
    let text =
        |payload: Box<dyn std::any::Any + Send>| payload.downcast_ref::<&str>().map_or(String::new(), |s| (*s).into());
    let inside = Inside::enter();
    let panic = catch_unwind(AssertUnwindSafe(|| kvfree.barrier())).unwrap_err();
    assert!(text(panic).contains("read-side section"));
    drop(inside);
    let other: &'static Kvfree<Instant_> = Box::leak(Box::new(Kvfree::new(Instant_::default(), no_worker())));
    kvfree.defer(move || other.barrier()); // another's is fine
    kvfree.defer(|| kvfree.barrier());
    kvfree.barrier();
    let s = kvfree.stats();
    assert_eq!((s.calls_run, s.panics), (2, 1));
}

/// A barrier covers what destructors retire, and what those retire, a hundred deep.
#[test]
fn a_barrier_follows_chains_of_destructors() {
    let _turn = turn();
    struct Link {
        kvfree: &'static Kvfree<Manual>,
        tally: Arc<Tally>,
        id: usize,
    }
    impl Drop for Link {
        fn drop(&mut self) {
            drop(self.tally.object(self.id));
            if self.id > 0 {
                retire_bytes(self.kvfree, 64);
                retire(self.kvfree, Link { kvfree: self.kvfree, tally: Arc::clone(&self.tally), id: self.id - 1 });
            }
        }
    }
    for workers in [false, true] {
        let kvfree: &'static Kvfree<Manual> =
            Box::leak(Box::new(Kvfree::new(Manual::willing(), Config { workers, ..Config::default() })));
        let tally = Tally::new(100);
        retire(kvfree, Link { kvfree, tally: Arc::clone(&tally), id: 99 });
        kvfree.barrier();
        tally.each_once();
        assert_eq!(kvfree.stats().pending_objects, 0);
    }
}

/// A barrier ends although others go on retiring all the time.
#[test]
fn a_barrier_ends_under_load() {
    let _turn = turn();
    let kvfree = Kvfree::new(Manual::willing(), Config::default());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    kvfree.defer(|| ());
                }
            });
        }
        let _stop = Stop(&stop);
        let tally = Tally::new(100);
        for id in 0..100 {
            retire(&kvfree, tally.object(id));
        }
        let _watchdog = Watchdog::new("a barrier beside others that retire");
        kvfree.barrier();
        tally.each_once();
    });
}

/// The page of a block that was freed whole serves the cache: memory of retired objects is used again.
#[test]
fn retired_memory_is_used_again() {
    let _turn = turn();
    in_one_place(the_same_places);
}

fn the_same_places() {
    let kvfree = Kvfree::new(Instant_::default(), no_worker());
    let cache: Cache<[u64; 8]> = Cache::new("again");
    let mut seen = std::collections::HashSet::new();
    for _ in 0..50 {
        for _ in 0..1000 {
            let p = SlabBox::into_raw(cache.alloc([0; 8]));
            seen.insert(pointer(p));
            // SAFETY: nobody else knows it.
            unsafe { kvfree.retire(p) };
        }
        kvfree.barrier();
    }
    assert!(seen.len() < 6000, "{} places for 1,000 objects at a time", seen.len());
    assert_eq!(cache.stats().live, 0);
}
