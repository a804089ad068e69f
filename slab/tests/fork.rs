//! Forks beside threads that are at work in every part of the allocator: the child finds no lock taken and nothing half-done.
#![cfg(all(target_os = "linux", not(miri)))]

use quietus_slab::{Cache, alloc, cpu_down, cpu_up, free, shrink_all};
use std::alloc::Layout;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// What a thread does all day: objects in bulk and one by one, caches that come and go, flushes, CPUs.
fn work(shared: &Cache<[u64; 8]>, round: usize) {
    let kept: Vec<_> = (0..600).map(|n| shared.alloc([n; 8])).collect();
    let layout = Layout::from_size_align(64 << (round % 4), 8).expect("valid");
    let some: Vec<_> = (0..50).map(|_| alloc(layout).expect("memory")).collect();
    // SAFETY: ours, and not used any more.
    some.into_iter().for_each(|p| unsafe { free(p.cast()) });
    drop(kept);
    match round % 8 {
        0 => drop(Cache::<[u8; 48]>::new("short-lived").alloc([1; 48])),
        1 => drop(shared.flush()),
        2 => drop(shrink_all()),
        3 => {
            cpu_down(1);
            cpu_up(1).expect("memory");
        }
        _ => {}
    }
}

/// Everything that takes a lock, in a child, until its watchdog ends it.
fn child(shared: &Cache<[u64; 8]>) -> ! {
    // SAFETY: a watchdog.
    unsafe { libc::alarm(120) };
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for round in 0..8 {
            work(shared, round);
        }
        std::thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| work(shared, 1));
            }
        });
        let own: Cache<[u64; 8]> = Cache::new("the child's");
        drop(own.alloc([0; 8]));
        assert!(own.destroy().is_ok());
    }));
    // SAFETY: the end.
    unsafe { libc::_exit(i32::from(done.is_err())) }
}

#[test]
fn a_child_finds_no_lock_taken() {
    let rounds = if cfg!(debug_assertions) { 60 } else { 200 };
    let shared: Cache<[u64; 8]> = Cache::new("shared");
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        for thread in 0..4 {
            let (shared, stop) = (&shared, &stop);
            s.spawn(move || {
                for round in thread.. {
                    if stop.load(SeqCst) {
                        break;
                    }
                    work(shared, round);
                }
            });
        }
        for n in 0..rounds {
            // SAFETY: the child does what is under test, and ends without going back.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                child(&shared);
            }
            let mut status = 0;
            // SAFETY: our own child.
            let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
            if (waited, status) != (pid, 0) {
                stop.store(true, SeqCst);
                panic!("child {n} failed, or hung (14): {status}");
            }
        }
        stop.store(true, SeqCst);
    });
    assert_eq!(shared.stats().live, 0);
}
