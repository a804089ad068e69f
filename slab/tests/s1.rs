//! Seed 1: flush by worker, not by interruption. The numbers are the requirement's lines.

mod support;

use quietus_slab::{Cache, FailingSource, SlabBox, all_stats, cpu_down, cpu_up, raw, shrink_all, work_stats, workers};
use std::sync::RwLock;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::Instant;
use support::{Random, alone, stay, storm_length};

/// 8 KiB: eight in a slab.
type Big = [u64; 1024];

/// Sets the flag when it goes, so that others end too if this thread panics.
struct Stop<'a>(&'a AtomicBool);
impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Threads are on again when a test that switches them off is over.
struct On;
impl Drop for On {
    fn drop(&mut self) {
        raw::refuse_workers(false);
        workers(true);
    }
}

/// Leaves free objects in the block of one CPU: this thread's, if it keeps to one.
fn leave_some(cache: &Cache<u64>) {
    let leave = || {
        stay();
        let held: Vec<_> = (0..10).map(|i| cache.alloc(i)).collect();
        drop(held);
    };
    std::thread::scope(|scope| scope.spawn(leave).join().unwrap());
}

#[cfg(all(target_os = "linux", not(quietus_portable)))]
mod cpus {
    use super::*;
    use support::{affinity, on_each, set_affinity, worker_threads};

    fn main_thread() -> libc::pid_t {
        std::process::id() as libc::pid_t
    }

    /// Each CPU that holds something is flushed by a worker that runs there, and all of it is back when the call returns.
    #[test]
    fn s1_1_items_run_on_their_cpu() {
        let _alone = alone();
        let cpus = affinity(main_thread());
        let cache = Cache::new("pinned");
        on_each(&cpus, |_| leave_some(&cache));
        let before = work_stats();
        assert!(cache.stats().in_cpu_blocks >= 10 * cpus.len() as u64);
        assert_eq!(cache.flush(), cpus.len() as u32);
        let after = work_stats();
        assert_eq!(after.queued - before.queued, cpus.len() as u64);
        assert_eq!(after.by_threads - before.by_threads, cpus.len() as u64);
        assert_eq!(after.pinned - before.pinned, cpus.len() as u64, "a worker ran elsewhere");
        let s = cache.stats();
        assert_eq!((s.in_cpu_blocks, s.in_barns, s.live), (0, 0, 0));
        assert_eq!(s.cpu_flush, cpus.len() as u64);
    }

    /// A CPU that the process may not run on is drained from afar.
    #[test]
    fn s1_1_cpus_outside_the_affinity_are_drained_from_afar() {
        let _alone = alone();
        let cpus = affinity(main_thread());
        let cache = Cache::new("outside");
        on_each(&cpus, |_| leave_some(&cache));
        let before = work_stats();
        set_affinity(main_thread(), &cpus[..1]);
        let flushed = cache.flush();
        set_affinity(main_thread(), &cpus);
        assert_eq!(flushed, cpus.len() as u32);
        assert_eq!(work_stats().pinned - before.pinned, 1, "only the first CPU may be run on");
        assert_eq!(cache.stats().in_cpu_blocks, 0);
    }

    /// So is one that is down. (Threads that are still there are served as ever.)
    #[test]
    fn s1_1_a_cpu_that_is_down_is_drained_from_afar() {
        let _alone = alone();
        let cpu = affinity(main_thread())[0];
        let cache = Cache::new("down");
        on_each(&[cpu], |_| leave_some(&cache));
        assert!(cpu_down(cpu) >= 1, "a CPU that goes leaves its blocks behind");
        assert_eq!((cache.stats().in_cpu_blocks, cache.stats().cpu_flush), (0, 1));
        assert_eq!(cpu_down(cpu), 0, "it is down already");
        on_each(&[cpu], |_| leave_some(&cache));
        let before = work_stats();
        assert_eq!(cache.flush(), 1);
        assert_eq!(work_stats().pinned, before.pinned, "a worker was sent to a CPU that is down");
        cpu_up(cpu).unwrap();
        on_each(&[cpu], |_| leave_some(&cache));
        assert_eq!(cache.flush(), 1);
        assert_eq!(work_stats().pinned, before.pinned + 1);
    }

    /// CPUs with nothing get no work, wake nobody, and count nothing.
    #[test]
    fn s1_2_cpus_with_nothing_are_skipped() {
        let _alone = alone();
        let cpus = affinity(main_thread());
        let cache = Cache::new("skipped");
        on_each(&cpus[..1], |_| leave_some(&cache));
        let before = work_stats();
        assert_eq!(cache.flush(), 1);
        assert_eq!(work_stats().queued, before.queued + 1, "one CPU holds something");
        workers(false); // nobody is left to be woken
        workers(true);
        let before = work_stats();
        assert_eq!(cache.flush(), 0);
        assert_eq!(work_stats(), before, "nothing to do");
        assert_eq!(worker_threads(), 0, "a thread was started for nothing");
        assert_eq!(cache.stats().cpu_flush, 1, "only real flushes count");
    }

    /// Threads end by themselves, and are joined when they are switched off.
    #[test]
    fn s1_1_threads_end() {
        let _alone = alone();
        let cache = Cache::new("ended");
        leave_some(&cache);
        assert_eq!(cache.flush(), 1);
        workers(false);
        assert_eq!(worker_threads(), 0, "threads are joined");
        workers(true);
        leave_some(&cache);
        assert_eq!(cache.flush(), 1);
        while worker_threads() > 0 {
            std::thread::yield_now();
        }
    }

    /// A child has none of its parent's threads, and makes its own.
    #[test]
    fn s1_1_threads_start_again_after_a_fork() {
        let _alone = alone();
        let cache = Cache::new("forked");
        leave_some(&cache);
        assert_eq!(cache.flush(), 1);
        leave_some(&cache);
        // A thread is waiting for more work now: in the parent.
        // SAFETY: the child only uses the allocator, and ends without unwinding.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: ends the child should it hang.
            unsafe { libc::alarm(120) };
            let before = work_stats();
            let flushed = cache.flush();
            let after = work_stats();
            let right = flushed == 1 && after.by_threads == before.by_threads + 1 && after.started > before.started;
            // SAFETY: ends the child.
            unsafe { libc::_exit(if right { 0 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: our own child.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0, "the child flushed wrongly, or hung");
        assert_eq!(cache.flush(), 1, "the parent goes on");
    }
}

/// Switched off, whoever flushes does the work itself.
#[test]
fn s1_1_without_threads_the_caller_works() {
    let _alone = alone();
    let _on = On;
    workers(false);
    let cache = Cache::new("by hand");
    leave_some(&cache);
    let before = work_stats();
    assert_eq!(cache.flush(), 1);
    assert_eq!(work_stats(), before, "no queue, no thread");
    let s = cache.stats();
    assert_eq!((s.in_cpu_blocks, s.live, s.cpu_flush), (0, 0, 1));
}

/// When the system gives no thread, nothing is lost and nobody hangs.
#[test]
fn s1_1_when_no_thread_can_be_started() {
    let _alone = alone();
    let _on = On;
    workers(false); // lets the running ones end
    raw::refuse_workers(true);
    workers(true);
    let cache = Cache::new("refused");
    leave_some(&cache);
    let before = work_stats();
    assert_eq!(cache.flush(), 1);
    let after = work_stats();
    assert_eq!((after.inline - before.inline, after.started - before.started), (1, 0));
    let s = cache.stats();
    assert_eq!((s.in_cpu_blocks, s.live, s.objects - s.free_in_slabs), (0, 0, 0));
}

/// The environment variable is read. (The test runs itself again with it.)
#[test]
fn s1_1_switched_off_by_the_environment() {
    let _alone = alone();
    const NAME: &str = "QUIETUS_SLAB_WORKERS";
    if std::env::var(NAME).is_ok_and(|v| v == "off") {
        let cache = Cache::new("environment");
        leave_some(&cache);
        assert_eq!((cache.flush(), work_stats().queued, work_stats().started), (1, 0, 0));
        return;
    }
    let me = std::env::current_exe().unwrap();
    let run = std::process::Command::new(me)
        .args(["--exact", "s1_1_switched_off_by_the_environment"])
        .env(NAME, "off")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && text.contains("1 passed"), "{text}");
}

/// Operations in flight on a CPU that is flushed fail and are done again: nothing is in two hands, nothing is lost. (Freeing inside
/// the exclusive part is an assertion's.)
#[test]
fn s1_3_operations_in_flight_are_not_lost() {
    let _alone = alone();
    for threads in [true, false] {
        let _on = On;
        workers(threads);
        let cache: Cache<[AtomicU64; 4]> = Cache::builder("in flight").block_capacity(8).build().unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for me in 1..=3u64 {
                let (cache, stop) = (&cache, &stop);
                scope.spawn(move || {
                    let _stop = Stop(stop);
                    let mut random = Random(me * 77);
                    let mut held = Vec::new();
                    while !stop.load(Relaxed) {
                        let n = random.below(30);
                        held.extend((0..n).map(|i| cache.alloc([me, i, me ^ i, 3].map(AtomicU64::new))));
                        let keep = random.next() as usize % (held.len() + 1);
                        for b in held.drain(keep..) {
                            let [a, i, x, three] = b.each_ref().map(|w| w.load(Relaxed));
                            assert_eq!((a, x, three), (me, me ^ i, 3), "an object changed hands");
                        }
                    }
                });
            }
            let _stop = Stop(&stop);
            let end = Instant::now() + storm_length(300);
            while Instant::now() < end && !stop.load(Relaxed) {
                cache.flush();
            }
        });
        cache.flush();
        let s = cache.stats();
        assert_eq!((s.live, s.refused, s.objects), (0, 0, s.free_in_slabs), "{s:?}");
    }
}

/// What a signal handler freed while its own thread was inside the allocator comes back with the next flush. (A stop stands for the
/// inside.)
#[test]
fn s1_3_what_handlers_have_freed_comes_back() {
    let _alone = alone();
    let cache = Cache::new("handled");
    let mut held: Vec<_> = (0..5).map(|i| cache.alloc(i)).collect();
    cache.flush();
    raw::stop(|_| true, |_| drop(held.pop()));
    assert!(held.len() < 5);
    assert_eq!(cache.stats().live, 5, "kept for later");
    cache.flush();
    assert_eq!(cache.stats().live, held.len() as u64);
}

/// The work items belong to all caches: flushes take turns, and each has everything back when it returns.
#[test]
fn s1_4_flushes_take_turns() {
    let _alone = alone();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let cache = Cache::new("turns");
                for _ in 0..300 {
                    leave_some(&cache);
                    cache.flush();
                    assert_eq!(cache.stats().in_cpu_blocks, 0, "the flush has missed a CPU");
                }
            });
        }
    });
}

fn slab_of<T>(b: &SlabBox<T>) -> usize {
    std::ptr::from_ref::<T>(b).addr() / quietus_slab::SLAB_BYTES
}

/// After a shrink the fullest slabs come first, the empty ones are gone.
#[test]
fn s1_6_partial_slabs_are_sorted_fullest_first() {
    let _alone = alone();
    stay();
    // No blocks: allocations go to the slabs one by one.
    let cache: Cache<Big> = Cache::builder("sorted").poison(true).build().unwrap();
    let mut slabs: Vec<Vec<SlabBox<Big>>> = Vec::new();
    for i in 0..48 {
        let b = cache.alloc([i; 1024]);
        match slabs.iter_mut().find(|s| slab_of(&s[0]) == slab_of(&b)) {
            Some(slab) => slab.push(b),
            None => slabs.push(vec![b]),
        }
    }
    assert_eq!(slabs.len(), 6);
    let mut expected = Vec::new();
    for (slab, free) in slabs.iter_mut().zip([5usize, 1, 8, 3, 7, 2]) {
        expected.push((free, slab_of(&slab[0])));
        slab.truncate(8 - free);
    }
    cache.shrink();
    assert_eq!(cache.stats().slabs, 5, "the empty slab goes");
    expected.retain(|&(free, _)| free < 8);
    expected.sort_unstable();
    for (free, slab) in expected {
        for _ in 0..free {
            let b = cache.alloc([0; 1024]);
            assert_eq!(slab_of(&b), slab, "a fuller slab was passed over");
            slabs[0].push(b);
        }
    }
    assert_eq!(cache.stats().free_in_slabs, 0);
}

/// Before memory goes away every cache is flushed and shrunk.
#[test]
fn s1_6_all_caches_are_shrunk() {
    let _alone = alone();
    let source: &'static FailingSource = Box::leak(Box::new(FailingSource::new(isize::MAX)));
    let caches: [Cache<Big>; 3] = [1, 2, 3].map(|_| Cache::builder("offline").pages(source).build().unwrap());
    for cache in &caches {
        drop((0..200).map(|i| cache.alloc([i; 1024])).collect::<Vec<_>>());
        assert!(cache.stats().slabs >= 25);
    }
    assert!(shrink_all() >= 3 * 25 * quietus_slab::SLAB_BYTES);
    for cache in &caches {
        let s = cache.stats();
        assert_eq!((s.slabs, s.in_cpu_blocks, s.in_barns), (0, 0, 0));
    }
    let (maps, unmaps, _) = source.counts();
    assert_eq!(maps - unmaps, 1, "a source keeps one segment");
}

static LIVE: AtomicU64 = AtomicU64::new(0);

/// An object that knows whose it is, and is counted.
struct Counted([u64; 6]);
impl Counted {
    fn new(n: u64) -> Self {
        LIVE.fetch_add(1, Relaxed);
        Counted([n; 6])
    }
}
impl Drop for Counted {
    fn drop(&mut self) {
        assert!(self.0.iter().all(|&w| w == self.0[0]), "an object is in two hands");
        LIVE.fetch_sub(1, Relaxed);
    }
}

/// Caches end, CPUs go and come, everything is flushed and shrunk, while many threads allocate and free: nothing hangs, and every
/// object is accounted for.
#[test]
fn s1_8_storm() {
    let _alone = alone();
    let caches: Vec<RwLock<Cache<Counted>>> = (0..4).map(|_| RwLock::new(Cache::new("storm"))).collect();
    let stop = AtomicBool::new(false);
    let possible = quietus_slab::topology().possible;
    std::thread::scope(|scope| {
        let (caches, stop) = (&caches, &stop);
        for me in 1..=4u64 {
            scope.spawn(move || {
                let _stop = Stop(stop);
                let mut random = Random(me * 0x9e37_79b9);
                let mut held: Vec<SlabBox<Counted>> = Vec::new();
                while !stop.load(Relaxed) {
                    let cache = &caches[random.below(4) as usize];
                    match random.below(40) {
                        0 => {
                            // The old one goes, with objects out, or without.
                            *cache.write().unwrap() = Cache::new("storm");
                        }
                        1 => drop(cache.read().unwrap().shrink()),
                        2 => drop(cache.read().unwrap().flush()),
                        3 => drop(shrink_all()),
                        4 => drop(cpu_down(random.next() as u32 % possible)),
                        5 => cpu_up(random.next() as u32 % possible).unwrap(),
                        6 => {
                            let n = random.next() as usize % (held.len() + 1);
                            cache.read().unwrap().free_bulk(held.drain(..n));
                        }
                        _ => {
                            let cache = cache.read().unwrap();
                            held.extend((0..random.below(60)).map(|i| cache.alloc(Counted::new(me * 100 + i))));
                            let keep = random.next() as usize % (held.len() + 1);
                            held.drain(keep..).for_each(drop);
                        }
                    }
                }
            });
        }
        let _stop = Stop(stop);
        let end = Instant::now() + storm_length(1000);
        while Instant::now() < end && !stop.load(Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    });
    (0..possible).for_each(|cpu| cpu_up(cpu).unwrap());
    assert_eq!(LIVE.load(SeqCst), 0);
    for cache in caches {
        let cache = cache.into_inner().unwrap();
        cache.flush();
        let s = cache.stats();
        assert_eq!((s.live, s.refused, s.objects), (0, 0, s.free_in_slabs), "{s:?}");
    }
    assert!(!all_stats().iter().any(|s| s.name == "storm"), "a cache is left behind");
}
