//! When what is deferred is called: after a grace period, once, in bounded time and space, on the threads that pin.

mod counted;

use counted::{Count, flush_twice};
use crossbeam_epoch::{self as epoch, Atomic, Collector, Owned, Shared};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn the_second_of_two_flushes_frees() {
    let (collector, count) = (Collector::new(), Count::default());
    let handle = collector.register();
    for n in [1, 63, 1000] {
        let before = count.dropped();
        count.defer(&handle.pin(), n);
        handle.pin().flush();
        handle.pin().flush();
        assert_eq!(count.dropped() - before, n);
    }
}

#[test]
fn nothing_is_freed_in_the_section_it_was_deferred_in() {
    let (collector, count) = (Collector::new(), Count::default());
    let handle = collector.register();
    let guard = handle.pin();
    count.defer(&guard, 1000);
    (0..100).for_each(|_| guard.flush());
    assert_eq!(count.dropped(), 0);
    drop(guard);
    flush_twice(&handle);
    assert_eq!(count.dropped(), 1000);
}

#[test]
fn unprotected_does_everything_at_once() {
    let count = Count::default();
    // SAFETY: nobody else is there.
    let guard = unsafe { epoch::unprotected() };
    count.defer(guard, 1);
    assert_eq!(count.dropped(), 1);
    let one = count.one();
    guard.defer(move || drop(one));
    assert_eq!(count.dropped(), 2);
    let called = Cell::new(false);
    // SAFETY: called at once.
    unsafe { guard.defer_unchecked(|| called.set(true)) };
    assert!(called.get() && guard.collector().is_none());
    guard.flush();
    // SAFETY: nobody else is there.
    assert!(format!("{:?}", unsafe { epoch::unprotected() }) == "Guard { .. }");
}

#[test]
fn closures_may_borrow_what_outlives_the_collector() {
    let (sum, name) = (AtomicUsize::new(0), String::from("four"));
    let collector = Collector::new();
    let handle = collector.register();
    // SAFETY: the collector goes before what is borrowed, and nothing is a thread's own.
    unsafe {
        handle.pin().defer_unchecked(|| sum.fetch_add(name.len(), SeqCst));
        let (one, two, three) = (&sum, &name, [1usize, 2, 3]);
        handle.pin().defer_unchecked(move || one.fetch_add(two.len() * three[1], SeqCst));
    }
    drop((handle, collector));
    assert_eq!(sum.load(SeqCst), 12);
}

#[test]
fn deferred_functions_do_not_pile_up_on_the_stack() {
    thread_local!(static DEPTH: Cell<usize> = const { Cell::new(0) });
    static RUN: AtomicUsize = AtomicUsize::new(0);
    static DEEPEST: AtomicUsize = AtomicUsize::new(0);
    fn link(collector: &Collector, left: usize) {
        let (handle, again) = (collector.register(), collector.clone());
        handle.pin().defer(move || {
            DEEPEST.fetch_max(DEPTH.get(), SeqCst);
            DEPTH.set(DEPTH.get() + 1);
            RUN.fetch_add(1, SeqCst);
            if left > 0 {
                link(&again, left - 1);
            }
            DEPTH.set(DEPTH.get() - 1);
        });
        flush_twice(&handle);
        (0..1000).for_each(|_| drop(handle.pin()));
    }
    let collector = Collector::new();
    link(&collector, 200);
    while RUN.load(SeqCst) < 201 {
        flush_twice(&collector.register());
    }
    assert_eq!(DEEPEST.load(SeqCst), 0);
}

#[test]
fn a_panic_in_a_deferred_function_stops_nothing_but_the_one() {
    let (collector, count) = (Collector::new(), Count::default());
    let handle = collector.register();
    count.defer(&handle.pin(), 3);
    handle.pin().defer(|| panic!("on purpose"));
    count.defer(&handle.pin(), 3);
    flush_twice(&handle);
    assert_eq!(count.dropped(), 6);
    assert!(!handle.is_pinned());
}

#[test]
fn pinning_alone_frees_what_fills_blocks() {
    let (collector, count) = (Collector::new(), Count::default());
    let handle = collector.register();
    let mut most = 0;
    for deferred in 1..=100_000 {
        count.defer(&handle.pin(), 1);
        most = most.max(deferred - count.dropped());
    }
    // A few blocks of 252.
    assert!(most < 10_000, "{most} objects waited at a time");
}

#[test]
fn what_does_not_fill_a_block_is_freed_by_age() {
    let (collector, count) = (Collector::new(), Count::default());
    let handle = collector.register();
    count.defer(&handle.pin(), 3);
    let limit = Instant::now() + Duration::from_secs(60);
    while count.dropped() < 3 {
        drop(handle.pin());
        assert!(Instant::now() < limit, "three objects have stayed in their block for a minute");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn no_thread_is_started() {
    // In a process of its own: other tests start threads.
    const CHILD: &str = "QUIETUS_TEST_THREADS";
    let threads = || std::fs::read_dir("/proc/self/task").expect("a Linux process").count();
    if std::env::var_os(CHILD).is_none() {
        let me = std::env::current_exe().expect("a test's own path");
        let child = std::process::Command::new(me)
            .args(["no_thread_is_started", "--exact", "--test-threads=1"])
            .env(CHILD, "yes")
            .output()
            .expect("a child");
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let before = threads();
    let count = Count::default();
    for _ in 0..10_000 {
        count.defer(&epoch::pin(), 1);
    }
    let collector = Collector::new();
    count.defer(&collector.register().pin(), 10_000);
    drop(collector);
    epoch::pin().flush();
    assert_eq!((threads(), count.dropped() > 10_000), (before, true));
}

#[test]
fn each_is_freed_once_and_never_under_a_reader() {
    const ALIVE: u64 = 0x600D;
    const DEAD: u64 = 0xDEAD;
    struct Canary(AtomicU64, #[allow(dead_code, reason = "counts its drop")] counted::Counted);
    impl Drop for Canary {
        fn drop(&mut self) {
            assert_eq!(self.0.swap(DEAD, Relaxed), ALIVE, "dropped twice");
        }
    }
    let (collector, count, stop) = (Collector::new(), Count::default(), AtomicBool::new(false));
    let slots: [Atomic<Canary>; 4] = Default::default();
    let made = AtomicUsize::new(0);
    thread::scope(|s| {
        for reader in 0..2 {
            let (collector, slots, stop) = (&collector, &slots, &stop);
            s.spawn(move || {
                let handle = collector.register();
                while !stop.load(Relaxed) {
                    let guard = handle.pin();
                    let seen = slots.each_ref().map(|slot| slot.load(Acquire, &guard));
                    for _ in 0..8 << reader {
                        for p in seen {
                            // SAFETY: destroyed after the section only.
                            let canary = unsafe { p.as_ref() };
                            assert!(canary.is_none_or(|c| c.0.load(Relaxed) == ALIVE), "read after free");
                        }
                        thread::yield_now();
                    }
                }
            });
        }
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let (collector, slots, made, count) = (&collector, &slots, &made, &count);
                s.spawn(move || {
                    let handle = collector.register();
                    let until = Instant::now() + Duration::from_millis(700);
                    while Instant::now() < until {
                        for slot in slots.iter().cycle().take(64) {
                            let guard = handle.pin();
                            made.fetch_add(1, Relaxed);
                            let old = slot.swap(Owned::new(Canary(AtomicU64::new(ALIVE), count.one())), AcqRel, &guard);
                            if !old.is_null() {
                                // SAFETY: unlinked by us.
                                unsafe { guard.defer_destroy(old) };
                            }
                        }
                        handle.pin().flush();
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|w| w.join().expect("a writer"));
        stop.store(true, Relaxed);
    });
    let handle = collector.register();
    for slot in &slots {
        let guard = handle.pin();
        // SAFETY: unlinked by us.
        unsafe { guard.defer_destroy(slot.swap(Shared::null(), AcqRel, &guard)) };
    }
    drop((handle, collector));
    assert_eq!(count.dropped(), made.into_inner());
}
