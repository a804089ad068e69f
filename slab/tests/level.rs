//! Memory levels off, whoever allocates where and frees where: shapes of programs that other allocators grew under. Everything is counted
//! in slabs and blocks, nothing is timed.

mod support;

use quietus_slab::{Cache, Machine, SlabBox, Topology, page_stats, raw, reap};
use std::sync::mpsc::sync_channel;
use support::alone;

/// 1 KiB: 64 in a slab, 32 in a block.
type Object = [u64; 128];
const IN_SLAB: u32 = 64;

/// Slabs that blocks of CPUs and barns may keep: two blocks for each region, 4 MiB for each barn.
fn kept_at_most() -> u32 {
    (raw::regions() * 2 * 32).div_ceil(IN_SLAB) + 64
}

fn blocks_out() -> u32 {
    let s = page_stats();
    s.blocks - s.spare
}

/// Sixteen threads only allocate, and one only frees (mimalloc #1364). With 200 times as many objects as are ever out, a program that did
/// not get the memory back from where it is freed to where it is allocated would have 3,000 slabs.
#[test]
fn sixteen_producers_and_one_that_only_frees() {
    let _alone = alone();
    const EACH: u64 = 12_500;
    const QUEUED: usize = 1000;
    let cache: Cache<Object> = Cache::new("producers");
    let most = std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<SlabBox<Object>>(QUEUED);
        for me in 0..16 {
            let (sender, cache) = (sender.clone(), &cache);
            scope.spawn(move || (0..EACH).for_each(|i| sender.send(cache.alloc([me << 32 | i; 128])).unwrap()));
        }
        drop(sender);
        let (mut freed, mut most) = (0u64, 0);
        for object in receiver {
            assert_eq!(object[0], object[127]);
            drop(object);
            freed += 1;
            if freed % 500 == 0 {
                most = most.max(cache.stats().slabs);
            }
        }
        assert_eq!(freed, 16 * EACH);
        most
    });
    let bound = (QUEUED as u32 + 17).div_ceil(IN_SLAB) * 2 + kept_at_most();
    assert!(most <= bound, "{most} slabs, {bound} would do");
    assert_eq!(cache.stats().live, 0);
}

/// Threads that are on another CPU each time leave a little on each of 512, and no more: the second time round it is used again, and what is
/// not goes with the reaper.
#[test]
fn threads_that_wander_for_ever() {
    let _alone = alone();
    let m = Machine::simulated(Topology::grid(8, 64)).unwrap();
    let cache: Cache<Object> = Cache::builder("wanderers").machine(m).block_capacity(8).build().unwrap();
    let before = blocks_out();
    let (mut held, mut slabs): (Vec<SlabBox<Object>>, Vec<u32>) = (Vec::new(), Vec::new());
    for _lap in 0..6 {
        for cpu in 0..512 {
            m.run_on(cpu * 65); // another node, too: 65 and 512 have no common divisor
            held.extend((0..21).map(|i| cache.alloc([i; 128]))); // no multiple of a block: something is left
            held.drain(..held.len().saturating_sub(100)); // what others have allocated, far away
        }
        slabs.push(cache.stats().slabs);
    }
    assert!(cache.stats().in_cpu_blocks > 512, "a little on each");
    assert!(slabs.iter().all(|&n| n <= slabs[1] + 8), "the second lap finds what the first has left: {slabs:?}");
    assert!(slabs[5] <= 512 * 2 * 8 / IN_SLAB + 8 * 64 + 8, "{slabs:?}");
    (0..8).for_each(|_| assert!(reap().bytes < usize::MAX));
    let s = cache.stats();
    assert_eq!((s.in_cpu_blocks, s.in_barns, s.in_alien_blocks, s.live), (0, 0, 0, 100), "nothing is stranded");
    assert!(s.slabs <= 100, "{s:?}");
    drop(held);
    cache.destroy().unwrap();
    assert!(blocks_out() <= before + 8, "blocks were lost: {before} {}", blocks_out());
}

/// A thread for each task: nothing is a thread's own, so nothing is left of fifteen hundred of them.
#[test]
fn a_fresh_thread_for_each_task() {
    let _alone = alone();
    let cache: Cache<Object> = Cache::new("tasks");
    let mut left: Vec<SlabBox<Object>> = Vec::new();
    let mut blocks = 0;
    for task in 0..1500u64 {
        let object = std::thread::scope(|scope| {
            let work = || {
                let mut own: Vec<_> = (0..100).map(|i| cache.alloc([task + i; 128])).collect();
                left.clear(); // the last task's
                own.pop()
            };
            scope.spawn(work).join().unwrap()
        });
        left.extend(object);
        if task == 100 {
            blocks = blocks_out();
        }
    }
    let s = cache.stats();
    assert!(s.slabs <= kept_at_most() && s.live == 1, "{s:?}");
    assert!(blocks_out() <= blocks + 2 * raw::regions(), "blocks were lost: {blocks} {}", blocks_out());
    drop(left);
    cache.destroy().unwrap();
}
