//! Memory goes back to the system: the fullest slabs serve first, what is free long enough goes, and the process gets smaller.

mod support;

use quietus_slab::{AllocError, Cache, HeapSource, PageSource, SLAB_BYTES, SlabBox, reap};
use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use support::{Random, alone, stay};

/// 8 KiB: eight in a slab.
type Big = [u64; 1024];

fn slab_of(b: &SlabBox<Big>) -> usize {
    std::ptr::from_ref::<Big>(b).addr() / SLAB_BYTES
}

/// No blocks: every operation goes to the slabs.
fn direct(name: &'static str) -> Cache<Big> {
    Cache::builder(name).poison(true).build().unwrap()
}

/// So many rounds of the reaper.
fn rounds(n: usize) {
    for _ in 0..n {
        reap();
    }
}

/// The slab with the fewest free objects serves, whatever was freed last.
#[test]
fn the_fullest_slab_serves_first() {
    let _alone = alone();
    stay(); // on one node
    let cache = direct("fullest");
    let mut slabs: Vec<Vec<SlabBox<Big>>> = (0..3).map(|_| (0..8).map(|i| cache.alloc([i; 1024])).collect()).collect();
    assert!(slabs.iter().all(|slab| slab.iter().all(|b| slab_of(b) == slab_of(&slab[0]))));
    let which: Vec<usize> = slabs.iter().map(|slab| slab_of(&slab[0])).collect();
    for (slab, free) in [(1, 2), (2, 4), (0, 7)] {
        slabs[slab].truncate(8 - free);
    }
    let order: Vec<usize> = (0..13)
        .map(|_| {
            let b = cache.alloc([0; 1024]);
            let slab = slab_of(&b);
            slabs[0].push(b);
            slab
        })
        .collect();
    assert_eq!(order[..2], [which[1]; 2], "two were free there");
    assert_eq!(order[2..6], [which[2]; 4]);
    assert_eq!(order[6..], [which[0]; 7], "the emptiest last");
}

/// A program whose load falls and goes on at a quarter has, after a while, hardly more slabs than it needs.
#[test]
fn slabs_empty_under_a_steady_load() {
    let _alone = alone();
    stay();
    let cache = direct("falling");
    let mut random = Random(4711);
    let mut held: Vec<_> = (0..8 * 64).map(|i| cache.alloc([i; 1024])).collect();
    while held.len() > 8 * 16 {
        held.swap_remove(random.below(held.len() as u64) as usize);
    }
    assert!(cache.stats().slabs > 48, "scattered: {}", cache.stats().slabs);
    for _ in 0..4000 {
        held.swap_remove(random.below(held.len() as u64) as usize);
        held.push(cache.alloc([0; 1024]));
    }
    let slabs = cache.stats().slabs;
    assert!(slabs <= 26, "{slabs} slabs for what fits into 16");
}

/// Counts what it is asked to give back.
struct Counting {
    purged: AtomicUsize,
    unmapped: AtomicUsize,
}
static COUNTING: Counting = Counting { purged: AtomicUsize::new(0), unmapped: AtomicUsize::new(0) };

// SAFETY: everything is `HeapSource`'s; `purge` only counts.
unsafe impl PageSource for Counting {
    fn map(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        HeapSource.map(layout)
    }
    unsafe fn unmap(&self, range: NonNull<u8>, layout: Layout) {
        self.unmapped.fetch_add(1, Relaxed);
        // SAFETY: passed on.
        unsafe { HeapSource.unmap(range, layout) }
    }
    unsafe fn purge(&self, _: NonNull<u8>, size: usize) {
        self.purged.fetch_add(size, Relaxed);
    }
}

/// A free slab goes when it was free for a whole round, not before, and not if it was used in between; of whole segments one stays.
#[test]
fn free_slabs_decay() {
    let _alone = alone();
    stay();
    reap(); // CPUs that the process may not run on go down with the first round, and free slabs with them
    let counts = || (COUNTING.purged.load(Relaxed) / SLAB_BYTES, COUNTING.unmapped.load(Relaxed));
    let cache: Cache<Big> = Cache::builder("decays").pages(&COUNTING).poison(true).build().unwrap();
    let fill = |slabs: usize| (0..8 * slabs).map(|i| cache.alloc([i as u64; 1024])).collect::<Vec<_>>();
    let keep = fill(1);
    drop(fill(10));
    reap();
    assert_eq!((counts(), cache.stats().slabs), ((0, 0), 2), "they were free for no round yet; the cache keeps one");
    drop(fill(4)); // four are used again
    reap();
    assert_eq!(counts().0, 6, "those that were not");
    reap();
    reap();
    assert_eq!((counts().0, cache.stats().slabs), (10, 1), "the others by and by, the cache's own, too");
    assert_eq!(reap().bytes, 0, "nothing twice");
    // Three segments; one is in use.
    drop(fill(150));
    rounds(6);
    assert_eq!((counts().1, cache.stats().slabs), (1, 1), "one is kept for the next");
    drop(keep);
}

/// How many of these objects are in memory, as the system sees it. (Not what the process has in all: that is counted inexactly where there
/// are many CPUs, and others have their part in it.)
#[cfg(all(target_os = "linux", not(quietus_portable)))]
fn resident(objects: &[usize]) -> usize {
    // SAFETY: no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let is_there = |object: &&usize| {
        let (start, mut there) = (std::ptr::without_provenance_mut(*object & !(page - 1)), 0);
        // SAFETY: asks about an address, and reads nothing there; the answer is one byte, for one page. An error: nothing is mapped.
        unsafe { libc::mincore(start, page, &mut there) == 0 && there & 1 == 1 }
    };
    objects.iter().filter(is_there).count()
}

/// The system sees it: by the reaper, and by `shrink_all` from another thread than those that freed.
#[test]
#[cfg(all(target_os = "linux", not(quietus_portable)))]
fn the_process_gets_smaller() {
    let _alone = alone();
    const BYTES: usize = 96 << 20;
    let cache: Cache<Big> = Cache::new("resident");
    for round in 0..2 {
        let mut held: Vec<_> = (0..BYTES / 8192).map(|i| cache.alloc([i as u64; 1024])).collect();
        let objects: Vec<usize> = held.iter().map(|b| std::ptr::from_ref::<Big>(b).addr()).collect();
        let full = resident(&objects);
        assert!(full > objects.len() / 2, "{full} of {} were just written", objects.len());
        // Something stays in every segment: none of them can be unmapped.
        let mut free = Vec::new();
        for i in (0..held.len()).rev().filter(|i| i % 256 != 0) {
            free.push(held.swap_remove(i));
        }
        std::thread::scope(|scope| scope.spawn(|| drop(free)).join().unwrap());
        if round == 0 {
            rounds(6);
        } else {
            std::thread::scope(|scope| scope.spawn(quietus_slab::shrink_all).join().unwrap());
        }
        let after = resident(&objects);
        assert!(after < full / 2, "round {round}: {after} of {full} are still there");
    }
}
