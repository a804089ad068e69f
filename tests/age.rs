//! What was retired is freed without anybody doing anything: after the age limit (50 ms by default) and a grace period. And then
//! nothing runs any more. A minute stands for "at all": how soon depends on the machine.
#![cfg(not(quietus_loom))]

use quietus::Domain;
use quietus::slab::{self, Cache, SlabBox};
use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);

/// Waits for `done`, doing nothing else.
#[track_caller]
fn soon(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < end, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Flag(Arc<AtomicBool>);
impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

fn flag() -> (Flag, impl Fn() -> bool) {
    let flag = Arc::new(AtomicBool::new(false));
    (Flag(Arc::clone(&flag)), move || flag.load(SeqCst))
}

/// Twice: the second time the worker has slept for good.
fn twice(domain: &Domain, retire: impl Fn(&Domain)) {
    for round in 0..2 {
        let before = domain.stats().kvfree.reclaimed_objects;
        retire(domain);
        let freed = || {
            let s = domain.stats().kvfree;
            (s.pending_objects, s.pending_bytes, s.reclaimed_objects) == (0, 0, before + 1)
        };
        soon(if round == 0 { "an object is freed" } else { "an object is freed after the worker has slept" }, freed);
    }
}

#[test]
fn an_object_of_a_cache() {
    let cache: Cache<[u64; 8]> = Cache::new("aged");
    let domain = Domain::new();
    // SAFETY: fresh, known to nobody else.
    twice(&domain, |domain| unsafe { domain.retire(SlabBox::into_raw(cache.alloc([1; 8]))) });
    assert_eq!(cache.stats().live, 0);
}

#[test]
fn an_object_of_a_size_class() {
    let layout = Layout::new::<[u64; 8]>();
    // SAFETY: fresh, known to nobody else.
    twice(&Domain::new(), |domain| unsafe { domain.retire_ptr(slab::alloc(layout).unwrap()) });
}

#[test]
fn a_large_object() {
    let layout = Layout::from_size_align(1 << 20, 16).unwrap();
    // SAFETY: fresh, known to nobody else.
    twice(&Domain::new(), |domain| unsafe { domain.retire_ptr(slab::alloc(layout).unwrap()) });
}

#[test]
fn a_value_with_a_destructor() {
    let domain = Domain::new();
    let (value, dropped) = flag();
    // SAFETY: fresh, known to nobody else.
    unsafe { domain.retire(SlabBox::into_raw(SlabBox::new(value))) };
    soon("the value is dropped", dropped);
}

#[test]
fn a_box() {
    let domain = Domain::new();
    let (value, dropped) = flag();
    // SAFETY: a Box that nobody else knows.
    unsafe { domain.retire_box(NonNull::from(Box::leak(Box::new(value)))) };
    soon("the Box is dropped", dropped);
}

#[test]
fn a_deferred_function() {
    let (value, dropped) = flag();
    Domain::global().defer(move || drop(value));
    soon("the function has run", dropped);
}

#[test]
fn an_object_whose_thread_has_ended() {
    let cache: Cache<[u64; 8]> = Cache::new("orphans");
    let domain = Domain::new();
    let (value, dropped) = flag();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _guard = domain.pin();
            // SAFETY: fresh, known to nobody else, both.
            unsafe {
                domain.retire(SlabBox::into_raw(cache.alloc([1; 8])));
                domain.retire(SlabBox::into_raw(SlabBox::new(value)));
            }
        });
    });
    soon("the thread's objects are freed", || dropped() && cache.stats().live == 0);
    assert_eq!(cache.stats().live, 0);
}

/// An open section holds it up, whatever its age.
#[test]
fn never_inside_a_section() {
    let domain = Domain::builder().age_limit(Duration::from_millis(1)).build();
    let (value, dropped) = flag();
    let guard = domain.pin();
    // SAFETY: fresh, known to nobody else.
    unsafe { domain.retire(SlabBox::into_raw(SlabBox::new(value))) };
    std::thread::sleep(Duration::from_millis(300));
    assert!(!dropped());
    drop(guard);
    soon("the section has ended", dropped);
}

/// Also beside threads that keep the worker busy.
#[test]
fn beside_a_flood() {
    static RUN: AtomicU64 = AtomicU64::new(0);
    let domain = Domain::new();
    let cache: Cache<[u64; 8]> = Cache::new("beside");
    let (stop, begun) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    if begun.load(Relaxed).saturating_sub(RUN.load(Relaxed)) > 100_000 {
                        std::thread::yield_now(); // what was deferred before comes first: not more than a worker can do soon
                        continue;
                    }
                    begun.fetch_add(100, Relaxed);
                    for _ in 0..100 {
                        domain.defer(|| drop(RUN.fetch_add(1, Relaxed).to_string()));
                        // SAFETY: fresh, known to nobody else.
                        unsafe { domain.retire_ptr(slab::alloc(Layout::new::<[u64; 8]>()).unwrap()) };
                    }
                }
            });
        }
        let freed = (0..3).all(|_| {
            std::thread::sleep(Duration::from_millis(100));
            // SAFETY: fresh, known to nobody else.
            unsafe { domain.retire(SlabBox::into_raw(cache.alloc([1; 8]))) };
            let end = Instant::now() + SOON;
            while cache.stats().live > 0 && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
            cache.stats().live == 0
        });
        stop.store(true, Relaxed);
        assert!(freed, "not freed within {SOON:?}");
    });
}

/// Once everything is free, nothing of the library runs: no thread of the process switches context, except this one. In a child
/// process, where there is nothing but the library.
#[cfg(target_os = "linux")]
#[test]
fn nothing_runs_when_nothing_is_pending() {
    const CHILD: &str = "QUIETUS_TEST_IDLE_CHILD";
    if std::env::var_os(CHILD).is_none() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "nothing_runs_when_nothing_is_pending", "--nocapture", "--test-threads=1"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("idle:"),
            "{text}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        return;
    }

    /// Voluntary context switches of all threads but this one, and how many there are.
    fn switches() -> (u64, usize) {
        let me = std::fs::read_link("/proc/thread-self").unwrap().file_name().unwrap().to_owned();
        let (mut sum, mut threads) = (0, 0);
        for task in std::fs::read_dir("/proc/self/task").unwrap().map(|t| t.unwrap()).filter(|t| t.file_name() != me) {
            // A thread may end while one looks.
            let Ok(status) = std::fs::read_to_string(task.path().join("status")) else { continue };
            let Some(line) = status.lines().find(|l| l.starts_with("voluntary_ctxt_switches:")) else { continue };
            sum += line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
            threads += 1;
        }
        (sum, threads)
    }

    let cache: Cache<[u64; 8]> = Cache::new("idle");
    let private = Domain::new();
    let domains = [Domain::global(), &private];
    for round in 0..2 {
        for domain in domains {
            for _ in 0..2000 {
                let _guard = domain.pin();
                domain.defer(|| ());
                // SAFETY: fresh, known to nobody else.
                unsafe { domain.retire(SlabBox::into_raw(cache.alloc([1; 8]))) };
            }
        }
        for domain in domains {
            soon("everything is freed", || domain.stats().kvfree.pending_objects == 0);
        }
        // Look after look: the first may meet the last round of each worker, and a signal, say, is nothing of ours.
        let mut looks = Vec::new();
        soon("nothing runs", || {
            let before = switches();
            std::thread::sleep(Duration::from_millis(700));
            let after = switches();
            looks.push((after.0.abs_diff(before.0), after.1));
            after == before
        });
        assert!(looks.last().is_some_and(|l| l.1 >= 2), "two workers and the harness, in round {round}: {looks:?}");
        println!("idle: {looks:?}");
    }
}
