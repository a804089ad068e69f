//! Bad input, lines 3 and 4: what debugging and hardened caches find, and what they do about it.

mod support;

use quietus_kvfree::{Config, Cookie, GracePeriods, Kvfree};
use quietus_slab::{
    Cache, Corruption, DebugFlags, Fault, POISON_END, POISON_FREE, SLAB_BYTES, Side, SlabBox, Unchainable, free,
    free_bulk, on_corruption,
};
use std::backtrace::BacktraceStatus;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};
use support::alone;

static FOUND: Mutex<Vec<Corruption>> = Mutex::new(Vec::new());

/// Alone, with reports collected.
struct Reports(#[allow(dead_code)] MutexGuard<'static, ()>);

fn reports() -> Reports {
    let reports = Reports(alone());
    FOUND.lock().unwrap().clear();
    on_corruption(Some(|corruption| FOUND.lock().unwrap().push(corruption.clone())));
    reports
}

impl Reports {
    /// What was found since the last call.
    fn take(&self) -> Vec<Corruption> {
        std::mem::take(&mut FOUND.lock().unwrap())
    }
    /// The one thing that was found.
    fn one(&self) -> Corruption {
        let mut all = self.take();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }
    fn none(&self) {
        assert!(self.take().is_empty());
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        on_corruption(None);
    }
}

fn debug<T>(name: &'static str, flags: DebugFlags) -> Cache<T> {
    Cache::builder(name).debug(flags).build().unwrap()
}

fn hardened<T>(name: &'static str) -> Cache<T> {
    Cache::builder(name).hardened(true).build().unwrap()
}

fn raw<T>(b: SlabBox<T>) -> *mut T {
    SlabBox::into_raw(b).as_ptr()
}

type Object = [u8; 13];

#[test]
fn b_3_foreign_addresses_are_reported_and_left_alone() {
    let reports = reports();
    for cache in [debug::<[u64; 4]>("foreign", DebugFlags::CONSISTENCY), hardened("foreign")] {
        let mine = raw(cache.alloc([1; 4]));
        let mut local = [2u64; 4];
        let boxed = Box::into_raw(Box::new([3u64; 4]));
        let large = quietus_slab::alloc(std::alloc::Layout::new::<[u64; 100_000]>()).unwrap();
        // Beside this one there are no descriptors, and the addresses around it are not the allocator's.
        let small = quietus_slab::alloc(std::alloc::Layout::new::<[u8; 40_000]>()).unwrap();
        // SAFETY: live, and of that size.
        unsafe { small.write_bytes(0xff, 40_000) };
        let beside = (small.as_ptr().addr() & !((4 << 20) - 1)) + 5 * SLAB_BYTES;
        let segment = mine.addr() & !((4 << 20) - 1);
        let at = |address: usize| std::ptr::with_exposed_provenance_mut(address);
        let foreign = [
            &raw mut local,
            boxed,
            large.as_ptr().cast(),
            small.as_ptr().cast(),
            at(beside),
            at(8),
            at(usize::MAX & !7),
            at(segment),                   // descriptors
            at(segment - 4096),            // before them
            at(segment + 63 * SLAB_BYTES), // a slab that is in nobody's hands
        ];
        for p in foreign {
            // SAFETY: a checked cache.
            unsafe { cache.free(p) };
            let found = reports.one();
            assert_eq!((found.cache, found.address, found.fault), ("foreign", p.addr(), Fault::Foreign));
        }
        // SAFETY: both are live, and freed once.
        unsafe {
            assert_eq!((*boxed, local, *mine), ([3; 4], [2; 4], [1; 4]));
            drop(Box::from_raw(boxed));
            free(large);
            free(small);
            cache.free(mine);
        }
        let s = cache.stats();
        assert_eq!((s.live, s.refused, s.corruptions, s.slabs_frozen), (0, 10, 10, 0));
    }
    reports.none();
}

#[test]
fn b_3_interior_addresses_are_reported_and_left_alone() {
    let reports = reports();
    for cache in [debug::<[u64; 4]>("interior", DebugFlags::ALL), hardened("interior")] {
        let p = raw(cache.alloc([5; 4]));
        for offset in [1, 8, 31] {
            let inside = p.cast::<u8>().wrapping_add(offset);
            // By handle, by address, and in bulk.
            // SAFETY: of a checked cache.
            unsafe {
                cache.free(inside.cast());
                free(NonNull::new_unchecked(inside));
                free_bulk(&[inside]);
            }
            let found = reports.take();
            assert_eq!(found.len(), 3);
            for found in found {
                let fault = Fault::Interior { object: p.addr() };
                assert_eq!((found.cache, found.address, found.fault), ("interior", inside.addr(), fault));
                assert_eq!(found.allocated.is_some(), cache.debug_flags().contains(DebugFlags::OWNERS));
            }
        }
        // SAFETY: still live, then freed once.
        unsafe {
            assert_eq!(*p, [5; 4]);
            cache.free(p);
        }
        assert_eq!(cache.stats().live, 0);
    }
    reports.none();
}

#[test]
fn b_4_a_second_free_is_reported_and_nothing_is_done() {
    let reports = reports();
    for cache in [debug::<[u64; 4]>("double", DebugFlags::ALL), debug("double", DebugFlags::OWNERS), hardened("double")]
    {
        let keep = cache.alloc([1; 4]);
        let p = raw(cache.alloc([2; 4]));
        // SAFETY: live; the further frees are of a checked cache.
        unsafe {
            cache.free(p);
            reports.none();
            cache.free(p);
            free(NonNull::new_unchecked(p.cast()));
            free_bulk(&[p.cast()]);
            drop(SlabBox::from_raw(NonNull::new_unchecked(p)));
        }
        let found = reports.take();
        assert_eq!(found.len(), 4);
        assert!(found.iter().all(|f| (f.cache, f.address, f.fault) == ("double", p.addr(), Fault::DoubleFree)));
        // It is there once.
        let more: Vec<_> = (0..3000).map(|i| cache.alloc([i; 4])).collect();
        assert!((0..).zip(&more).all(|(i, b)| **b == [i; 4]) && keep[0] == 1);
        drop(more);
        let s = cache.stats();
        assert_eq!((s.live, s.refused, s.slabs_frozen), (1, 4, 0));
        drop(keep);
        // In a slab that is the cache's no more.
        cache.shrink();
        // SAFETY: of a checked cache.
        unsafe { cache.free(p) };
        assert_eq!(reports.one().fault, Fault::DoubleFree);
    }
    reports.none();
}

/// Two threads free the same object at the same time, many times: one of them is refused.
#[test]
fn b_4_of_two_who_free_at_once_one_is_refused() {
    let reports = reports();
    for cache in [debug::<[u64; 4]>("race", DebugFlags::CONSISTENCY | DebugFlags::POISON), hardened("race")] {
        let _keep = cache.alloc([0; 4]);
        for _ in 0..300 {
            let p = raw(cache.alloc([1; 4])).expose_provenance();
            let barrier = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        barrier.wait();
                        // SAFETY: of a checked cache; nobody uses it any more.
                        unsafe { cache.free(std::ptr::with_exposed_provenance_mut(p)) };
                    });
                }
            });
            assert_eq!(reports.one().fault, Fault::DoubleFree);
        }
        let s = cache.stats();
        assert_eq!((s.live, s.slabs_frozen), (1, 0));
    }
}

#[test]
fn b_4_an_object_of_another_cache_is_reported_and_leaked() {
    let reports = reports();
    let other: Cache<[u64; 4]> = Cache::new("other");
    for cache in [debug::<[u64; 4]>("wrong", DebugFlags::CONSISTENCY), hardened("wrong")] {
        let mine = raw(cache.alloc([1; 4]));
        let p = raw(other.alloc([2; 4]));
        let live = other.stats().live;
        // SAFETY: of a checked cache.
        unsafe { cache.free(p) };
        let found = reports.one();
        assert_eq!((found.cache, found.address), ("wrong", p.addr()));
        assert_eq!(found.fault, Fault::WrongCache { owner: "other" });
        assert!(found.to_string().contains("other"));
        assert_eq!((other.stats().live, cache.stats().live), (live, 1), "leaked");
        // SAFETY: leaked, so still live.
        assert_eq!(unsafe { *p }, [2; 4]);
        // A cache that is not checked frees by address.
        // SAFETY: both are live.
        unsafe {
            other.free(mine);
            other.free(p);
        }
        assert_eq!((other.stats().live, cache.stats().live), (live - 1, 0));
    }
    reports.none();
}

/// A byte on either side is written to: found by the free, and the slab is used no more; the other objects in it stay as they are.
#[test]
fn b_4_red_zones() {
    let reports = reports();
    for (offset, side) in [(-1isize, Side::Left), (-8, Side::Left), (13, Side::Right), (20, Side::Right)] {
        let cache = debug::<Object>("zones", DebugFlags::RED_ZONES | DebugFlags::OWNERS);
        let mut others = vec![cache.alloc([0; 13])];
        // The slab is partial in two cases, full in two.
        let more = if offset == -1 || offset == 13 { 9 } else { cache.stats().objects as usize - 2 };
        others.extend((0..more).map(|i| cache.alloc([i as u8; 13])));
        let p = raw(cache.alloc([99; 13]));
        // SAFETY: outside the object, in memory of its slab that nothing else is in.
        unsafe { p.cast::<u8>().wrapping_offset(offset).write(7) };
        reports.none();
        // SAFETY: live.
        unsafe { cache.free(p) };
        let found = reports.one();
        assert_eq!((found.cache, found.address, found.object_bytes), ("zones", p.addr(), 13));
        assert_eq!(found.fault, Fault::RedZone { side, offset, expected: 0xcc, found: 7 });
        assert!(found.froze_slab() && found.allocated.is_some() && found.freed.is_none() && found.now.is_some());
        let s = cache.stats();
        assert_eq!((s.slabs_frozen, s.slabs, s.corruptions), (1, 0, 1));
        // The next ones come from elsewhere; those in the frozen slab are good until they are freed, and nothing is used again.
        let slab = |p: *const Object| p.addr() / SLAB_BYTES;
        let next = cache.alloc([1; 13]);
        assert_ne!(slab(&raw const *next), slab(p));
        assert!(others[1..].iter().enumerate().all(|(i, b)| **b == [i as u8; 13]));
        let again = raw(others.pop().unwrap());
        drop(others);
        // SAFETY: live; then once more, of a checked cache, as for the object that was found.
        unsafe {
            cache.free(again);
            reports.none();
            cache.free(again);
            assert_eq!(reports.one().fault, Fault::DoubleFree);
            cache.free(p);
            assert_eq!(reports.one().fault, Fault::DoubleFree);
        }
        let more: Vec<_> = (0..3000u32).map(|_| cache.alloc([2; 13])).collect();
        assert!(more.iter().all(|b| slab(&raw const **b) != slab(p)));
        drop((more, next));
        reports.none();
        cache.destroy().expect("what is frozen is not counted");
    }
}

/// What nobody allocates again is looked at when its slab goes.
#[test]
fn b_4_a_slab_that_goes_is_looked_at() {
    let reports = reports();
    for (flags, offset) in [(DebugFlags::POISON, 5), (DebugFlags::RED_ZONES, 13), (DebugFlags::ALL, 12)] {
        for shrink in [true, false] {
            let cache = debug::<Object>("goes", flags);
            let p = raw(cache.alloc([0; 13])).cast::<u8>();
            // SAFETY: a live object of 13 bytes and the zone behind it; then a free one, whose slab the cache keeps.
            unsafe {
                cache.free(p.cast());
                p.add(offset).write(1);
            }
            reports.none();
            if shrink {
                cache.shrink();
                assert_eq!((cache.stats().slabs, cache.stats().slabs_frozen, cache.stats().corruptions), (0, 1, 1));
            }
            assert!(cache.destroy().is_ok());
            let found = reports.one();
            assert_eq!(
                (found.cache, found.address, found.freed.is_some()),
                ("goes", p.addr(), flags == DebugFlags::ALL)
            );
            match found.fault {
                Fault::UseAfterFree { offset: at, found: 1, .. } => assert_eq!(at, offset as isize),
                Fault::RedZone { side: Side::Right, found: 1, .. } => assert_eq!(flags, DebugFlags::RED_ZONES),
                fault => panic!("{fault:?}"),
            }
        }
    }
    drop(debug::<Object>("after", DebugFlags::ALL).alloc([1; 13]));
    reports.none();
}

#[test]
fn b_4_a_write_after_the_free_is_found_by_the_next_allocation() {
    let reports = reports();
    for flags in [DebugFlags::POISON, DebugFlags::ALL] {
        for offset in [0usize, 5, 12] {
            let cache = debug::<Object>("stale", flags);
            let keep = cache.alloc([0; 13]);
            let p = raw(cache.alloc([0; 13])).cast::<u8>();
            // SAFETY: a live object of 13 bytes; then a free one, whose slab `keep` keeps.
            unsafe {
                cache.free(p.cast());
                let free = *p.cast::<Object>();
                assert!(free[..12].iter().all(|&b| b == POISON_FREE) && free[12] == POISON_END);
                p.add(offset).write(1);
            }
            reports.none();
            let next = cache.alloc([0; 13]);
            let found = reports.one();
            let expected = if offset == 12 { POISON_END } else { POISON_FREE };
            assert_eq!(found.fault, Fault::UseAfterFree { offset: offset as isize, expected, found: 1 });
            assert_eq!((found.cache, found.address), ("stale", p.addr()));
            assert_eq!(found.freed.is_some(), flags == DebugFlags::ALL);
            assert_ne!(next.as_ptr().addr() / SLAB_BYTES, p.addr() / SLAB_BYTES, "the slab is frozen");
            assert_eq!(cache.stats().slabs_frozen, 1);
            drop((keep, next));
        }
    }
    reports.none();
}

/// Who allocated, who freed, and who was caught.
#[test]
fn b_4_owners_are_named() {
    let reports = reports();
    let cache = debug::<[u64; 4]>("owned", DebugFlags::OWNERS);
    let _keep = cache.alloc([0; 4]);
    let on = |name: &str, f: &(dyn Fn() + Sync)| {
        std::thread::scope(|scope| {
            std::thread::Builder::new().name(name.into()).spawn_scoped(scope, f).map(drop).unwrap()
        });
    };
    let p = AtomicU64::new(0);
    let object = || std::ptr::with_exposed_provenance_mut::<[u64; 4]>(p.load(SeqCst) as usize);
    on("allocator", &|| p.store(raw(cache.alloc([1; 4])).expose_provenance() as u64, SeqCst));
    // SAFETY: live; then once more, of a checked cache.
    on("first", &|| unsafe { cache.free(object()) });
    // SAFETY: as above.
    on("second", &|| unsafe { cache.free(object()) });
    let found = reports.one();
    let [allocated, freed, now] = [&found.allocated, &found.freed, &found.now].map(|o| o.as_deref().unwrap());
    assert_eq!([allocated, freed, now].map(|o| o.name().unwrap()), ["allocator", "first", "second"]);
    let text = found.to_string();
    for (part, owner) in [("allocated", allocated), ("freed", freed), ("found", now)] {
        assert!(text.contains(&format!("{part} by thread '{}'", owner.name().unwrap())), "{text}");
        assert_eq!(owner.backtrace().status(), BacktraceStatus::Captured);
        // Optimised, the test's own functions may be part of others.
        let trace = owner.backtrace().to_string();
        assert!(
            trace.lines().count() > 3 && (!cfg!(debug_assertions) || trace.contains("b_4_owners_are_named")),
            "{trace}"
        );
        assert!(trace.lines().all(|line| text.contains(line)));
    }
    assert_ne!(allocated.thread(), freed.thread());
}

static STARTED: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);

struct Source;

// SAFETY: there are no readers: every answer is true to the contract.
unsafe impl GracePeriods for Source {
    fn start(&self) -> Cookie {
        Cookie(STARTED.fetch_add(1, SeqCst) + 1)
    }
    fn poll(&self, cookie: Cookie) -> bool {
        cookie.0 <= ENDED.load(SeqCst)
    }
    fn synchronize(&self, cookie: Cookie) {
        ENDED.fetch_max(cookie.0, SeqCst);
    }
    fn inside(&self) -> Option<bool> {
        Some(false)
    }
}

/// Retired objects are still their readers': what these write is nothing to report, and poison comes with the free. Bulk frees are
/// checked as single ones are.
#[test]
fn b_4_retired_objects_are_checked_when_they_are_freed() {
    let reports = reports();
    let kvfree = Kvfree::new(Source, Config { workers: false, ..Config::default() });
    let cache = debug::<[u64; 4]>("retired", DebugFlags::ALL);
    let keep = cache.alloc([0; 4]);
    let held: Vec<_> = (0..300).map(|i| raw(cache.alloc([i; 4]))).collect();
    for &p in &held {
        // SAFETY: live, unlinked, retired once.
        unsafe { kvfree.retire_in(&cache, NonNull::new_unchecked(p)) };
    }
    for &p in &held {
        // SAFETY: its grace period has not ended.
        unsafe { p.write([7; 4]) };
    }
    // SAFETY: outside one object, in its slab.
    unsafe { held[100].cast::<u8>().add(32).write(1) };
    reports.none();
    kvfree.barrier();
    let found = reports.one();
    assert!(matches!(found.fault, Fault::RedZone { side: Side::Right, offset: 32, .. }), "{found}");
    assert_eq!(
        (found.address, cache.stats().live),
        (held[100].addr(), 1 - u64::from(found.address / SLAB_BYTES == keep.as_ptr().addr() / SLAB_BYTES))
    );
    // SAFETY: its slab is frozen, so mapped.
    assert_eq!(unsafe { *held[100] }, [7; 4], "what is wrong is left as it is");
    // Retired twice: freed once.
    let p = raw(cache.alloc([1; 4]));
    let _keep = cache.alloc([1; 4]);
    // SAFETY: retired; then freed, which a checked cache survives.
    unsafe {
        kvfree.retire_in(&cache, NonNull::new_unchecked(p));
        cache.free(p);
    }
    reports.none();
    kvfree.barrier();
    assert_eq!((reports.one().fault, cache.stats().live), (Fault::DoubleFree, 1));
    drop(keep);
}

/// S3, line 6: such a cache has objects that no other may have.
#[test]
fn b_checked_caches_are_not_chained() {
    let reports = reports();
    let plain: Cache<u64> = Cache::new("plain");
    for cache in
        [debug::<u64>("checked", DebugFlags::OWNERS), debug("checked", DebugFlags::RED_ZONES), hardened("checked")]
    {
        let b = cache.alloc(1);
        let reason = Unchainable::Checked { cache: "checked", debug: cache.debug_flags() };
        let e = cache.destroy_into(&plain).unwrap_err();
        assert_eq!(e.reason, reason);
        assert!(e.to_string().contains("cache checked cannot be chained: cache checked is checked ("), "{e}");
        let cache = e.cache;
        let child: Cache<u64> = Cache::new("child");
        let e = child.destroy_into(&cache).unwrap_err();
        assert_eq!((e.reason, e.to_string().contains("cache child cannot be chained")), (reason, true));
        // Both are as they were.
        assert_eq!((*b, *cache.alloc(2), *e.cache.alloc(3), cache.stats().live), (1, 2, 3, 2));
    }
    reports.none();
}

/// Threads that allocate, write to every byte, and free what others have allocated, while slabs come and go: nothing to report.
#[test]
fn b_a_storm_without_a_fault() {
    let reports = reports();
    let all = DebugFlags::CONSISTENCY | DebugFlags::RED_ZONES | DebugFlags::POISON;
    for cache in [debug::<[u64; 24]>("storm", all), debug("storm", DebugFlags::OWNERS), hardened("storm")] {
        let shared = Mutex::new(Vec::new());
        let end = std::time::Instant::now() + support::storm_length(200);
        std::thread::scope(|scope| {
            for me in 1..=4u64 {
                let (cache, shared) = (&cache, &shared);
                scope.spawn(move || {
                    let mut random = support::Random(me * 77);
                    while std::time::Instant::now() < end {
                        let mine: Vec<_> = (0..random.below(600)).map(|i| cache.alloc([i; 24])).collect();
                        let theirs = std::mem::replace(&mut *shared.lock().unwrap(), mine);
                        assert!((0..).zip(&theirs).all(|(i, b)| **b == [i; 24]), "an object is in two hands");
                        if random.below(2) == 0 {
                            cache.free_bulk(theirs)
                        } else {
                            drop(theirs)
                        }
                        if random.below(8) == 0 {
                            cache.shrink();
                        }
                    }
                });
            }
        });
        shared.into_inner().unwrap().clear();
        cache.shrink();
        let s = cache.stats();
        assert_eq!((s.live, s.slabs, s.refused, s.corruptions), (0, 0, 0, 0), "{s:?}");
    }
    reports.none();
}
