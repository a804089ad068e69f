//! Seed 2: the opt-in per-CPU array, and the prefilled sheaf. The numbers are the requirement's lines.

mod support;

use quietus_slab::{
    AllocError, BuildError, Cache, FailingSource, PrefillError, SlabBox, all_stats, raw, work_stats, workers,
};
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use support::{alone, stay};

type Object = [u64; 8];

/// A cache with arrays, on a thread that stays where it is.
fn arrays(n: u32) -> Cache<Object> {
    stay();
    Cache::builder("arrays").array(n).build().unwrap()
}

fn addresses<T>(held: &[SlabBox<T>]) -> Vec<usize> {
    held.iter().map(|b| std::ptr::from_ref::<T>(b).addr()).collect()
}

/// Its capacity is its own, and so is its memory, however equal two caches are.
#[test]
fn s2_1_opt_in_with_its_own_capacity() {
    let _alone = alone();
    for n in [1, 7, 504] {
        let cache = arrays(n);
        assert_eq!(cache.stats().block_capacity, n);
        let held: Vec<_> = (0..600).map(|i| cache.alloc([i; 8])).collect();
        held.into_iter().for_each(drop);
        assert_eq!(cache.stats().in_cpu_blocks, u64::from(n), "an array holds what it was made for");
    }
    for n in [0, 505] {
        assert_eq!(Cache::<Object>::builder("x").array(n).build().unwrap_err(), BuildError::Capacity(n));
    }
    let (one, other) = (arrays(8), arrays(8));
    let a = one.alloc([1; 8]);
    let place = addresses(std::slice::from_ref(&a));
    drop(a);
    let b = other.alloc([2; 8]);
    assert_ne!(addresses(std::slice::from_ref(&b)), place, "two caches were merged");
    assert_eq!(addresses(&[one.alloc([3; 8])]), place);
    assert!(all_stats().iter().filter(|s| s.name == "arrays").count() >= 2);
}

/// Single frees fill it; bulk operations go past it, few or many.
#[test]
fn s2_2_only_single_frees_fill_it() {
    let _alone = alone();
    let cache = arrays(32);
    let mut few: Vec<_> = (0..400).map(|i| cache.alloc([i; 8])).collect();
    let many: Vec<_> = few.drain(..300).collect();
    cache.free_bulk(few.drain(..50));
    assert_eq!(cache.stats().in_cpu_blocks, 0, "few at once");
    // SAFETY: each is freed once.
    unsafe {
        let many: Vec<*mut u8> = many.into_iter().map(|b| SlabBox::into_raw(b).as_ptr().cast()).collect();
        quietus_slab::free_bulk(&many);
    }
    let s = cache.stats();
    assert_eq!((s.in_cpu_blocks, s.in_barns), (0, 0), "many at once, to the slabs");
    drop(few.split_off(40)); // ten, one by one
    assert_eq!(cache.stats().in_cpu_blocks, 10);
    let mut out = Vec::new();
    cache.alloc_bulk((0..20).map(|i| [i; 8]), &mut out).unwrap();
    assert_eq!(cache.stats().in_cpu_blocks, 10, "a bulk allocation has emptied it");
    let sheaf = cache.prefill(20).unwrap();
    assert_eq!((sheaf.len(), cache.stats().in_cpu_blocks), (20, 10));
    drop(sheaf);
    assert_eq!(cache.stats().in_cpu_blocks, 10);
}

/// Empty or full it is passed by, one object at a time: nothing is moved in batches.
#[test]
fn s2_3_empty_and_full_take_the_ordinary_path() {
    let _alone = alone();
    let cache = arrays(16);
    let a = cache.alloc([1; 8]);
    let s = cache.stats();
    assert_eq!((s.in_cpu_blocks, s.alloc_direct, s.refill), (0, 1, 0), "empty: one from the slabs");
    let held: Vec<_> = (0..30).map(|i| cache.alloc([i; 8])).collect();
    drop(a);
    let free = cache.stats().free_in_slabs;
    held.into_iter().for_each(drop);
    let s = cache.stats();
    assert_eq!((s.in_cpu_blocks, s.in_barns, s.free_in_slabs), (16, 0, free + 15), "full: each to its slab");
    assert_eq!((s.barn_put, s.barn_get, s.refill, s.live), (0, 0, 0, 0));
    // Newest first.
    let held: Vec<_> = (0..4).map(|i| cache.alloc([i; 8])).collect();
    let mut places = addresses(&held);
    held.into_iter().for_each(drop);
    let again: Vec<_> = (0..4).map(|i| cache.alloc([i; 8])).collect();
    places.reverse();
    assert_eq!(addresses(&again), places);
}

#[test]
fn s2_5_prefill_rules() {
    let _alone = alone();
    stay();
    let plain: Cache<Object> = Cache::new("plain");
    assert_eq!(plain.prefill_array(1), Err(PrefillError::NoArray));
    let cache = arrays(100);
    assert_eq!(cache.prefill_array(0), Ok(0));
    assert_eq!(cache.prefill_array(101), Err(PrefillError::Capacity { asked: 101, capacity: 100 }));
    // No clip at 32, and the shortfall only.
    assert_eq!(cache.prefill_array(70), Ok(70));
    assert_eq!(cache.stats().in_cpu_blocks, 70);
    assert_eq!(cache.prefill_array(70), Ok(0));
    assert_eq!(cache.prefill_array(33), Ok(0));
    assert_eq!(cache.prefill_array(80), Ok(10));
    assert_eq!(cache.prefill_array(100), Ok(20));
    let direct = cache.stats().alloc_direct;
    let held: Vec<_> = (0..100).map(|i| cache.alloc([i; 8])).collect();
    assert_eq!(cache.stats().alloc_direct, direct, "100 from the array");
    drop(held);
    assert_eq!(cache.stats().live, 0);
    for (e, text) in [
        (PrefillError::NoArray, "no per-CPU arrays"),
        (PrefillError::Capacity { asked: 101, capacity: 100 }, "101 objects do not fit an array of 100"),
        (PrefillError::Memory, "memory"),
    ] {
        assert!(e.to_string().contains(text), "{e}");
    }
}

/// Memory for a part only: what was had is put in, and counted; without any it is an error.
#[test]
fn s2_5_prefill_puts_back_only_what_it_got() {
    let _alone = alone();
    stay();
    let source: &'static FailingSource = Box::leak(Box::new(FailingSource::new(1)));
    let cache: Cache<[u64; 1024]> = Cache::builder("short").array(504).pages(source).build().unwrap();
    let held: Vec<_> = (0..63 * 8 - 40).map(|i| cache.alloc([i; 1024])).collect();
    assert_eq!(cache.prefill_array(100), Ok(40), "all there is");
    assert_eq!(cache.stats().in_cpu_blocks, 40);
    assert_eq!(cache.prefill_array(100), Err(PrefillError::Memory));
    assert_eq!(cache.stats().in_cpu_blocks, 40, "what is there stays");
    drop(held);
    cache.flush();
    assert_eq!((cache.stats().live, cache.stats().refused), (0, 0));
}

/// n objects from a sheaf whatever happens to memory and to the thread; more are refused, and the value comes back.
#[test]
fn s2_6_a_sheaf_cannot_fail() {
    let _alone = alone();
    let source: &'static FailingSource = Box::leak(Box::new(FailingSource::new(isize::MAX)));
    let cache: Cache<Object> = Cache::builder("sheaf").pages(source).build().unwrap();
    for n in [0usize, 1, 31, 504, 505, 3000] {
        let mut sheaf = cache.prefill(n).unwrap();
        assert_eq!((sheaf.len(), sheaf.is_empty()), (n, n == 0));
        source.allow(0);
        // Others use up all that is left.
        let mut others = Vec::new();
        while let Ok(b) = cache.try_alloc([7; 8]) {
            others.push(b);
        }
        let mut held = Vec::new();
        std::thread::scope(|scope| {
            // On another thread, on whatever CPU.
            let in_turn =
                || (0..n as u64).map(|i| sheaf.alloc([i; 8]).expect("a sheaf cannot fail")).collect::<Vec<_>>();
            held = scope.spawn(in_turn).join().unwrap();
        });
        assert_eq!(sheaf.alloc([9; 8]).map(|_| ()), Err([9; 8]), "empty: the value comes back");
        assert!(held.iter().enumerate().all(|(i, b)| **b == [i as u64; 8]), "memory in two hands");
        let mut all = addresses(&held);
        all.extend(addresses(&others));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "an object was given twice");
        source.allow(isize::MAX);
    }
    cache.flush();
    let s = cache.stats();
    assert_eq!((s.live, s.objects), (0, s.free_in_slabs));
}

#[test]
fn s2_6_a_sheaf_is_refilled_and_returned() {
    let _alone = alone();
    let cache: Cache<Object> = Cache::new("sheaf");
    let mut sheaf = cache.prefill(700).unwrap();
    let held: Vec<_> = (0..300).map(|i| sheaf.alloc([i; 8]).unwrap()).collect();
    assert_eq!(sheaf.refill(300), Ok(0));
    assert_eq!(sheaf.refill(1000), Ok(600));
    assert_eq!((sheaf.len(), cache.stats().live), (1000, 1300), "what is set aside is nobody else's");
    drop(held);
    drop(sheaf);
    assert_eq!(cache.stats().live, 0, "what is left goes back");
    assert!(cache.stats().in_barns > 0, "in blocks");
    // A cache without blocks has sheaves, too.
    let poisoned: Cache<Object> = Cache::builder("poisoned").poison(true).build().unwrap();
    let mut sheaf = poisoned.prefill(600).unwrap();
    let b = sheaf.alloc([1; 8]).unwrap();
    assert_eq!((*b, sheaf.len(), poisoned.stats().live), ([1; 8], 599, 600));
    drop((b, sheaf));
    assert_eq!((poisoned.stats().live, poisoned.stats().refused), (0, 0));
}

/// Each request for pages fails in turn: an error, and nothing is lost.
#[test]
fn s2_6_a_sheaf_without_memory() {
    let _alone = alone();
    for allowance in 0..3 {
        let source: &'static FailingSource = Box::leak(Box::new(FailingSource::new(allowance)));
        let cache: Cache<[u64; 1024]> = Cache::builder("short").pages(source).build().unwrap();
        let there = allowance as usize * 63 * 8;
        assert_eq!(cache.prefill(there + 1).map(|_| ()), Err(AllocError));
        assert_eq!(cache.stats().live, 0, "nothing is kept");
        let mut sheaf = cache.prefill(there).expect("all there is");
        assert_eq!(sheaf.refill(there + 8), Err(AllocError));
        assert_eq!(sheaf.len(), there, "what was there stays");
        drop(sheaf);
        cache.shrink();
        assert_eq!(cache.stats().slabs, 0);
    }
}

/// Nothing of it needs a thread.
#[test]
fn s2_7_present_without_workers() {
    let _alone = alone();
    struct On;
    impl Drop for On {
        fn drop(&mut self) {
            workers(true);
        }
    }
    let _on = On;
    workers(false);
    let before = work_stats();
    let cache = arrays(40);
    assert_eq!(cache.prefill_array(40), Ok(40));
    let mut sheaf = cache.prefill(40).unwrap();
    let b = sheaf.alloc([1; 8]).unwrap();
    drop((b, sheaf));
    assert_eq!(cache.flush(), 1);
    assert_eq!((cache.stats().live, cache.stats().in_cpu_blocks), (0, 0));
    assert_eq!(work_stats(), before);
}

#[cfg(target_os = "linux")]
mod signals {
    use super::*;
    use std::cell::Cell;
    use std::sync::OnceLock;
    use std::sync::atomic::{
        AtomicU64,
        Ordering::{Relaxed, SeqCst},
    };
    use std::time::{Duration, Instant};

    static CACHE: OnceLock<Cache<Object>> = OnceLock::new();
    /// Signals, allocations that a handler got, objects that were not what they should be.
    static COUNTS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
    thread_local! {
        static HELD: Cell<*mut Object> = const { Cell::new(std::ptr::null_mut()) };
    }

    fn check(b: &Object) {
        COUNTS[2].fetch_add(u64::from(b.iter().any(|&w| w != b[0])), Relaxed);
    }

    /// Frees what the signal before has allocated, and allocates another.
    extern "C" fn handler(_: libc::c_int) {
        let n = COUNTS[0].fetch_add(1, Relaxed);
        let Some(cache) = CACHE.get() else { return };
        if let Some(old) = NonNull::new(HELD.replace(std::ptr::null_mut())) {
            // SAFETY: from `into_raw` below.
            let old = unsafe { SlabBox::from_raw(old) };
            check(&old);
        }
        if let Ok(b) = cache.try_alloc([n; 8]) {
            COUNTS[1].fetch_add(1, Relaxed);
            HELD.set(SlabBox::into_raw(b).as_ptr());
        }
    }

    extern "C" fn timed(signal: libc::c_int) {
        handler(signal);
        support::next_signal();
    }

    fn install(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) {
        // SAFETY: the handler only does what the allocator allows in one; all zero is a valid mask.
        unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_RESTART;
            assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
        }
    }

    /// A handler interrupts its own thread in the middle of the array, at its lock where there are locks: it neither waits nor
    /// corrupts. (Alone in a process of its own, once with restartable sequences and once without.)
    #[test]
    fn s2_4_a_handler_passes_by_what_its_thread_holds() {
        const INNER: &str = "QUIETUS_TEST_S2_SIGNAL";
        if std::env::var_os(INNER).is_some() {
            return storm();
        }
        for mode in ["auto", "off"] {
            let run = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "signals::s2_4_a_handler_passes_by_what_its_thread_holds"])
                .envs([(INNER, "1"), ("QUIETUS_RSEQ", mode)])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&run.stdout);
            assert!(run.status.success() && text.contains("1 passed"), "{mode}: {:?} {text}", run.status);
        }
    }

    fn storm() {
        // A deadlock ends the process.
        // SAFETY: no preconditions.
        unsafe { libc::alarm(120) };
        let cache = CACHE.get_or_init(|| Cache::builder("signalled").array(64).build().unwrap());
        // In the middle of a drain, with this CPU stopped or its lock held, and the drain's lock, too.
        install(libc::SIGUSR1, handler);
        drop(cache.alloc([0; 8]));
        let mut raised = 0;
        raw::stop(
            |_| true,
            |_| {
                raised += 1;
                // SAFETY: a handler is installed.
                unsafe { libc::raise(libc::SIGUSR1) };
            },
        );
        assert!(raised > 0 && COUNTS[0].load(SeqCst) == raised);
        // At any other time.
        install(libc::SIGUSR2, timed);
        let timer = support::signal_me(libc::SIGUSR2);
        let end = Instant::now() + Duration::from_millis(800);
        let mut round = 0;
        // A while, and until much has been interrupted.
        let enough = || COUNTS[0].load(SeqCst) > 100 && COUNTS[1].load(SeqCst) > 0 || COUNTS[2].load(SeqCst) > 0;
        while Instant::now() < end || !enough() {
            round += 1;
            // Within the array, past its ends, and through prefill.
            let held: Vec<_> = (0..90).map(|i| cache.alloc([round ^ i; 8])).collect();
            held.iter().for_each(|b| check(b));
            drop(held);
            let _ = cache.prefill_array(64);
        }
        drop(timer);
        if let Some(old) = NonNull::new(HELD.replace(std::ptr::null_mut())) {
            // SAFETY: the handler's, which does not run any more on this thread.
            drop(unsafe { SlabBox::from_raw(old) });
        }
        assert_eq!(COUNTS[2].load(SeqCst), 0, "objects were in two hands");
        drop(cache.alloc([0; 8])); // a slow path adopts what handlers have left behind
        cache.flush();
        let held: Vec<_> = (0..90).map(|i| cache.alloc([i; 8])).collect();
        drop(held);
        cache.flush();
        let s = cache.stats();
        assert_eq!((s.live, s.refused), (0, 0), "{s:?}");
    }
}
