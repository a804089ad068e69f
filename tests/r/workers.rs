//! R8, workers that scale with what is behind: further ones are started where user code piles up or keeps the one that is there, never
//! more than allowed; they end by themselves, and with their domain; barriers are as complete as with one.

use crate::support::{Sleeper, Woken, in_child, until};
use quietus::Domain;
use std::future::IntoFuture;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier, mpsc};
use std::task::Context;
use std::time::Duration;

/// Threads that have run a blocking function, and have ended: counted at the very end, which takes its time.
static ENDED: AtomicU64 = AtomicU64::new(0);
thread_local!(static END: End = const { End });

struct End;

impl Drop for End {
    fn drop(&mut self) {
        std::thread::sleep(Duration::from_millis(10));
        ENDED.fetch_add(1, SeqCst);
    }
}

/// Defers a function that has begun when this returns, and goes on until the answer is dropped. `others` keeps the domain busy meanwhile.
fn block(domain: &Domain, others: impl Fn()) -> mpsc::Sender<()> {
    let (end, wait) = mpsc::channel::<()>();
    let (begun, ready) = mpsc::channel();
    domain.defer(move || {
        END.with(|_| ());
        begun.send(()).unwrap();
        let _ = wait.recv();
    });
    domain.flush();
    until("the blocking function runs", || {
        others();
        ready.try_recv().is_ok()
    });
    end
}

/// Defers more than a block of functions that count.
fn flood(domain: &Domain, runs: &Arc<AtomicU64>) {
    for _ in 0..600 {
        let runs = Arc::clone(runs);
        domain.defer(move || _ = runs.fetch_add(1, SeqCst));
    }
}

#[test]
fn r_8_a_function_that_blocks_leaves_the_rest_to_others() {
    let domain = Domain::builder().most_workers(2).build();
    let end = block(&domain, || ());
    assert_eq!((domain.stats().kvfree.workers, domain.stats().kvfree.further_workers), (1, 0));
    let runs = Arc::new(AtomicU64::new(0));
    until("others run", || {
        flood(&domain, &runs);
        runs.load(SeqCst) > 0
    });
    assert_eq!((domain.stats().kvfree.workers, domain.stats().kvfree.further_workers), (2, 1));
    // The one that has come does everything: also what lies in a half-full block, by its age.
    until("nothing is left but the one", || domain.stats().kvfree.pending_objects == 1);
    let (tell, told) = mpsc::channel();
    domain.defer(move || tell.send(()).unwrap());
    told.recv().unwrap();
    // It stays as long as the first is kept, and ends when that is free.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(domain.stats().kvfree.workers, 2);
    drop(end);
    until("it ends", || domain.stats().kvfree.workers == 1);
    // Another takes its place when it is needed.
    let end = block(&domain, || ());
    let before = runs.load(SeqCst);
    until("others run", || {
        flood(&domain, &runs);
        runs.load(SeqCst) > before
    });
    assert_eq!(domain.stats().kvfree.further_workers, 2);
    drop(end);
    domain.barrier();
    assert_eq!(domain.stats().kvfree.pending_objects, 0);
}

/// Sixteen batches behind a reader, no one who retires any more: the worker itself sees that it is too much. Two of the functions wait for
/// each other.
#[test]
fn r_8_a_worker_with_too_much_behind_it_gets_another() {
    let domain = Domain::builder().most_workers(2).build();
    let (meet, met) = (Arc::new(Barrier::new(2)), Arc::new(AtomicU64::new(0)));
    std::thread::scope(|scope| {
        let sleeper = Sleeper::new(scope, &domain);
        for i in 0..10_000 {
            let (meet, met) = (Arc::clone(&meet), Arc::clone(&met));
            domain.defer(move || {
                if i == 0 || i == 5000 {
                    meet.wait();
                    met.fetch_add(1, SeqCst);
                }
            });
        }
        assert_eq!(domain.stats().kvfree.further_workers, 0);
        drop(sleeper);
        until("they meet", || met.load(SeqCst) == 2);
    });
    assert_eq!(domain.stats().kvfree.further_workers, 1);
}

#[test]
fn r_8_there_are_no_more_workers_than_allowed() {
    for most in [1, 3] {
        let domain = Domain::builder().most_workers(most).build();
        let runs = Arc::new(AtomicU64::new(0));
        let ends: Vec<_> = (0..most).map(|_| block(&domain, || flood(&domain, &runs))).collect();
        std::thread::sleep(Duration::from_millis(10));
        until("what was deferred before is queued", || {
            domain.flush();
            domain.stats().kvfree.oldest.is_some()
        });
        let before = runs.load(SeqCst);
        for _ in 0..20 {
            flood(&domain, &runs);
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(runs.load(SeqCst), before, "nobody is left to run them");
        let stats = domain.stats().kvfree;
        assert_eq!((stats.workers, stats.further_workers), (most as u32, most as u64 - 1));
        // What runs no user code goes on all the same: retirers help, grace periods end.
        domain.synchronize();
        drop(ends);
        domain.barrier();
        assert_eq!(domain.stats().kvfree.pending_objects, 0);
    }
}

/// Whoever awaits a cookie does not retire, and opens no block.
#[test]
fn r_8_a_task_is_woken_although_the_worker_is_kept() {
    let domain = Domain::builder().most_workers(2).build();
    let end = block(&domain, || ());
    std::thread::scope(|scope| {
        let sleeper = Sleeper::new(scope, &domain);
        let mut task = Box::pin(domain.cookie().into_future());
        let (woken, waker) = Woken::new();
        assert!(task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(sleeper);
        until("it is woken", || woken.times() == 1);
        assert!(task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    });
    drop(end);
}

/// Each barrier finds everything done that was deferred before, whoever is at it.
#[test]
fn r_8_barriers_are_complete_beside_several_workers() {
    let domain = Domain::builder().most_workers(4).build();
    let runs = Arc::new(AtomicU64::new(0));
    let mut want = 0;
    std::thread::scope(|scope| {
        for round in 0..20 {
            let sleeper = Sleeper::new(scope, &domain);
            for _ in 0..20 {
                flood(&domain, &runs);
            }
            // The rest of the batch that the worker is in, when the barrier looks.
            let slow = Arc::clone(&runs);
            domain.defer(move || {
                std::thread::sleep(Duration::from_millis(round % 4));
                slow.fetch_add(1, SeqCst);
            });
            want += 20 * 600 + 1;
            drop(sleeper);
            domain.barrier();
            assert_eq!(runs.load(SeqCst), want);
        }
    });
}

#[cfg(target_os = "linux")]
fn workers_of_this_process() -> usize {
    let names = std::fs::read_dir("/proc/self/task").unwrap().filter_map(|task| {
        // A thread may end while one looks.
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
    });
    names.filter(|name| name.starts_with("quietus-drain")).count()
}

/// In a process of its own, whose threads are counted: all have ended when the domain has gone, although they were busy a moment ago.
#[cfg(target_os = "linux")]
#[test]
fn r_8_workers_end_with_their_domain() {
    in_child("workers::r_8_workers_end_with_their_domain", || {
        for round in 1..=20 {
            let domain = Domain::builder().most_workers(3).build();
            let runs = Arc::new(AtomicU64::new(0));
            let ends: Vec<_> = (0..3).map(|_| block(&domain, || flood(&domain, &runs))).collect();
            until("there are three, and those before have gone", || workers_of_this_process() == 3);
            drop(ends);
            drop(domain);
            assert_eq!(ENDED.load(SeqCst), 3 * round);
        }
    });
}

/// The workers of the parent are not the child's, nor waited for there: one of them in the middle of something, one asleep. The child has
/// as many as it needs.
#[cfg(all(target_os = "linux", not(miri)))]
#[test]
fn r_6_a_child_has_workers_of_its_own() {
    in_child("workers::r_6_a_child_has_workers_of_its_own", || {
        let domain = Domain::builder().most_workers(3).build();
        let runs = Arc::new(AtomicU64::new(0));
        let ends: Vec<_> = (0..2).map(|_| block(&domain, || flood(&domain, &runs))).collect();
        crate::fork::forked(|| {
            assert_eq!(workers_of_this_process(), 0);
            let end = block(&domain, || flood(&domain, &runs));
            let before = runs.load(SeqCst);
            until("others run", || {
                flood(&domain, &runs);
                runs.load(SeqCst) > before + 10_000
            });
            assert!(workers_of_this_process() >= 2);
            drop(end);
            domain.barrier();
            // SAFETY: made above, used no more; the parent has its own.
            drop(unsafe { std::ptr::read(&raw const domain) });
            until("its workers have gone", || workers_of_this_process() == 0);
        });
        drop(ends);
        domain.barrier();
    });
}
