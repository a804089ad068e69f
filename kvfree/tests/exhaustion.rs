//! The reserve, its refill, and what happens when every page there can be is in use. The supply of pages is the process's, so
//! these tests take turns.

mod support;

use quietus_kvfree::{Config, Kvfree};
use quietus_slab::raw;
use quietus_slab::{Cache, SlabBox};
use support::pages::{Exhausted, no_worker, turn};
use support::{Instant_, Manual, Opens, Tally, retire, retire_bytes};

/// The pages that are there are used to the last slot; then heads are allocated. Nobody waits, and nothing is freed before its
/// grace period.
#[test]
fn pages_are_used_up_before_a_head_is_allocated() {
    let _turn = turn();
    let gp = Manual::default();
    let kvfree = Kvfree::new(gp.clone(), no_worker());
    let _opens = Opens(&gp);
    let tally = Tally::new(3000);
    let objects: Vec<_> = (0..3000).map(|id| SlabBox::into_raw(SlabBox::new(tally.object(id)))).collect();
    let exhausted = Exhausted::but(3);
    for (id, &p) in objects.iter().enumerate() {
        // SAFETY: fresh, known to nobody else.
        unsafe { kvfree.retire(p) };
        // Three blocks of 252 pairs each, at least one of which fills on this CPU.
        assert!(id >= 252 || kvfree.stats().links == 0, "object {id}");
    }
    let s = kvfree.stats();
    assert!(s.links >= 3000 - 3 * 252 && (s.inline_waits, s.leaked, s.pending_objects) == (0, 0, 3000), "{s:?}");
    kvfree.tick();
    assert_eq!(tally.dropped(), 0);
    drop(exhausted);
    gp.open();
    kvfree.barrier();
    tally.each_once();
    assert_eq!(kvfree.stats().pending_bytes, 0);
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
            exhausted.may_grow(true);
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
    let kvfree = Kvfree::new(gp.clone(), Config { reserve: 4, reserve_most: 4, ..Config::default() });
    let _opens = Opens(&gp);
    assert_eq!(kvfree.stats().reserve_blocks, 0, "it starts empty");
    for round in 1..=3 {
        // Made before: allocating gives pages back to the supply, too.
        let cache: Cache<[u64; 8]> = Cache::new("refill");
        let objects: Vec<_> = (0..20_000).map(|i| SlabBox::into_raw(cache.alloc([i; 8]))).collect();
        let exhausted = Exhausted::now(); // an empty supply ...
        exhausted.may_grow(true); // ... that can grow
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
    retire(&kvfree, tally.object(0)); // misses, and is queued by an allocated head
    kvfree.tick(); // the refill finds nothing
    let s = kvfree.stats();
    assert_eq!((s.refills, s.reserve_blocks, s.links), (1, 0, 1), "{s:?}");
    retire(&kvfree, tally.object(1));
    exhausted.may_grow(true);
    kvfree.tick();
    let s = kvfree.stats();
    assert_eq!((s.refills, s.reserve_blocks), (2, 3), "{s:?}");
    tally.each_once();
    drop(exhausted);
}
