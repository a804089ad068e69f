//! Memory that runs out, sources of pages, layouts that cannot be served, and iterators that misbehave.

use quietus_slab::{
    AllocError, BuildError, Cache, FailingSource, HeapSource, PageSource, SlabBox, all_stats, alloc, free, usable_size,
};
use std::alloc::Layout;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

type Big = [u64; 1024];
/// Objects of 8 KiB in a segment of 4 MiB, whose first slab of 64 holds the header.
const PER_SEGMENT: usize = 63 * 8;

fn source(allowance: isize) -> &'static FailingSource {
    Box::leak(Box::new(FailingSource::new(allowance)))
}

/// Allocates until memory is out even after flushes (which take back what other CPUs' blocks hold; several, because a thread that
/// moves while it allocates may leave its block behind once more). Each value that finds no memory must come back unchanged.
fn fill(cache: &Cache<Big>) -> Vec<SlabBox<Big>> {
    let mut held = Vec::new();
    let mut failures = 0;
    while failures < 5 {
        let n = held.len() as u64;
        match cache.try_alloc([n; 1024]) {
            Ok(b) => {
                held.push(b);
                failures = 0;
            }
            Err((value, AllocError)) => {
                assert!(value.iter().all(|&w| w == n), "the value did not come back as it was");
                failures += 1;
                cache.flush();
            }
        }
    }
    held
}

/// The n-th request for pages fails, for each n; nothing is lost and nothing leaks. A source keeps one free segment per process:
/// `shrink` gives back all others.
#[test]
fn each_mapping_fails_in_turn() {
    for allowance in 0..4usize {
        let source = source(allowance as isize);
        let cache: Cache<Big> = Cache::builder("failing").pages(source).build().unwrap();
        for _ in 0..2 {
            let held = fill(&cache);
            assert_eq!(held.len(), allowance * PER_SEGMENT);
            assert!(held.iter().enumerate().all(|(i, b)| b.iter().all(|&w| w == i as u64)));
            assert_eq!(cache.stats().live, held.len() as u64);
            assert!(source.counts().2 > 0);
            drop(held);
            assert_eq!(cache.stats().live, 0);
        }
        assert_eq!(source.counts().0, allowance, "memory was used again rather than mapped again");
        cache.shrink();
        let (maps, unmaps, _) = source.counts();
        assert_eq!(maps - unmaps, allowance.min(1), "mapped {maps}, unmapped {unmaps}");
        // It recovers when there is memory again.
        source.allow(isize::MAX);
        let again: Vec<_> = (0..PER_SEGMENT + 1).map(|i| cache.try_alloc([i as u64; 1024]).unwrap()).collect();
        drop(again);
        drop(cache);
        // A cache that is dropped leaves its segments to the source's others; any of them gives them back.
        let other: Cache<Big> = Cache::builder("failing-other").pages(source).build().unwrap();
        other.shrink();
        let (maps, unmaps, _) = source.counts();
        assert_eq!(maps - unmaps, 1, "mapped {maps}, unmapped {unmaps}");
    }
}

#[test]
fn bulk_allocation_stops_where_memory_does() {
    let cache: Cache<Big> = Cache::builder("bulk").pages(source(1)).build().unwrap();
    let mut out = Vec::new();
    let mut next = 0..;
    let error = cache.alloc_bulk(next.by_ref().take(10 * PER_SEGMENT).map(|i| [i; 1024]), &mut out).unwrap_err();
    assert_eq!(error.0[0], out.len() as u64, "the value that found no memory comes back");
    assert!(out.len() > PER_SEGMENT - 64 && out.len() <= PER_SEGMENT, "{}", out.len());
    assert!(out.iter().enumerate().all(|(i, b)| b[1023] == i as u64));
    cache.free_bulk(out);
    assert_eq!(cache.stats().live, 0);
}

/// Two sources of pages that have no size: their references may well be equal as addresses.
#[test]
fn sources_without_size_are_told_apart() {
    struct First;
    struct Second;
    static FIRST: AtomicUsize = AtomicUsize::new(0);
    static SECOND: AtomicUsize = AtomicUsize::new(0);
    // SAFETY: everything is `HeapSource`'s.
    unsafe impl PageSource for First {
        fn map(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
            FIRST.fetch_add(1, SeqCst);
            HeapSource.map(layout)
        }
        unsafe fn unmap(&self, range: NonNull<u8>, layout: Layout) {
            // SAFETY: the contract is the same.
            unsafe { HeapSource.unmap(range, layout) }
        }
    }
    // SAFETY: everything is `HeapSource`'s.
    unsafe impl PageSource for Second {
        fn map(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
            SECOND.fetch_add(1, SeqCst);
            HeapSource.map(layout)
        }
        unsafe fn unmap(&self, range: NonNull<u8>, layout: Layout) {
            // SAFETY: the contract is the same.
            unsafe { HeapSource.unmap(range, layout) }
        }
    }
    let first: Cache<u64> = Cache::builder("first").pages(&First).build().unwrap();
    let second: Cache<u64> = Cache::builder("second").pages(&Second).build().unwrap();
    let (a, b) = (first.alloc(1), second.alloc(2));
    assert_eq!((FIRST.load(SeqCst), SECOND.load(SeqCst)), (1, 1), "maps of each source");
    assert_eq!((*a, *b), (1, 2));
}

#[test]
fn caches_that_cannot_be_built_say_why() {
    #[repr(align(65536))]
    struct Aligned;
    let too_large = Cache::<[u8; 32769]>::builder("x").build().unwrap_err();
    assert_eq!(too_large, BuildError::TooLarge { size: 32769, align: 1 });
    let too_aligned = Cache::<Aligned>::builder("x").build().unwrap_err();
    assert_eq!(too_aligned, BuildError::TooLarge { size: 0, align: 65536 });
    assert_eq!(Cache::<u64>::builder("x").block_capacity(0).build().unwrap_err(), BuildError::Capacity(0));
    assert_eq!(Cache::<u64>::builder("x").block_capacity(505).build().unwrap_err(), BuildError::Capacity(505));
    for capacity in [1, 504] {
        let cache = Cache::<u64>::builder("x").block_capacity(capacity).build().unwrap();
        assert_eq!(cache.stats().block_capacity, capacity);
        let held: Vec<_> = (0..2000).map(|i| cache.alloc(i)).collect();
        assert!(held.iter().enumerate().all(|(i, b)| **b == i as u64));
    }
    let text = too_large.to_string();
    assert!(text.contains("32769") && text.contains("32768"), "{text}");
    assert!(BuildError::Capacity(505).to_string().contains("505"));
    assert!(BuildError::TooMany.to_string().contains("4095"));
    // The largest that can be.
    let cache: Cache<[u64; 4096]> = Cache::builder("largest").build().unwrap();
    let held: Vec<_> = (0..10).map(|i| cache.alloc([i; 4096])).collect();
    assert!(held.iter().enumerate().all(|(i, b)| b.iter().all(|&w| w == i as u64)));
}

#[test]
fn a_cache_in_a_new_that_cannot_be_built_panics_with_its_name() {
    let payload = catch_unwind(|| Cache::<[u8; 40000]>::new("elephants")).unwrap_err();
    let text = payload.downcast_ref::<String>().expect("a message");
    assert!(text.contains("elephants") && text.contains("40000"), "{text}");
}

#[test]
fn usable_sizes_hold_what_they_say() {
    for size in [0, 1, 15, 16, 17, 100, 128, 129, 1000, 1024, 1025, 32767, 32768, 32769, 65536, 1 << 20, (4 << 20) + 1]
    {
        for align in [1, 16, 64, 4096, 32768, 65536, 1 << 21] {
            let layout = Layout::from_size_align(size, align).unwrap();
            let p = alloc(layout).unwrap();
            assert_eq!(p.as_ptr().addr() % align, 0, "{layout:?}");
            // SAFETY: a live object.
            let usable = unsafe { usable_size(p) };
            assert!(usable >= size, "{layout:?}: {usable}");
            // SAFETY: `usable` bytes are ours; then the object is freed, and not used again.
            unsafe {
                p.write_bytes(0xa5, usable);
                free(p);
            }
        }
    }
}

#[test]
fn layouts_that_cannot_be_served_are_refused() {
    let most = isize::MAX as usize;
    for (size, align) in
        [(most, 1), (most - 4095, 4096), (most - (1 << 22), 16), (0, 1 << 22), (100, 1 << 30), (1 << 62, 1)]
    {
        let layout = Layout::from_size_align(size, align).unwrap();
        assert_eq!(alloc(layout), Err(AllocError), "{layout:?}");
    }
    // A value too large for its alignment comes back: over-aligned beyond what is served.
    #[repr(align(4194304))]
    struct Huge;
    // Such a value needs room on the stack, too.
    let refused = std::thread::Builder::new().stack_size(64 << 20).spawn(|| SlabBox::try_new(Huge).is_err()).unwrap();
    assert!(refused.join().unwrap());
}

/// What the iterator of `free_bulk` does is the user's: it uses the cache, and panics; everything handed over before is free.
#[test]
fn free_bulk_survives_its_iterator() {
    let cache: Cache<[u64; 8]> = Cache::new("iterator");
    let held: Vec<_> = (0..300).map(|i| cache.alloc([i; 8])).collect();
    let payload = catch_unwind(AssertUnwindSafe(|| {
        cache.free_bulk(held.into_iter().inspect(|b| {
            // Re-enters: singly and in bulk.
            drop(cache.alloc([0; 8]));
            let more: Vec<_> = (0..10).map(|i| cache.alloc([i; 8])).collect();
            cache.free_bulk(more);
            assert!(b[0] != 200, "the iterator gives up");
        }));
    }));
    assert!(payload.is_err());
    assert_eq!(cache.stats().live, 0, "nothing leaks, whether handed over or still in the iterator");
}

thread_local! {
    static DROPS: Cell<usize> = const { Cell::new(0) };
}

struct Fragile(usize);
impl Drop for Fragile {
    fn drop(&mut self) {
        DROPS.set(DROPS.get() + 1);
        assert!(self.0 != 100, "a destructor gives up");
    }
}

#[test]
fn free_bulk_survives_a_destructor() {
    let cache: Cache<Fragile> = Cache::new("fragile");
    let held: Vec<_> = (0..300).map(|i| cache.alloc(Fragile(i))).collect();
    assert!(catch_unwind(AssertUnwindSafe(|| cache.free_bulk(held))).is_err());
    assert_eq!(DROPS.get(), 300, "each value is dropped once");
    assert_eq!(cache.stats().live, 0, "and its memory is free");
    // The same for a single box.
    assert!(catch_unwind(AssertUnwindSafe(|| drop(cache.alloc(Fragile(100))))).is_err());
    assert_eq!(cache.stats().live, 0);
    assert_eq!(SlabBox::into_inner(SlabBox::new(String::from("moved out"))), "moved out");
}

/// Objects keep the cache that they came from; the last of them ends it.
#[test]
fn a_cache_outlives_its_handle() {
    let listed = |name| all_stats().iter().any(|s| s.name == name);
    let cache: Cache<[u64; 8]> = Cache::new("outlived");
    let mut held: Vec<_> = (0..3000).map(|i| cache.alloc([i; 8])).collect();
    held.drain(..1500);
    drop(cache);
    assert!(listed("outlived"));
    // Others come and go meanwhile, and do not get its memory.
    for round in 0..50 {
        let other: Cache<[u64; 8]> = Cache::new("other");
        let more: Vec<_> = (0..100).map(|_| other.alloc([u64::MAX - round; 8])).collect();
        drop(other);
        drop(more);
    }
    assert!(held.iter().enumerate().all(|(i, b)| b.iter().all(|&w| w == 1500 + i as u64)));
    let last = held.pop().unwrap();
    drop(held);
    assert!(listed("outlived"), "one object is left");
    drop(last);
    assert!(!listed("outlived"), "nothing is left of it");
    assert!(!listed("other"));
}

/// Numbers of caches are used again: many more caches than there can be at a time.
#[test]
fn caches_come_and_go() {
    for i in 0..10_000u64 {
        let cache: Cache<u64> = Cache::builder("brief").build().expect("a cache that is gone leaves nothing behind");
        let b = (i % 3 == 0).then(|| cache.alloc(i));
        drop(cache);
        assert!(b.is_none_or(|b| *b == i));
    }
    assert!(!all_stats().iter().any(|s| s.name == "brief"));
}
