//! R6, forks: the child may use everything, and of what was pending each process frees its own copy, once.
#![cfg(all(target_os = "linux", not(miri)))]

use crate::support::{Sleeper, Stop, in_child, stay, until};
use quietus::slab::{Cache, SlabBox};
use quietus::{Domain, pin, qsbr, synchronize};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

/// Forks. The child runs `body` and ends, within three minutes; this thread waits for it.
#[track_caller]
pub(crate) fn forked(body: impl FnOnce()) {
    // SAFETY: the child runs what is under test, and ends without going back.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // SAFETY: a watchdog, and the end.
        unsafe {
            libc::alarm(180);
            let code = i32::from(catch_unwind(AssertUnwindSafe(body)).is_err());
            libc::_exit(code);
        }
    }
    let mut status = 0;
    // SAFETY: `status` lives through the call.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0, "the child failed, or was ended by its watchdog (14)");
}

#[test]
fn r_6_a_child_may_use_everything() {
    in_child("fork::r_6_a_child_may_use_everything", || {
        let domain = Domain::new();
        let cache: Cache<[u64; 4]> = Cache::new("forked");
        let runs = Arc::new(AtomicU64::new(0));
        let defer = || {
            let runs = Arc::clone(&runs);
            domain.defer(move || _ = runs.fetch_add(1, SeqCst));
        };
        // SAFETY: fresh, known to nobody else.
        let retire = || unsafe { domain.retire(SlabBox::into_raw(cache.alloc([7; 4]))) };
        for _ in 0..100 {
            defer();
        }
        domain.barrier();
        assert_eq!(runs.load(SeqCst), 100);
        std::thread::scope(|scope| {
            // Inside, and so nothing below is freed in the parent.
            let sleeper = Sleeper::new(scope, &domain);
            let (end, wait) = std::sync::mpsc::channel::<()>();
            let (online, ready) = std::sync::mpsc::channel();
            scope.spawn(move || {
                let (_guard, _reader) = (pin(), qsbr::reader());
                online.send(()).unwrap();
                let _ = wait.recv();
            });
            ready.recv().unwrap();
            for _ in 0..1000 {
                defer();
                retire();
            }
            domain.flush();
            forked(|| {
                assert_eq!(runs.load(SeqCst), 100);
                let cookie = domain.cookie();
                cookie.wait();
                assert!(cookie.holdouts().is_empty());
                domain.barrier();
                assert_eq!(runs.load(SeqCst), 1100, "what was pending, once; and nothing of what was not");
                assert_eq!((cache.stats().live, domain.stats().kvfree.leaked), (0, 0));
                // The worker is another one, and does what it did.
                defer();
                retire();
                until("it frees by age", || (runs.load(SeqCst), cache.stats().live) == (1101, 0));
                synchronize();
                qsbr::domain().synchronize();
                // A child forks, too; and new threads use it.
                forked(|| {
                    std::thread::scope(|scope| {
                        for _ in 0..4 {
                            scope.spawn(|| {
                                drop((domain.pin(), pin()));
                                defer();
                                domain.synchronize();
                            });
                        }
                    });
                    domain.barrier();
                    assert_eq!(runs.load(SeqCst), 1105);
                });
                drop(Domain::new());
            });
            assert_eq!(runs.load(SeqCst), 100, "the child's copies were the child's");
            assert!(!domain.cookie().is_elapsed(), "the parent's sections are open");
            drop(sleeper);
            drop(end);
        });
        domain.barrier();
        assert_eq!(runs.load(SeqCst), 1100);
        assert_eq!((cache.stats().live, domain.stats().kvfree.leaked), (0, 0));
        drop(domain);
    });
}

/// Guards of the thread that forks go on protecting, in both.
#[test]
fn r_6_a_section_goes_on_in_both() {
    in_child("fork::r_6_a_section_goes_on_in_both", || {
        let domain = Domain::new();
        let mut guard = Some(domain.pin());
        let cookie = domain.cookie();
        forked(|| {
            assert!(!cookie.is_elapsed());
            assert_eq!(cookie.holdouts()[0].tid, u64::from(std::process::id()));
            drop(guard.take());
            assert!(cookie.is_elapsed());
        });
        assert!(!cookie.is_elapsed());
        drop(guard);
        assert!(cookie.is_elapsed());
    });
}

/// Forks at every moment of everything: no lock is found taken, no batch half-way. With restartable sequences only: without them a
/// vanished thread may have left one of the allocator's slots taken (docs/DESIGN.md, "Limits").
#[test]
fn r_6_forks_beside_retiring_threads() {
    const OBJECTS: u64 = 40;
    in_child("fork::r_6_forks_beside_retiring_threads", || {
        let domain = Domain::builder().budget(1 << 16).build();
        let stop = AtomicBool::new(false);
        let runs: Arc<[AtomicU64]> = (0..OBJECTS).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            let (domain, stop, runs) = (&domain, &stop, &runs);
            let _end = Stop(stop);
            for _ in 0..2 {
                scope.spawn(move || {
                    while !stop.load(SeqCst) {
                        let guard = domain.pin();
                        for _ in 0..100 {
                            // SAFETY: fresh, known to nobody else.
                            unsafe { domain.retire_box(std::ptr::NonNull::from(Box::leak(Box::new([1u64; 8])))) };
                        }
                        drop(guard);
                        domain.synchronize();
                    }
                });
            }
            for i in 0..OBJECTS as usize {
                let mine = Arc::clone(runs);
                domain.defer(move || _ = mine[i].fetch_add(1, SeqCst));
                forked(|| {
                    let leaked = domain.stats().kvfree.leaked;
                    domain.barrier();
                    assert_eq!(domain.stats().kvfree.pending_objects, 0);
                    let (lost, twice) = runs[..=i].iter().fold((0, 0), |(lost, twice), run| match run.load(SeqCst) {
                        0 => (lost + 1, twice),
                        1 => (lost, twice),
                        _ => (lost, twice + 1),
                    });
                    assert_eq!(twice, 0);
                    assert!(lost <= leaked, "{lost} lost, {leaked} said to be");
                    let before = domain.stats().grace_periods;
                    domain.synchronize();
                    assert!(domain.stats().grace_periods > before);
                });
            }
        });
        domain.barrier();
        assert!(runs.iter().all(|run| run.load(SeqCst) == 1));
        assert_eq!(domain.stats().kvfree.leaked, 0);
    });
}

/// A child that only executes something else need not wait for a destructor that does not end.
#[test]
fn r_6_a_fork_does_not_wait_for_a_destructor() {
    in_child("fork::r_6_a_fork_does_not_wait_for_a_destructor", || {
        let domain = Domain::new();
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let (begun, ready) = std::sync::mpsc::channel();
        domain.defer(move || {
            begun.send(()).unwrap();
            let _ = wait.recv();
        });
        domain.flush();
        ready.recv().unwrap();
        forked(|| {
            assert_eq!(domain.stats().kvfree.leaked, 1, "what the parent's worker is running");
            domain.barrier();
        });
        drop(end);
        domain.barrier();
        assert_eq!((domain.stats().kvfree.leaked, domain.stats().kvfree.calls_run), (0, 1));
    });
}

/// A deferred function forks: it goes on in both.
#[test]
fn r_6_a_deferred_function_may_fork() {
    in_child("fork::r_6_a_deferred_function_may_fork", || {
        let domain = Domain::new();
        let done = Arc::new(AtomicBool::new(false));
        let mine = Arc::clone(&done);
        domain.defer(move || {
            forked(|| drop(pin()));
            mine.store(true, SeqCst);
        });
        domain.barrier();
        assert!(done.load(SeqCst));
    });
}

/// Tasks of threads that are gone keep none of the child's from being woken.
#[test]
fn r_6_a_child_may_await() {
    use std::future::{Future, IntoFuture};
    use std::task::Context;
    in_child("fork::r_6_a_child_may_await", || {
        let domain = Domain::new();
        std::thread::scope(|scope| {
            let sleeper = Sleeper::new(scope, &domain);
            let (_, waker) = crate::support::Woken::new();
            let mut task = Box::pin(domain.cookie().into_future());
            assert!(task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            forked(|| {
                drop(domain.pin());
                std::thread::scope(|scope| {
                    let sleeper = Sleeper::new(scope, &domain);
                    let (woken, waker) = crate::support::Woken::new();
                    let mut task = Box::pin(domain.cookie().into_future());
                    assert!(task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
                    drop(sleeper);
                    until("it is woken", || woken.times() == 1);
                });
            });
            drop(sleeper);
        });
    });
}

/// What a sweep was just freeing is lost to the child, and counted.
#[test]
fn r_6_what_a_vanished_sweep_had_in_hand_is_counted() {
    struct Slow(std::sync::mpsc::Sender<()>, std::sync::mpsc::Receiver<()>);
    impl Drop for Slow {
        fn drop(&mut self) {
            let _ = self.0.send(());
            let _ = self.1.recv();
        }
    }
    in_child("fork::r_6_what_a_vanished_sweep_had_in_hand_is_counted", || {
        let domain = Domain::builder().batching(false).build();
        let (begun, ready) = std::sync::mpsc::channel();
        let (end, wait) = std::sync::mpsc::channel();
        // SAFETY: fresh, known to nobody else.
        unsafe { domain.retire_box(std::ptr::NonNull::from(Box::leak(Box::new(Slow(begun, wait))))) };
        ready.recv().unwrap();
        forked(|| {
            domain.barrier();
            let stats = domain.stats().kvfree;
            assert_eq!((stats.pending_objects, stats.pending_bytes, stats.leaked), (0, 0, 1));
        });
        drop(end);
    });
}

/// Several threads fork at once: a short destructor ends before each.
#[test]
fn r_6_forks_at_once_lose_no_batch() {
    in_child("fork::r_6_forks_at_once_lose_no_batch", || {
        let (domain, stop) = (Domain::new(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (domain, stop) = (&domain, &stop);
            let _end = Stop(stop);
            scope.spawn(move || {
                while !stop.load(SeqCst) {
                    domain.defer(|| std::thread::sleep(std::time::Duration::from_millis(2)));
                    domain.flush();
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            });
            let forkers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(move || {
                        for _ in 0..100 {
                            let began = std::time::Instant::now();
                            forked(|| {
                                // A fork waits for 100 ms at most: only one that took so long may lose what has run longer than it meant to.
                                let took = began.elapsed() >= std::time::Duration::from_millis(100);
                                assert!(took || domain.stats().kvfree.leaked == 0);
                            });
                        }
                    })
                })
                .collect();
            forkers.into_iter().for_each(|forker| forker.join().unwrap());
        });
    });
}

/// A handler that interrupts a fork, and forks itself, takes nothing of the outer one away.
#[test]
fn r_6_a_fork_within_a_fork() {
    static ONCE: AtomicBool = AtomicBool::new(false);
    extern "C" fn prepare() {
        if !ONCE.swap(true, SeqCst) {
            // SAFETY: the child ends at once.
            unsafe {
                let child = libc::fork();
                if child == 0 {
                    libc::_exit(0);
                }
                libc::waitpid(child, std::ptr::null_mut(), 0);
            }
        }
    }
    in_child("fork::r_6_a_fork_within_a_fork", || {
        // Registered before the library's own, and so called after it.
        // SAFETY: a function of this program.
        unsafe { libc::pthread_atfork(Some(prepare), None, None) };
        let (domain, runs) = (Domain::new(), Arc::new(AtomicU64::new(0)));
        domain.barrier();
        forked(|| {
            let mine = Arc::clone(&runs);
            domain.defer(move || _ = mine.fetch_add(1, SeqCst));
            until("the child's worker is there", || runs.load(SeqCst) == 1);
        });
        forked(|| domain.barrier());
    });
}

/// A child whose first attempt to start a worker fails tries again.
#[test]
fn r_6_a_child_tries_again_to_start_its_worker() {
    in_child("fork::r_6_a_child_tries_again_to_start_its_worker", || {
        let (domain, runs) = (Domain::builder().batching(false).build(), Arc::new(AtomicU64::new(0)));
        domain.barrier();
        let defer = || {
            let mine = Arc::clone(&runs);
            domain.defer(move || _ = mine.fetch_add(1, SeqCst));
        };
        forked(|| {
            // SAFETY: plain values that live through the calls.
            let limit = |most| unsafe {
                let mut was: libc::rlimit = std::mem::zeroed();
                assert_eq!(libc::getrlimit(libc::RLIMIT_AS, &mut was), 0);
                assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &libc::rlimit { rlim_cur: most, ..was }), 0);
                was.rlim_cur
            };
            let size = std::fs::read_to_string("/proc/self/statm").unwrap();
            let pages: u64 = size.split(' ').next().unwrap().parse().unwrap();
            // Less than a thread's stack is left.
            let before = limit((pages << 12) + (1 << 20));
            while std::thread::Builder::new().spawn(std::thread::park).is_ok() {}
            defer();
            limit(before);
            defer();
            until("both have run", || runs.load(SeqCst) == 2);
        });
    });
}

/// What the child adds to a block that its parent has opened is freed by age, too.
#[test]
fn r_6_a_child_adds_to_an_open_block() {
    in_child("fork::r_6_a_child_adds_to_an_open_block", || {
        stay();
        let domain = Domain::builder().age_limit(std::time::Duration::from_secs(2)).build();
        let runs = Arc::new(AtomicU64::new(0));
        let defer = || {
            let mine = Arc::clone(&runs);
            domain.defer(move || _ = mine.fetch_add(1, SeqCst));
        };
        defer();
        forked(|| {
            defer();
            until("both have run", || runs.load(SeqCst) == 2);
        });
        domain.barrier();
    });
}

/// A destructor of a thread-local may fork, after others are gone.
#[test]
fn r_6_a_fork_in_a_destructor_of_a_thread_local() {
    struct Late;
    impl Drop for Late {
        fn drop(&mut self) {
            forked(|| ());
        }
    }
    thread_local!(static LATE: Late = const { Late });
    in_child("fork::r_6_a_fork_in_a_destructor_of_a_thread_local", || {
        let domain = Domain::new();
        std::thread::spawn(|| {
            LATE.with(|_| ());
            forked(|| ());
        })
        .join()
        .unwrap();
        let runs = Arc::new(AtomicU64::new(0));
        let mine = Arc::clone(&runs);
        domain.defer(move || _ = mine.fetch_add(1, SeqCst));
        until("it is run", || runs.load(SeqCst) == 1);
    });
}
