//! Lines 2 and 6 of S4: the order of resort, each step by exhausting the one before; and refills that fail.

mod support;
#[path = "support/memory.rs"]
mod memory;

use memory::failing;
use quietus_kvfree::{Config, Kvfree, Stats};
use quietus_slab::{Cache, SlabBox};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use support::doors::{Door, House, live};
use support::machine::{Elsewhere, in_one_place};
use support::pages::{Exhausted, no_worker, turn};
use support::{Inside, Instant_, Manual, Object, Opens, Tally, retire, until};

/// 2 KiB: sixteen of them fill a block.
type Page = [u64; 256];
const FILL: usize = 16;

/// Blocks taken so far, by step: supply, neighbour, fresh, strays.
fn taken(s: &Stats) -> (u64, u64, u64, u64) {
    (s.from_supply, s.from_neighbour, s.from_fresh, s.strays)
}

/// What was done without a block: bits, heads, allocated heads, waits, leaks.
fn without(s: &Stats) -> (u64, u64, u64, u64, u64) {
    (s.deferred, s.linked, s.links, s.inline_waits, s.leaked)
}

/// Step after step for one cache, until there is no page; then nothing is missing.
#[test]
fn s4_2_each_step_follows_the_one_before() {
    let _turn = turn();
    in_one_place(|| {
        let gp = Manual::default();
        let kvfree = Arc::new(Kvfree::new(gp.clone(), Config { reserve: 1, reserve_most: 1, ..no_worker() }));
        let _opens = Opens(&gp);
        let cache: Cache<Page> = Cache::new("steps");
        let mut objects: Vec<_> = (0..10 * FILL).map(|i| SlabBox::into_raw(cache.alloc([i as u64; 256]))).collect();
        let mut some = |n: usize| {
            for p in objects.drain(..n) {
                // SAFETY: fresh, known to nobody else.
                unsafe { kvfree.retire(p) };
            }
            kvfree.stats()
        };
        // Two reserves with a block each: an emptied block goes back to the reserve of its opener.
        let elsewhere = Elsewhere::new();
        let small: Vec<_> = (0..2).map(|i| SlabBox::new([i; 8])).collect();
        let mut small = small.into_iter();
        let mut pages = Exhausted::but(2);
        // SAFETY: fresh, known to nobody else.
        let one = move |kvfree: &Kvfree<_>, p| unsafe { kvfree.retire::<[u64; 8]>(SlabBox::into_raw(p)) };
        one(&kvfree, small.next().unwrap());
        if let Some(elsewhere) = &elsewhere {
            let (kvfree, p) = (Arc::clone(&kvfree), small.next().unwrap());
            elsewhere.run(move || one(&kvfree, p));
        }
        kvfree.tick();
        gp.complete(gp.started());
        kvfree.tick();
        pages.again();
        let reserves = if elsewhere.is_some() { 2 } else { 1 };
        let s = kvfree.stats();
        assert_eq!((s.reserve_blocks, taken(&s)), (reserves, (u64::from(reserves), 0, 0, 0)), "{s:?}");
        pages.give(2);
        let before = taken(&s);
        let step = |s: &Stats| (taken(s).0 - before.0, taken(s).1, taken(s).2, taken(s).3);

        // 1. The cached block of this CPU, though the supply has two.
        let s = some(1);
        assert_eq!((s.reserve_blocks, step(&s)), (reserves - 1, (0, 0, 0, 0)), "{s:?}");
        // 0. Room in the open block: nothing is taken until it is full.
        let s = some(FILL - 1);
        assert_eq!((s.reserve_blocks, step(&s)), (reserves - 1, (0, 0, 0, 0)), "{s:?}");
        // 2. The supply, twice, though a neighbour has one.
        let s = some(FILL);
        assert_eq!(step(&s), (1, 0, 0, 0), "{s:?}");
        let s = some(FILL);
        assert_eq!(step(&s), (2, 0, 0, 0), "{s:?}");
        assert_eq!(s.reserve_blocks, reserves - 1, "{s:?}");
        // 3. The neighbour's, though the supply might grow.
        pages.may_grow(true);
        let neighbours = u64::from(reserves) - 1;
        if neighbours > 0 {
            let s = some(FILL);
            assert_eq!((s.reserve_blocks, step(&s)), (0, (2, 1, 0, 0)), "{s:?}");
        }
        // ... and a page never used before.
        let s = some(FILL);
        assert_eq!(step(&s), (2, neighbours, 1, 0), "{s:?}");
        assert_eq!(without(&s), (0, 0, 0, 0, 0), "{s:?}");
        // 4. The bitmap: no more pages.
        pages.may_grow(false);
        let s = some(FILL);
        assert_eq!(step(&s), (2, neighbours, 1, 0), "{s:?}");
        assert_eq!(without(&s), (FILL as u64, 0, 0, 0, 0), "{s:?}");
        // Nothing was freed, nothing is missing.
        let left = objects.len();
        assert_eq!(s.pending_objects + left as u64, 10 * FILL as u64, "{s:?}");
        assert_eq!(cache.stats().live, 10 * FILL as u64);
        drop(pages);
        gp.open();
        kvfree.barrier();
        assert_eq!(cache.stats().live, left as u64);
        assert_eq!((kvfree.stats().pending_objects, kvfree.stats().pending_bytes), (0, 0));
        // SAFETY: from `into_raw`, not retired.
        objects.into_iter().for_each(|p| drop(unsafe { SlabBox::from_raw(p) }));
    });
}

/// Which step serves what when there is no page, in order: a bit, the object's head, an allocated head, a wait, a leak.
#[test]
fn s4_2_without_a_page_each_kind_has_its_step() {
    let _turn = turn();
    for door in Door::ALL {
        // (Debug mode keeps boxes in a set, which allocates.)
        let kvfree = Kvfree::new(Manual::willing(), Config { debug: false, ..no_worker() });
        let (house, tally) = (House::new(), Tally::new(4));
        let all: Vec<_> = (0..4).map(|id| house.make(door, &tally, id)).collect();
        let exhausted = Exhausted::now();
        // SAFETY: made for the door.
        let retire = |id: usize| unsafe {
            house.retire(&kvfree, door, all[id]);
            without(&kvfree.stats())
        };
        use Door::*;
        let steps = match door {
            // A bit can stand for what its slab knows how to end. No allocator is asked, no head touched.
            Retire | RetireTyped | RetireTypedDrop | In | InDrop | Ptr | PtrLarge | Rcu | LinkedBare => {
                [(1, 0, 0, 0, 0), (2, 0, 0, 0, 0), (3, 0, 0, 0, 0)]
            }
            Linked | LinkedBox => [(0, 1, 0, 0, 0), (0, 2, 0, 0, 0), (0, 3, 0, 0, 0)],
            // A destructor that the slab does not know, a Box: a head is allocated; else one waits; else it is given up.
            RetireDrop | Boxed => [(0, 0, 1, 0, 0), (0, 0, 1, 1, 0), (0, 0, 1, 1, 1)],
        };
        assert_eq!(retire(0), steps[0], "{door:?}");
        assert_eq!(failing(|| retire(1)), steps[1], "{door:?}, outside, the allocator failing");
        let waited = steps[2].3 == 1;
        assert_eq!(tally.dropped(), usize::from(waited), "{door:?}: who waits has freed it");
        let inside = Inside::enter();
        assert_eq!(failing(|| retire(2)), steps[2], "{door:?}, inside, the allocator failing");
        drop(inside);
        let leaked = usize::from(steps[2].4 == 1);
        retire(3);
        drop(exhausted);
        kvfree.barrier();
        let s = kvfree.stats();
        assert_eq!((s.pending_objects, s.pending_bytes), (0, 0), "{door:?}: {s:?}");
        assert_eq!(tally.dropped(), if door.drops() { 4 - leaked } else { 0 }, "{door:?}");
        assert_eq!((house.plain.stats().live, house.dropped.stats().live), (0, 0), "{door:?}");
    }
}

/// A wait is a wait for a grace period: not over before it is.
#[test]
fn s4_2_who_waits_waits_for_a_grace_period() {
    let _turn = turn();
    let gp = Manual::default();
    let kvfree = Kvfree::new(gp.clone(), no_worker());
    let _opens = Opens(&gp);
    let tally = Tally::new(1);
    let object = SlabBox::into_raw(SlabBox::new(tally.object(0)));
    let object = object.as_ptr().addr();
    let exhausted = Exhausted::now();
    let returned = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let p = NonNull::new(std::ptr::with_exposed_provenance_mut::<Object>(object)).unwrap();
            // SAFETY: fresh, known to nobody else.
            failing(|| unsafe { kvfree.retire(p) });
            returned.store(true, SeqCst);
        });
        until("somebody waits for a grace period", || gp.started() > 0);
        assert!(!returned.load(SeqCst) && tally.dropped() == 0);
        gp.open();
    });
    assert_eq!(kvfree.stats().inline_waits, 1);
    tally.each_once();
    drop(exhausted);
}

/// Objects of every stride a cache can have, through the bitmap: each destructor finds its own object, each is freed as itself.
#[test]
fn s4_2_the_bitmap_gives_back_what_it_got() {
    let _turn = turn();
    let before = live();
    odd::<1>();
    odd::<3>();
    odd::<5>();
    odd::<7>();
    odd::<9>();
    odd::<100>();
    odd::<1001>();
    assert_eq!(live(), before);

    struct Odd<const N: usize>(#[allow(dead_code)] Object, [u64; N]); // dropped, not read
    fn odd<const N: usize>() {
        let kvfree = Kvfree::new(Manual::willing(), no_worker());
        let dropped: Cache<Odd<N>> = Cache::new("odd");
        let plain: Cache<[u64; N]> = Cache::new("odd, plain");
        let tally = Tally::new(300);
        let with = |id| Odd(tally.object(id), [id as u64; N]);
        let a: Vec<_> = (0..300).map(|id| SlabBox::into_raw(dropped.alloc(with(id)))).collect();
        let b: Vec<_> = (0..300).map(|id| SlabBox::into_raw(plain.alloc([id; N]))).collect();
        let exhausted = Exhausted::now();
        for (&a, &b) in a.iter().zip(&b) {
            // SAFETY: fresh, known to nobody else.
            unsafe {
                assert!(a.as_ref().1.iter().all(|&word| word < 300));
                kvfree.retire(a);
                kvfree.retire(b);
            }
        }
        assert_eq!(without(&kvfree.stats()), (600, 0, 0, 0, 0), "{N}");
        kvfree.barrier();
        tally.each_once();
        assert_eq!((dropped.stats().live, plain.stats().live), (0, 0), "{N}");
        assert_eq!(kvfree.stats().reclaimed_objects, 600, "{N}");
        drop(exhausted);
    }
}

/// A refill that finds no page says nothing to anybody but `stats`, stops no later one, and costs no object: each is freed once,
/// after its grace period.
#[test]
fn s4_6_a_failing_refill_is_silent_and_loses_nothing() {
    let _turn = turn();
    in_one_place(|| {
        let gp = Manual::default();
        let kvfree = Kvfree::new(gp.clone(), Config { reserve: 3, ..no_worker() });
        let _opens = Opens(&gp);
        let house = House::new();
        let tally = Tally::new(30 * Door::ALL.len());
        let mut id = 0..;
        let mut some = || {
            for _ in 0..10 {
                for door in Door::ALL {
                    // SAFETY: made for the door.
                    unsafe { house.retire(&kvfree, door, house.make(door, &tally, id.next().unwrap())) };
                }
            }
            kvfree.tick();
            kvfree.stats()
        };
        let exhausted = Exhausted::now();
        for round in 1..=2 {
            let s = some();
            assert_eq!((s.refills, s.reserve_blocks, s.windows), (round, 0, round), "a run, in vain: {s:?}");
            assert!(s.fallbacks() > 0 && s.leaked == 0, "{s:?}");
            assert_eq!((s.reclaimed_objects, tally.dropped()), (0, 0), "before their grace period");
        }
        exhausted.may_grow(true);
        // The next miss gets what it asks for.
        let s = some();
        assert_eq!((s.refills, s.reserve_blocks, s.leaked), (3, 3, 0), "{s:?}");
        gp.open();
        kvfree.barrier();
        drop(exhausted);
        assert_eq!(kvfree.stats().pending_objects, 0);
        assert_eq!(tally.dropped(), 30 * Door::ALL.into_iter().filter(|d| d.drops()).count());
        assert_eq!((house.plain.stats().live, house.dropped.stats().live), (0, 0));
    });
}

/// Retirers of values go on without pages, and without the global allocator they wait; nothing is lost.
#[test]
fn without_pages_and_memory_retirers_wait() {
    let _turn = turn();
    let kvfree = Kvfree::new(Instant_::default(), no_worker());
    let tally = Tally::new(1000);
    let all: Vec<_> = (0..1000).map(|id| SlabBox::into_raw(SlabBox::new(tally.object(id)))).collect();
    let exhausted = Exhausted::now();
    // SAFETY: fresh, known to nobody else.
    failing(|| all.iter().for_each(|&p| unsafe { kvfree.retire(p) }));
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

/// Inside a section nobody may wait: what finds neither page nor memory is given up, and counted; it is never freed too early.
#[test]
fn inside_a_section_objects_are_leaked_and_counted() {
    let _turn = turn();
    let kvfree = Kvfree::new(Instant_::default(), no_worker());
    let tally = Tally::new(10);
    let all: Vec<_> = (0..10).map(|id| SlabBox::into_raw(SlabBox::new(tally.object(id)))).collect();
    let exhausted = Exhausted::now();
    let inside = Inside::enter();
    // SAFETY: fresh, known to nobody else.
    failing(|| all.iter().for_each(|&p| unsafe { kvfree.retire(p) }));
    drop(inside);
    drop(exhausted);
    kvfree.barrier();
    let s = kvfree.stats();
    assert_eq!((s.leaked, s.inline_waits, s.pending_objects), (10, 0, 0), "{s:?}");
    assert_eq!(tally.dropped(), 0);
}
