//! Lines 3, 4, 5, 7 and 13 of S4: the reserve, its one refill at a time, its owner, its depth, and giving it back.

mod support;

use quietus_kvfree::{Config, Kvfree};
use quietus_slab::raw::BLOCK_BYTES;
use quietus_slab::{Cache, SlabBox, raw};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::time::Duration;
use support::machine::{Busy, Elsewhere, in_one_place};
use support::pages::{Exhausted, no_worker, turn};
use support::{Instant_, Manual, Opens, Stop, Tally, retire, until};

unsafe fn nothing(_: *mut u8) {}

/// So many deferred functions that do nothing: 252 of them fill a block, and none of them allocates or frees anything.
fn calls<G: quietus_kvfree::GracePeriods>(kvfree: &Kvfree<G>, n: usize) {
    // SAFETY: the function does nothing with its pointer.
    (0..n).for_each(|_| unsafe { kvfree.call(NonNull::dangling(), nothing, 0) });
}

const FILL: usize = 252;

/// A closed source: nothing is freed until it is opened.
fn closed(config: Config) -> (Kvfree<Manual>, Manual) {
    let gp = Manual::default();
    (Kvfree::new(gp.clone(), config), gp)
}

/// However many miss while a refill is on its way, it is one run; a miss after it has ended is the next.
#[test]
fn s4_3_simultaneous_misses_make_one_run() {
    let _turn = turn();
    let (kvfree, gp) = closed(Config { reserve: 2, reserve_most: 2, ..no_worker() });
    let _opens = Opens(&gp);
    let pages = Exhausted::now();
    pages.may_grow(true);
    const THREADS: usize = 8;
    for round in 1..=3 {
        let start = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    support::machine::pin(0); // one shelf, as far as there are CPUs
                    start.wait();
                    calls(&kvfree, 3 * FILL);
                });
            }
        });
        let s = kvfree.stats();
        // 24 blocks of calls: those that neither a reserve nor the supply had missed.
        assert!(s.from_fresh >= round * 10, "round {round}: {s:?}");
        let asked = s.refills;
        kvfree.tick();
        let runs = kvfree.stats().refills - asked;
        // One run for each shelf that missed: where there are no sequences, eight threads have several slots.
        let shelves = if quietus_slab::rseq_report().0 { 1 } else { u64::from(raw::regions()) };
        assert!((1..=shelves).contains(&runs), "round {round}: {runs} runs for {} misses", s.from_fresh);
        kvfree.tick();
        assert_eq!(kvfree.stats().refills, asked + runs, "round {round}: nobody has missed since");
        assert_eq!(kvfree.stats().windows, kvfree.stats().refills, "one window each");
    }
}

/// And the worker is woken for it once, by whoever was first.
#[test]
fn s4_3_simultaneous_misses_wake_the_worker_once() {
    let _turn = turn();
    const THREADS: usize = 8;
    let cache: Cache<[u64; 256]> = Cache::new("sixteen a block");
    let mut objects: Vec<_> = (0..THREADS as u64 * 48).map(|i| cache.alloc([i; 256])).collect();
    let kvfree = Kvfree::new(Instant_::default(), Config { reserve: 2, reserve_most: 2, ..Config::default() });
    let busy = Busy::new(&kvfree);
    let pages = Exhausted::now();
    pages.may_grow(true);
    let before = kvfree.stats();
    let start = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            let mine: Vec<_> = objects.split_off(objects.len() - 48);
            let (kvfree, start) = (&kvfree, &start);
            scope.spawn(move || {
                support::machine::pin(0);
                start.wait();
                // SAFETY: fresh, known to nobody else.
                mine.into_iter().for_each(|p| unsafe { kvfree.retire(SlabBox::into_raw(p)) });
            });
        }
    });
    let s = kvfree.stats();
    assert!(s.from_fresh - before.from_fresh > 8, "{s:?}");
    let wakes = s.worker_wakes - before.worker_wakes;
    let shelves = if quietus_slab::rseq_report().0 { 1 } else { u64::from(raw::regions()) };
    assert!((1..=shelves).contains(&wakes), "{wakes} wake-ups for {} misses", s.from_fresh - before.from_fresh);
    drop(busy);
    until("the run", || kvfree.stats().refills == before.refills + wakes);
    drop(pages);
    kvfree.barrier();
}

/// Miss, run, miss: no refill is lost for good, whichever moment it was asked for in. Run by two threads, so that misses meet the
/// end of the run.
#[test]
fn s4_3_the_miss_after_a_run_asks_again() {
    let _turn = turn();
    let (kvfree, gp) = closed(Config { reserve: 1, reserve_most: 1, ..no_worker() });
    let _opens = Opens(&gp);
    let mut pages = Exhausted::now();
    in_one_place(|| {
        for round in 1..=200 {
            pages.may_grow(true);
            pages.again();
            let before = kvfree.stats();
            // The reserve holds one at most: the second block is a miss.
            calls(&kvfree, 3 * FILL);
            let s = kvfree.stats();
            assert!(s.from_fresh + s.from_neighbour > before.from_fresh + before.from_neighbour, "round {round}");
            kvfree.tick();
            let s = kvfree.stats();
            assert_eq!(s.refills, before.refills + 1, "round {round}");
            assert_eq!(s.reserve_blocks, 1, "round {round}");
            pages.again();
        }
    });
    // Misses that race with runs: after the last of both, one more round is all that is ever needed.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                kvfree.tick();
            }
        });
        let _stop = Stop(&stop);
        for _ in 0..100 {
            calls(&kvfree, FILL);
            pages.again();
        }
    });
    let before = kvfree.stats().refills;
    pages.again();
    in_one_place(|| calls(&kvfree, 3 * FILL));
    kvfree.tick();
    assert!(kvfree.stats().refills > before, "a refill was lost for good");
}

/// Starts empty; what comes back and what a refill brings never exceeds the depth; the rest goes to the supply. 0 switches it off.
#[test]
fn s4_4_the_reserve_has_a_depth() {
    let _turn = turn();
    assert_eq!(Config::default().reserve, 5, "the default");
    for depth in [0, 1, 5] {
        in_one_place(|| {
            let (kvfree, gp) = closed(Config { reserve: depth, reserve_most: depth, ..no_worker() });
            let _opens = Opens(&gp);
            assert_eq!(kvfree.stats().reserve_blocks, 0, "it starts empty");
            assert_eq!(kvfree.stats().reserve_depth, depth);
            // What comes back: twelve blocks of one CPU.
            let mut pages = Exhausted::but(12);
            calls(&kvfree, 12 * FILL);
            assert_eq!((kvfree.stats().from_supply, kvfree.stats().reserve_blocks), (12, 0), "depth {depth}");
            kvfree.tick();
            let spare = raw::page_stats().spare;
            gp.open();
            kvfree.tick();
            let s = kvfree.stats();
            assert_eq!((s.pending_objects, s.reserve_blocks), (0, depth), "depth {depth}");
            assert_eq!(raw::page_stats().spare, spare + 12 - depth, "depth {depth}: surplus goes to the supply");
            // What a refill brings.
            pages.again();
            pages.may_grow(true);
            let refills = kvfree.stats().refills;
            calls(&kvfree, 12 * FILL);
            kvfree.tick();
            let s = kvfree.stats();
            assert_eq!((s.refills - refills > 0, s.reserve_blocks), (depth > 0, depth), "depth {depth}: {s:?}");
            pages.again();
            let spare = raw::page_stats().spare;
            drop(kvfree);
            assert!(raw::page_stats().spare >= spare + depth, "its end gives the reserve back");
        });
    }
}

/// A block opened here and emptied elsewhere comes back here, so that it is not a neighbour's who takes it next.
#[test]
fn s4_5_a_block_goes_back_to_its_owner() {
    let _turn = turn();
    in_one_place(|| {
        let Some(elsewhere) = Elsewhere::new() else { return };
        let gp = Manual::default();
        let kvfree = Arc::new(Kvfree::new(gp.clone(), Config { reserve: 2, reserve_most: 2, ..no_worker() }));
        let _opens = Opens(&gp);
        let mut pages = Exhausted::but(1);
        calls(&kvfree, 1);
        gp.open();
        let tick = |kvfree: Arc<Kvfree<Manual>>| elsewhere.run(move || kvfree.tick());
        assert!(!tick(Arc::clone(&kvfree)));
        let s = kvfree.stats();
        assert_eq!((s.reserve_blocks, s.from_supply), (1, 1), "{s:?}");
        pages.again();
        // Here it is one's own ...
        calls(&kvfree, 1);
        let s = kvfree.stats();
        assert_eq!((s.from_neighbour, s.from_supply, s.deferred + s.links), (0, 1, 0), "{s:?}");
        tick(Arc::clone(&kvfree));
        // ... and there it is a neighbour's.
        let there = Arc::clone(&kvfree);
        elsewhere.run(move || calls(&there, 1));
        let s = kvfree.stats();
        assert_eq!((s.from_neighbour, s.from_supply, s.links), (1, 1, 0), "{s:?}");
        kvfree.tick();
        // Whoever opens a block owns it: now it is at home there.
        let there = Arc::clone(&kvfree);
        elsewhere.run(move || calls(&there, 1));
        let s = kvfree.stats();
        assert_eq!((s.from_neighbour, s.links), (1, 0), "{s:?}");
        kvfree.tick();
    });
}

/// Drawback (a): a forced miss is a window that is counted and has a length; a steady load has none.
#[test]
fn s4_7_fallback_windows_are_counted_and_a_steady_load_has_none() {
    let _turn = turn();
    in_one_place(|| {
        let kvfree = Kvfree::new(Instant_::default(), no_worker());
        let pages = Exhausted::now();
        pages.may_grow(true);
        calls(&kvfree, 1); // a miss
        let s = kvfree.stats();
        assert_eq!((s.windows, s.from_fresh, s.fallbacks()), (0, 1, 1), "open: {s:?}");
        std::thread::sleep(Duration::from_millis(2));
        kvfree.tick();
        let s = kvfree.stats();
        assert_eq!(s.windows, 1);
        assert!(s.windows_total >= Duration::from_millis(2) && s.window_longest == s.windows_total, "{s:?}");
        drop(pages);
        // Warm, then steady: every lane, and whatever is freed comes back.
        let cache: Cache<[u64; 8]> = Cache::new("steady");
        let tally = Tally::new(120_000);
        let mut id = 0;
        let mut load = |rounds: usize| {
            for _ in 0..rounds {
                for _ in 0..100 {
                    // SAFETY: fresh, known to nobody else.
                    unsafe { kvfree.retire(SlabBox::into_raw(cache.alloc([0; 8]))) };
                    support::retire_bytes(&kvfree, 64);
                    support::retire_bytes(&kvfree, 2000);
                    retire(&kvfree, tally.object(id));
                    id += 1;
                }
                kvfree.tick();
            }
            (kvfree.stats().fallbacks(), kvfree.stats().windows)
        };
        let warm = load(200);
        assert_eq!(load(1000), warm, "fallbacks, windows: {:?}", kvfree.stats());
    });
}

/// Drawback (b): the depth follows the rate, up to its bound, and down again.
#[test]
fn s4_7_the_depth_follows_the_rate() {
    let _turn = turn();
    let age = Duration::from_millis(20);
    let kvfree = Kvfree::new(Manual::willing(), Config { age, reserve: 2, reserve_most: 12, ..Config::default() });
    assert_eq!(kvfree.stats().reserve_depth, 2);
    until("a high rate makes the reserve deep", || {
        calls(&kvfree, 40 * FILL);
        kvfree.stats().reserve_depth == 12
    });
    until("a low rate makes it shallow", || {
        calls(&kvfree, 1); // keeps the worker awake
        kvfree.stats().reserve_depth == 2
    });
    until("and it can rise again", || {
        calls(&kvfree, 40 * FILL);
        kvfree.stats().reserve_depth == 12
    });
}

/// Drawback (c): what is kept is counted in bytes, and goes back when nothing is pending.
#[test]
fn s4_7_an_idle_reserve_is_given_back() {
    let _turn = turn();
    let (kvfree, gp) = closed(Config { reserve: 4, reserve_most: 4, ..Config::default() });
    let _opens = Opens(&gp);
    let mut pages = Exhausted::now();
    pages.may_grow(true);
    until("a refill", || {
        calls(&kvfree, FILL);
        pages.again();
        kvfree.stats().refills > 0
    });
    // The source is closed, so that something is pending: the reserve stays.
    let s = kvfree.stats();
    let held = kvfree.reclaimable();
    assert!(s.pending_objects > 0 && s.reserve_blocks > 0, "{s:?}");
    assert!(held.reserve_bytes >= BLOCK_BYTES as u64 && held.reserve_bytes.is_multiple_of(BLOCK_BYTES as u64));
    gp.open();
    kvfree.flush();
    until("nothing is pending, and nothing kept", || {
        kvfree.stats().pending_objects == 0 && kvfree.reclaimable().reserve_bytes == 0
    });
    assert_eq!(kvfree.stats().reserve_blocks, 0);
}

/// The shrinker: says what is pending and what is kept; under pressure closes, frees, gives back, refills little; then recovers.
#[test]
fn s4_13_the_shrinker_gives_back_and_recovers() {
    let _turn = turn();
    in_one_place(|| {
        let backoff = Duration::from_secs(3600);
        let gp = Manual::default();
        let kvfree = Kvfree::new(gp.clone(), Config { reserve: 4, reserve_most: 4, backoff, ..no_worker() });
        let _opens = Opens(&gp);
        let cache: Cache<[u64; 8]> = Cache::new("shrunk");
        let objects: Vec<_> = (0..600).map(|i| SlabBox::into_raw(cache.alloc([i; 8]))).collect();
        let pages = Exhausted::now();
        pages.may_grow(true);
        calls(&kvfree, 1); // a miss
        kvfree.tick();
        // SAFETY: fresh, known to nobody else.
        objects.into_iter().for_each(|p| unsafe { kvfree.retire(p) });
        let there = kvfree.reclaimable();
        assert_eq!(there.pending_bytes, 600 * 64);
        assert_eq!(there.reserve_bytes, u64::from(kvfree.stats().reserve_blocks) * BLOCK_BYTES as u64);
        assert!(there.reserve_bytes > 0 && !kvfree.stats().backing_off);
        // Readers are in the way: the reserve goes, the blocks are closed, nothing is freed.
        let given = kvfree.relieve();
        let s = kvfree.stats();
        assert_eq!((given.pending_bytes, given.reserve_bytes), (0, there.reserve_bytes));
        assert_eq!((s.queued_objects, s.pending_objects, s.reserve_blocks), (601, 601, 0), "{s:?}");
        assert_eq!((s.backing_off, cache.stats().live), (true, 600));
        // They are gone: memory is freed here and now, though the function is left to a tick.
        gp.open();
        let given = kvfree.relieve();
        assert_eq!((given.pending_bytes, cache.stats().live), (600 * 64, 0));
        assert_eq!((kvfree.stats().pending_objects, kvfree.stats().calls_run), (1, 0));
        assert_eq!(kvfree.stats().reserve_blocks, 0);
    });
    // Under pressure a refill brings one block; afterwards as many as ever.
    for (backoff, blocks) in [(Duration::from_secs(3600), 1), (Duration::from_millis(1), 4)] {
        in_one_place(|| {
            let (kvfree, gp) = closed(Config { reserve: 4, reserve_most: 4, backoff, ..no_worker() });
            let _opens = Opens(&gp);
            kvfree.relieve();
            until("the back-off is over", || blocks == 1 || !kvfree.stats().backing_off);
            let pages = Exhausted::now();
            pages.may_grow(true);
            calls(&kvfree, 1); // a miss
            kvfree.tick();
            let s = kvfree.stats();
            assert_eq!((s.refills, s.reserve_blocks, s.backing_off), (1, blocks, blocks == 1), "{s:?}");
            drop(pages);
        });
    }
}
