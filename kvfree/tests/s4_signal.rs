//! Line 2 of S4 in signal handlers: the same steps up to the bitmap and the heads, no kick, no allocation, no wait.
#![cfg(target_os = "linux")]

#[path = "support/memory.rs"]
mod memory;
mod support;
#[path = "support/signals.rs"]
mod signals;

use quietus_kvfree::{Config, Kvfree};
use quietus_slab::{Cache, SlabBox};
use signals::{in_handler, interrupted};
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
    compiler_fence,
};
use support::doors::{Door, House};
use support::machine::{Busy, Watchdog, in_one_place};
use support::pages::{Exhausted, no_worker, turn};
use support::{Instant_, Manual, Opens, Tally, until};

fn constrained() -> impl Iterator<Item = Door> {
    Door::ALL.into_iter().filter(|door| door.is_constrained())
}

/// With pages everything goes into blocks; full ones are left to whoever comes next, and nothing is missing.
#[test]
fn s4_2_a_handler_fills_blocks_and_leaves_them() {
    let _turn = turn();
    in_one_place(|| {
        for door in constrained() {
            let gp = Manual::default();
            let kvfree = Kvfree::new(gp.clone(), no_worker());
            let _opens = Opens(&gp);
            let (house, tally) = (House::new(), Tally::new(1600));
            let all: Vec<_> = (0..1600).map(|id| house.make(door, &tally, id)).collect();
            let retired = &all[..1550];
            let (started, allocated) = (gp.started(), memory::calls());
            in_handler(|| {
                // SAFETY: made for the door.
                retired.iter().for_each(|&p| unsafe { house.retire_constrained(&kvfree, door, p) });
            });
            assert_eq!(memory::calls(), allocated, "{door:?}: a handler asked the global allocator");
            let s = kvfree.stats();
            assert_eq!((s.pending_objects, s.batches, s.leaked), (1550, 0, 0), "{door:?}: {s:?}");
            assert_eq!((s.deferred, s.linked, s.links, s.inline_waits), (0, 0, 0, 0), "{door:?}: {s:?}");
            assert_eq!(gp.started(), started, "{door:?}: nothing was queued");
            // Ordinary calls on, until one closes a block and takes the handler's with it.
            // SAFETY: made for the door.
            all[1550..].iter().for_each(|&p| unsafe { house.retire(&kvfree, door, p) });
            gp.open();
            kvfree.barrier();
            let s = kvfree.stats();
            assert_eq!((s.reclaimed_objects, s.pending_objects), (1600, 0), "{door:?}: {s:?}");
            assert_eq!(tally.dropped(), if door.drops() { 1600 } else { 0 }, "{door:?}");
        }
    });
}

/// Without pages: the bitmap, then the object's head; what has neither is given up and counted, since a handler may neither
/// allocate nor wait.
#[test]
fn s4_2_a_handler_without_pages_uses_bits_and_heads() {
    let _turn = turn();
    for door in constrained() {
        let gp = Manual::default();
        let kvfree = Kvfree::new(gp.clone(), no_worker());
        let _opens = Opens(&gp);
        let (house, tally) = (House::new(), Tally::new(10));
        let all: Vec<_> = (0..10).map(|id| house.make(door, &tally, id)).collect();
        let exhausted = Exhausted::now();
        let allocated = memory::calls();
        in_handler(|| {
            // SAFETY: made for the door.
            all.iter().for_each(|&p| unsafe { house.retire_constrained(&kvfree, door, p) });
        });
        assert_eq!(memory::calls(), allocated, "{door:?}: a handler asked the global allocator");
        let s = kvfree.stats();
        let expected = match door {
            Door::Linked => (0, 10, 0),
            Door::RetireDrop => (0, 0, 10),
            _ => (10, 0, 0),
        };
        assert_eq!((s.deferred, s.linked, s.leaked), expected, "{door:?}: {s:?}");
        assert_eq!((s.links, s.inline_waits), (0, 0), "{door:?}: {s:?}");
        drop(exhausted);
        gp.open();
        kvfree.barrier();
        let ends = if door.drops() { 10 - expected.2 as usize } else { 0 };
        assert_eq!((tally.dropped(), kvfree.stats().pending_objects), (ends, 0), "{door:?}");
    }
}

type Page = [u64; 256]; // sixteen a block

/// A handler that misses does not wake the worker; the next ordinary call that takes a block does, though it misses nothing.
#[test]
fn s4_2_the_kick_comes_with_the_next_ordinary_call() {
    let _turn = turn();
    in_one_place(|| {
        let kvfree = Kvfree::new(Instant_::default(), Config::default());
        let cache: Cache<Page> = Cache::new("kick");
        let objects: Vec<_> = (0..32).map(|i| SlabBox::into_raw(cache.alloc([i; 256]))).collect();
        let busy = Busy::new(&kvfree);
        let mut pages = Exhausted::now();
        pages.may_grow(true);
        let before = kvfree.stats();
        let wakes = || kvfree.stats().worker_wakes - before.worker_wakes;
        // SAFETY: fresh, known to nobody else.
        in_handler(|| objects[..16].iter().for_each(|&p| unsafe { kvfree.constrained().retire(p) }));
        let s = kvfree.stats();
        assert_eq!((s.from_fresh - before.from_fresh, wakes()), (1, 0), "a miss, and no kick: {s:?}");
        // The supply serves the next block, which is no miss.
        pages.again();
        pages.may_grow(false);
        pages.give(1);
        // SAFETY: fresh, known to nobody else.
        objects[16..].iter().for_each(|&p| unsafe { kvfree.retire(p) });
        let s = kvfree.stats();
        assert_eq!((s.from_supply - before.from_supply, s.from_fresh - before.from_fresh), (1, 1), "{s:?}");
        assert_eq!((wakes(), s.refills), (1, before.refills), "one kick: {s:?}");
        pages.may_grow(true);
        drop(busy);
        until("the refill", || kvfree.stats().refills == before.refills + 1);
        drop(pages);
        kvfree.barrier();
    });
}

/// And without any further call the worker finds it by itself, within the age limit.
#[test]
fn s4_2_the_kick_comes_by_the_age_limit() {
    let _turn = turn();
    in_one_place(|| {
        let gp = Manual::willing();
        let kvfree = Kvfree::new(gp.clone(), Config::default());
        let cache: Cache<Page> = Cache::new("age");
        let objects: Vec<_> = (0..16).map(|i| SlabBox::into_raw(cache.alloc([i; 256]))).collect();
        let busy = Busy::new(&kvfree);
        let pages = Exhausted::now();
        pages.may_grow(true);
        let before = kvfree.stats();
        // SAFETY: fresh, known to nobody else.
        in_handler(|| objects.iter().for_each(|&p| unsafe { kvfree.constrained().retire(p) }));
        let s = kvfree.stats();
        assert_eq!((s.from_fresh - before.from_fresh, s.refills - before.refills), (1, 0), "{s:?}");
        drop(busy);
        until("the refill that nobody has kicked", || kvfree.stats().refills == before.refills + 1);
        until("the handler's objects are free, by age", || cache.stats().live == 0);
        drop(pages);
    });
}

static KVFREE: OnceLock<Kvfree<Manual>> = OnceLock::new();
static HOUSE: OnceLock<House> = OnceLock::new();
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);
static RETIRED: AtomicUsize = AtomicUsize::new(0);
const STOCK: usize = 1024;
const STORM: [Door; 5] = [Door::In, Door::InDrop, Door::Linked, Door::Ptr, Door::RetireDrop];

thread_local! {
    /// The thread is putting something there; its handler keeps off.
    static FILLING: Cell<bool> = const { Cell::new(false) };
    static LEFT: Cell<usize> = const { Cell::new(0) };
    static OBJECTS: [Cell<*mut u8>; STOCK] = const { [const { Cell::new(std::ptr::null_mut()) }; STOCK] };
}

/// Object `i` of the stock is for door `i` of the storm, again and again.
fn retire_some() {
    INTERRUPTS.fetch_add(1, Relaxed);
    for _ in 0..40 {
        let left = LEFT.get();
        if FILLING.get() || left == 0 {
            return;
        }
        LEFT.set(left - 1);
        let p = NonNull::new(OBJECTS.with(|all| all[left - 1].get())).unwrap();
        // SAFETY: made for the door, given to the handler, known to nobody else.
        unsafe { HOUSE.get().unwrap().retire_constrained(KVFREE.get().unwrap(), STORM[(left - 1) % STORM.len()], p) };
        RETIRED.fetch_add(1, Relaxed);
    }
}

/// Handlers that retire wherever they meet their thread, which allocates, retires and frees the same kinds of objects.
#[test]
fn s4_2_handlers_retire_in_the_middle_of_everything() {
    let _turn = turn();
    let _watchdog = Watchdog::new("a handler waits for its own thread");
    let kvfree = KVFREE.get_or_init(|| Kvfree::new(Manual::willing(), Config::default()));
    let house = HOUSE.get_or_init(House::new);
    let tally = Tally::new(1); // counted by `stats`, not one by one
    let mut id = 0u64;
    // SAFETY: made for the door.
    let retire = |door, p| unsafe { house.retire(kvfree, door, p) };
    interrupted(retire_some, || {
        let mut round = 0;
        while INTERRUPTS.load(Relaxed) < 500 || RETIRED.load(Relaxed) < 5000 {
            round += 1;
            for i in 0..400 {
                let door = STORM[i % STORM.len()];
                let mut make = || {
                    id += 1;
                    house.make(door, &tally, 0)
                };
                retire(door, make());
                let p = make();
                FILLING.set(true);
                compiler_fence(SeqCst); // the handler is this thread
                let left = LEFT.get();
                let kept = left < STOCK && STORM[left % STORM.len()] == door;
                if kept {
                    OBJECTS.with(|all| all[left].set(p.as_ptr()));
                    LEFT.set(left + 1);
                }
                compiler_fence(SeqCst);
                FILLING.set(false);
                if !kept {
                    retire(door, p);
                }
            }
            if round % 16 == 0 {
                house.plain.flush();
                kvfree.flush();
            }
        }
        FILLING.set(true); // what is left is the thread's
    });
    for i in 0..LEFT.get() {
        retire(STORM[i % STORM.len()], OBJECTS.with(|all| NonNull::new(all[i].get()).unwrap()));
    }
    kvfree.barrier();
    let s = kvfree.stats();
    assert_eq!((s.pending_objects, s.pending_bytes, s.leaked, s.panics), (0, 0, 0, 0), "{s:?}");
    assert_eq!(s.reclaimed_objects, id, "each object once");
    assert_eq!((house.plain.stats().live, house.dropped.stats().live), (0, 0));
}
