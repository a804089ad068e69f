//! The reserve, its refill, and what happens when every page there can be is in use. The supply of pages is the process's, so
//! these tests take turns.

mod support;

use quietus_kvfree::{Config, Kvfree};
use quietus_slab::raw::{self, BlockNo};
use quietus_slab::{Cache, SlabBox};
use std::sync::{Mutex, MutexGuard};
use support::{Inside, Instant_, Manual, Opens, Tally, retire, retire_bytes, until};

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(|e| e.into_inner())
}

/// Every page there is; no more can be made while this lives.
struct Exhausted(Vec<BlockNo>);

impl Exhausted {
    fn now() -> Exhausted {
        raw::set_page_limit(Some(0));
        Exhausted(std::iter::from_fn(raw::try_page).collect())
    }
}
impl Drop for Exhausted {
    fn drop(&mut self) {
        raw::set_page_limit(None);
        self.0.drain(..).for_each(raw::put_page);
    }
}

fn no_worker() -> Config {
    Config { workers: false, ..Config::default() }
}

/// Outside sections a retirer without a page waits for a grace period; nothing is lost.
#[test]
fn without_pages_retirers_wait() {
    let _turn = turn();
    let kvfree = Kvfree::new(Instant_::default(), no_worker());
    let tally = Tally::new(1000);
    let exhausted = Exhausted::now();
    assert!(raw::page().is_none());
    for id in 0..1000 {
        retire(&kvfree, tally.object(id));
    }
    let s = kvfree.stats();
    assert_eq!((s.inline_waits, s.leaked, s.pending_objects), (1000, 0, 0), "{s:?}");
    tally.each_once();
    drop(exhausted);
    // And as before, as soon as there are pages.
    let tally = Tally::new(1000);
    (0..1000).for_each(|id| retire(&kvfree, tally.object(id)));
    assert_eq!(kvfree.stats().inline_waits, 1000);
    kvfree.barrier();
    tally.each_once();
}

/// The pages that are there are used to the last slot; then retirers wait, and nothing is freed before its grace period.
#[test]
fn pages_are_used_up_before_anybody_waits() {
    let _turn = turn();
    let gp = Manual::default();
    let kvfree = Kvfree::new(gp.clone(), no_worker());
    let _opens = Opens(&gp);
    let tally = Tally::new(3000);
    let mut exhausted = Exhausted::now();
    // Three pages: one open block, two more.
    while exhausted.0.len() < 3 {
        raw::set_page_limit(None);
        exhausted.0.push(raw::page().unwrap());
        raw::set_page_limit(Some(0));
    }
    exhausted.0.drain(..3).for_each(raw::put_page);
    let mut id = 0;
    std::thread::scope(|scope| {
        let waiter = {
            let (gp, kvfree) = (gp.clone(), &kvfree);
            // Three blocks of 252 pairs each, at least one of which fills on this CPU: no wait up to there.
            while id < 252 {
                retire(kvfree, tally.object(id));
                id += 1;
            }
            assert_eq!(kvfree.stats().inline_waits, 0);
            assert_eq!(tally.dropped(), 0);
            scope.spawn(move || {
                until("somebody waits for a grace period", || gp.started() > 0);
                std::thread::sleep(std::time::Duration::from_millis(20));
                gp.open();
            })
        };
        while id < 3000 {
            retire(&kvfree, tally.object(id));
            id += 1;
        }
        waiter.join().unwrap();
    });
    let s = kvfree.stats();
    assert!(s.inline_waits > 0 && s.leaked == 0, "{s:?}");
    drop(exhausted);
    kvfree.barrier();
    tally.each_once();
    assert_eq!(kvfree.stats().pending_bytes, 0);
}

/// Inside a section nobody may wait, so that what finds no page is given up, and counted; it is never freed too early.
#[test]
fn without_pages_inside_a_section_objects_are_leaked_and_counted() {
    let _turn = turn();
    let kvfree = Kvfree::new(Instant_::default(), no_worker());
    let tally = Tally::new(10);
    let exhausted = Exhausted::now();
    let inside = Inside::enter();
    for id in 0..10 {
        retire(&kvfree, tally.object(id));
    }
    drop(inside);
    drop(exhausted);
    kvfree.barrier();
    let s = kvfree.stats();
    assert_eq!((s.leaked, s.inline_waits, s.pending_objects), (10, 0, 0), "{s:?}");
    assert_eq!(tally.dropped(), 0);
}

/// The allocator goes on without pages: object by object.
#[test]
fn without_pages_caches_go_on() {
    let _turn = turn();
    let exhausted = Exhausted::now();
    let cache: Cache<[u64; 8]> = Cache::new("pageless");
    let held: Vec<_> = (0..3000).map(|i| cache.alloc([i; 8])).collect();
    assert!(held.iter().enumerate().all(|(i, b)| b.iter().all(|&w| w == i as u64)));
    cache.free_bulk(held);
    let held: Vec<SlabBox<_>> = (0..3000).map(|i| cache.alloc([i; 8])).collect();
    drop(held);
    cache.flush();
    assert_eq!(cache.stats().live, 0);
    drop(exhausted);
}

#[test]
fn the_reserve_never_exceeds_its_depth() {
    let _turn = turn();
    for depth in [0u32, 1, 7] {
        let kvfree = Kvfree::new(Instant_::default(), Config { reserve: depth, ..no_worker() });
        let most = depth * raw::regions();
        for round in 0..20 {
            let exhausted = Exhausted::now(); // misses ask for a refill
            raw::set_page_limit(None);
            for _ in 0..3000 {
                retire_bytes(&kvfree, 64);
            }
            drop(exhausted);
            kvfree.tick();
            kvfree.barrier();
            let s = kvfree.stats();
            assert!(s.reserve_blocks <= most, "round {round}: {s:?}");
            assert_eq!(s.refills > 0, depth > 0, "round {round}: {s:?}");
        }
        let kept = kvfree.stats().reserve_blocks;
        assert_eq!(kept > 0, depth > 0, "{kept} blocks in a reserve of depth {depth}");
        let before = raw::page_stats().spare;
        drop(kvfree);
        assert!(raw::page_stats().spare >= before + kept, "the reserve goes back to the supply");
    }
}

/// A miss asks the worker, which fills the reserve; the next miss asks again.
#[test]
fn the_worker_refills_after_a_miss() {
    let _turn = turn();
    let gp = Manual::default();
    let kvfree = Kvfree::new(gp.clone(), Config { reserve: 4, ..Config::default() });
    let _opens = Opens(&gp);
    assert_eq!(kvfree.stats().reserve_blocks, 0, "it starts empty");
    for round in 1..=3 {
        // Made before: allocating gives pages back to the supply, too.
        let cache: Cache<[u64; 8]> = Cache::new("refill");
        let objects: Vec<_> = (0..20_000).map(|i| SlabBox::into_raw(cache.alloc([i; 8]))).collect();
        let exhausted = Exhausted::now(); // an empty supply ...
        raw::set_page_limit(None); // ... that can grow
        let before = kvfree.stats();
        // Nothing comes back meanwhile: all grace periods are open. Whether a block comes fresh is open, too: the worker may be
        // faster.
        let mut objects = objects.into_iter();
        let refilled = objects.any(|p| {
            // SAFETY: nobody else knows it.
            unsafe { kvfree.retire(p) };
            kvfree.stats().refills > before.refills
        });
        objects.for_each(|p| {
            // SAFETY: from `into_raw`, not retired.
            drop(unsafe { SlabBox::from_raw(p) });
        });
        assert!(refilled, "round {round}: {:?}", kvfree.stats());
        assert!(round > 1 || kvfree.stats().from_fresh > 0, "the first block of all");
        assert!(kvfree.stats().reserve_blocks <= 4 * raw::regions(), "round {round}");
        drop(exhausted);
    }
    gp.open();
    kvfree.barrier();
    assert_eq!(kvfree.stats().pending_objects, 0);
}

/// Refills that find no page are silent, and do not stop the next.
#[test]
fn a_refill_that_fails_is_tried_again() {
    let _turn = turn();
    let kvfree = Kvfree::new(Instant_::default(), Config { reserve: 3, ..no_worker() });
    let tally = Tally::new(2);
    let exhausted = Exhausted::now();
    retire(&kvfree, tally.object(0)); // misses, waits inline
    kvfree.tick(); // the refill finds nothing
    let s = kvfree.stats();
    assert_eq!((s.refills, s.reserve_blocks, s.inline_waits), (1, 0, 1), "{s:?}");
    retire(&kvfree, tally.object(1));
    raw::set_page_limit(None);
    kvfree.tick();
    let s = kvfree.stats();
    assert_eq!((s.refills, s.reserve_blocks), (2, 3), "{s:?}");
    tally.each_once();
    drop(exhausted);
}
