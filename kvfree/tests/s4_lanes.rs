//! Lines 9 and 10 of S4: which lane takes what and how its blocks are freed; when blocks are closed.

mod support;

use quietus_kvfree::{Config, Kvfree};
use quietus_slab::{Cache, SlabBox, all_stats, usable_size};
use std::alloc::Layout;
use std::ptr::NonNull;
use std::time::Duration;
use support::doors::{Door, House};
use support::machine::in_one_place;
use support::pages::{no_worker, turn};
use support::{Manual, Object, Opens, Tally, pointer, retire, retire_bytes, until};

type Plain = [u64; 8];

fn closed(config: Config) -> (Kvfree<Manual>, Manual) {
    let gp = Manual::default();
    (Kvfree::new(gp.clone(), config), gp)
}

/// A cache's own lane: its blocks go to the barn whole, in the order in which they were filled, and no object is touched.
#[test]
fn s4_9_blocks_of_one_cache_go_to_the_barn_whole() {
    let _turn = turn();
    in_one_place(|| {
        let (kvfree, gp) = closed(no_worker());
        let _opens = Opens(&gp);
        let (plain, drops): (Cache<Plain>, Cache<(Object, [u64; 6])>) = (Cache::new("plain"), Cache::new("drops"));
        let tally = Tally::new(504);
        let a: Vec<_> = (0..504).map(|i| SlabBox::into_raw(plain.alloc([i; 8]))).collect();
        let b: Vec<_> = (0..504).map(|id| SlabBox::into_raw(drops.alloc((tally.object(id), [id as u64; 6])))).collect();
        // SAFETY: fresh, known to nobody else.
        unsafe {
            a.iter().for_each(|&p| kvfree.retire(p));
            b.iter().for_each(|&p| kvfree.retire(p));
        }
        let before = (plain.stats(), drops.stats());
        assert_eq!((before.0.live, before.1.live, kvfree.stats().pending_objects), (504, 504, 1008));
        gp.open();
        kvfree.tick();
        kvfree.tick();
        tally.each_once();
        assert_eq!(kvfree.stats().calls_run, 504, "only what has to be dropped is called");
        for (before, after) in [(before.0, plain.stats()), (before.1, drops.stats())] {
            let blocks = after.barn_put - before.barn_put;
            assert!((1..=2).contains(&blocks), "{blocks} blocks for 504 objects: {after:?}");
            assert_eq!((after.live, after.free_slow, after.flush), (0, before.free_slow, before.flush), "{after:?}");
        }
        // What was retired comes back: the barn's blocks serve the next.
        let again: Vec<_> = (0..504).map(|i| plain.alloc([i; 8])).collect();
        let old: std::collections::HashSet<_> = a.iter().map(|&p| pointer(p)).collect();
        let same = again.iter().filter(|b| old.contains(&std::ptr::from_ref::<Plain>(b).addr())).count();
        assert!(same > 250, "{same} of 504 places are used again");
        plain.free_bulk(again);
    });
}

/// The mixed lane: size classes up to 1 KiB share blocks, each of whose objects goes back to its own class.
#[test]
fn s4_9_mixed_blocks_are_freed_by_cache() {
    let _turn = turn();
    in_one_place(|| {
        let (kvfree, gp) = closed(no_worker());
        let _opens = Opens(&gp);
        let sizes = [16, 64, 100, 200, 400, 1000];
        let before: Vec<_> = all_stats().iter().map(|cache| (cache.name, cache.live)).collect();
        for i in 0..250 {
            retire_bytes(&kvfree, sizes[i % sizes.len()]);
        }
        let s = kvfree.stats();
        assert_eq!((s.from_supply + s.from_fresh, s.pending_objects), (1, 250), "one block for all: {s:?}");
        retire_bytes(&kvfree, 2000);
        let s = kvfree.stats();
        assert_eq!(s.from_supply + s.from_fresh, 2, "a class above has its own: {s:?}");
        gp.open();
        kvfree.tick();
        let s = kvfree.stats();
        assert_eq!((s.reclaimed_objects, s.pending_objects, s.calls_run), (251, 0, 0), "{s:?}");
        for now in all_stats().into_iter().filter(|cache| cache.name.starts_with("kmalloc-")) {
            // A class that was not there had no objects.
            let was = before.iter().find(|(name, _)| *name == now.name).map_or(0, |&(_, live)| live);
            assert_eq!(now.live, was, "{}", now.name);
        }
    });
}

/// The large lane: objects with a mapping of their own, each unmapped after its grace period, none before.
#[test]
fn s4_9_large_objects_are_unmapped_one_by_one() {
    let _turn = turn();
    in_one_place(|| {
        let (kvfree, gp) = closed(no_worker());
        let _opens = Opens(&gp);
        let layout = Layout::from_size_align(100_000, 16).unwrap();
        let all: Vec<NonNull<u8>> = (0..20).map(|_| quietus_slab::alloc(layout).unwrap()).collect();
        for &p in &all {
            // SAFETY: fresh, known to nobody else.
            unsafe {
                p.write_bytes(0x5a, 100_000);
                assert!(usable_size(p) >= 100_000);
                kvfree.retire_ptr(p);
            }
        }
        kvfree.tick();
        assert!(kvfree.stats().batches > 0);
        // SAFETY: nothing is freed before its grace period.
        assert!(all.iter().all(|&p| unsafe { p.add(99_999).read() } == 0x5a));
        assert!(all.iter().all(|&p| is_mapped(p) != Some(false)));
        gp.open();
        kvfree.tick();
        let s = kvfree.stats();
        assert_eq!((s.reclaimed_objects, s.pending_bytes, s.calls_run), (20, 0, 0), "{s:?}");
        assert!(all.iter().all(|&p| is_mapped(p) != Some(true)), "still mapped");
    });
}

/// Is there anything at this address? `None`: this system cannot say.
fn is_mapped(p: NonNull<u8>) -> Option<bool> {
    #[cfg(all(target_os = "linux", not(quietus_portable)))]
    {
        let page = (p.as_ptr().addr() + 50_000) & !4095;
        // SAFETY: asks about an address, and reads nothing there.
        Some(unsafe { libc::msync(std::ptr::without_provenance_mut(page), 4096, libc::MS_ASYNC) } == 0)
    }
    #[cfg(not(all(target_os = "linux", not(quietus_portable))))]
    {
        let _ = p;
        None
    }
}

/// The call lane: boxes, and values that their slab does not know how to drop, as pairs, 252 a block, each called once.
#[test]
fn s4_9_foreign_and_dropped_go_as_pairs() {
    let _turn = turn();
    in_one_place(|| {
        let (kvfree, gp) = closed(no_worker());
        let _opens = Opens(&gp);
        let (house, tally) = (House::new(), Tally::new(252));
        let doors = [Door::Boxed, Door::RetireDrop, Door::Linked, Door::LinkedBox];
        for id in 0..252 {
            let door = doors[id % doors.len()];
            // SAFETY: made for the door.
            unsafe { house.retire(&kvfree, door, house.make(door, &tally, id)) };
        }
        let s = kvfree.stats();
        assert_eq!((s.from_supply + s.from_fresh, s.batches, s.linked, s.links), (1, 0, 0, 0), "one block: {s:?}");
        gp.open();
        kvfree.tick();
        let s = kvfree.stats();
        assert_eq!((s.calls_run, s.reclaimed_objects, s.pending_objects), (252, 252, 0), "{s:?}");
        tally.each_once();
    });
}

/// Retirers run no user code: plain lanes are freed by those who retire, calls and destructors wait for a worker.
#[test]
fn s4_9_user_code_is_left_to_workers() {
    let _turn = turn();
    in_one_place(|| {
        let kvfree = Kvfree::new(Manual::willing(), Config { budget: 64 << 10, ..no_worker() });
        let (house, tally) = (House::new(), Tally::new(1200));
        for id in 0..1200 {
            // SAFETY: made for the doors.
            unsafe {
                house.retire(&kvfree, Door::InDrop, house.make(Door::InDrop, &tally, id));
                house.retire(&kvfree, Door::In, house.make(Door::In, &tally, id));
            }
        }
        let s = kvfree.stats();
        assert!(s.reclaimed_objects > 0 && s.helped > 0, "{s:?}");
        assert_eq!((tally.dropped(), s.calls_run), (0, 0), "{s:?}");
        kvfree.barrier();
        tally.each_once();
    });
}

/// By count: the object after the last slot closes the block, whatever its lane holds.
#[test]
fn s4_10_a_full_block_is_closed() {
    let _turn = turn();
    in_one_place(|| {
        let one = |kvfree: &Kvfree<Manual>, size| retire_bytes(kvfree, size);
        let call = |kvfree: &Kvfree<Manual>, _| kvfree.defer(|| ());
        type Retire<'a> = &'a dyn Fn(&Kvfree<Manual>, usize);
        // Mixed; classes of their own, by 32 KiB; pairs.
        let cases: [(usize, u64, Retire<'_>); 5] =
            [(64, 252, &one), (2048, 16, &one), (8192, 4, &one), (16384, 2, &one), (0, 252, &call)];
        for (size, slots, retire) in cases {
            let (kvfree, gp) = closed(no_worker());
            let _opens = Opens(&gp);
            for n in 1..=3 * slots {
                retire(&kvfree, size);
                // A full block is closed when the next object finds no room in it.
                let s = kvfree.stats();
                assert_eq!((s.batches, s.queued_objects), ((n - 1) / slots, (n - 1) / slots * slots), "{size}: {s:?}");
                assert_eq!(s.pending_objects, n, "{size}");
            }
        }
    });
}

/// By bytes: 64 KiB of heavy objects, 512 KiB of mappings, long before the slots are used up.
#[test]
fn s4_10_a_heavy_block_is_closed() {
    let _turn = turn();
    in_one_place(|| {
        unsafe fn nothing(_: *mut u8) {}
        let (kvfree, gp) = closed(no_worker());
        let _opens = Opens(&gp);
        // Pairs that say how much they stand for.
        for n in 1..=32 {
            // SAFETY: the function does nothing with its pointer.
            unsafe { kvfree.call(NonNull::dangling(), nothing, 8 << 10) };
            let s = kvfree.stats();
            assert_eq!((s.batches, s.queued_objects), (n / 8, n / 8 * 8), "{s:?}");
        }
        // Plain memory of a cache of values with a destructor, which shares the mixed lane.
        let cache: Cache<(Object, [u64; 1000])> = Cache::new("heavy");
        let tally = Tally::new(1);
        let before = kvfree.stats().batches;
        for _ in 0..20 {
            let p = SlabBox::into_raw(cache.alloc((tally.object(0), [0; 1000])));
            // SAFETY: fresh; its value is dropped here, its memory later.
            unsafe {
                p.drop_in_place();
                kvfree.retire_ptr(p.cast());
            }
        }
        assert_eq!(kvfree.stats().batches - before, 2, "twenty of 8 KiB: {:?}", kvfree.stats());
        // Mappings: 512 KiB of them.
        kvfree.tick();
        let before = kvfree.stats().batches;
        for n in 1..=12 {
            retire_bytes(&kvfree, 127 << 10);
            assert_eq!(kvfree.stats().batches - before, n / 5, "{n} of 127 KiB");
        }
    });
}

/// By age: a block that is neither full nor heavy is closed by the worker. Retiring on does not put it off, and it is the age of
/// its first object that counts.
#[test]
fn s4_10_an_old_block_is_closed() {
    let _turn = turn();
    let age = Duration::from_millis(20);
    let kvfree = Kvfree::new(Manual::willing(), Config { age, ..Config::default() });
    for round in 0..5 {
        let tally = Tally::new(1);
        let cache: Cache<Plain> = Cache::new("aged");
        retire(&kvfree, tally.object(0));
        // SAFETY: fresh, known to nobody else.
        unsafe { kvfree.retire(SlabBox::into_raw(cache.alloc([1; 8]))) };
        // So slowly that no block fills.
        let mut left = 240;
        until("the first is freed while others go on into its block", || {
            if left > 0 && round % 2 == 0 {
                left -= 1;
                kvfree.defer(|| ());
            }
            tally.dropped() == 1 && cache.stats().live == 0
        });
    }
    // And nothing but age closes it.
    let kvfree = Kvfree::new(Manual::willing(), Config { age: Duration::from_secs(3600), ..Config::default() });
    let tally = Tally::new(1);
    retire(&kvfree, tally.object(0));
    std::thread::sleep(Duration::from_millis(60));
    let s = kvfree.stats();
    assert_eq!((s.pending_objects, s.batches, tally.dropped()), (1, 0, 0), "{s:?}");
}
