//! R1: cookies as futures, waiters that share grace periods, errors instead of panics.

use crate::support::{Sleeper, Stop, Woken, until};
use quietus::{Domain, InsideSection};
use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

const WAITERS: usize = 1000;

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }
}

/// The least executor there is.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(std::sync::Arc::new(Unpark(std::thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn r_1_a_thousand_tasks_share_two_grace_periods() {
    let domain = Domain::builder().workers(false).build();
    let guard = domain.pin();
    let mut tasks: Vec<_> = (0..WAITERS).map(|_| (Box::pin(domain.cookie().into_future()), Woken::new())).collect();
    for (task, (_, waker)) in &mut tasks {
        assert!(task.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        // Again, as a task that was woken by something else does.
        assert!(task.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
    }
    assert!(domain.tick(), "somebody waits");
    assert!(tasks.iter().all(|(_, (woken, _))| woken.times() == 0));
    let before = domain.stats().grace_periods;
    drop(guard);
    domain.tick();
    assert!(domain.stats().grace_periods <= before + 2, "{before} before: {:?}", domain.stats());
    assert!(!domain.tick(), "nobody waits");
    for (task, (woken, waker)) in &mut tasks {
        assert_eq!(woken.times(), 1, "each once");
        assert!(task.as_mut().poll(&mut Context::from_waker(waker)).is_ready());
    }
}

#[test]
fn r_1_threads_share_two_grace_periods() {
    let domain = Domain::builder().workers(false).build();
    std::thread::scope(|scope| {
        let sleeper = Sleeper::new(scope, &domain);
        let first = domain.cookie();
        assert!(!first.is_elapsed(), "one is under way");
        let cookies: Vec<_> = (0..100).map(|_| domain.cookie()).collect();
        for cookie in cookies {
            scope.spawn(move || cookie.wait());
        }
        let before = domain.stats().grace_periods;
        drop(sleeper);
        first.wait();
        until("the others follow", || domain.stats().grace_periods == before + 2);
    });
    let periods = domain.stats().grace_periods;
    assert_eq!(periods, 2, "the one that was under way, and one for all that came meanwhile");
}

#[test]
fn r_1_the_worker_wakes_a_task() {
    let domain = Domain::new();
    for _ in 0..3 {
        block_on(domain.cookie().into_future());
        // Long enough for the worker to sleep for good.
        std::thread::sleep(Duration::from_millis(60));
    }
    block_on(async {
        domain.cookie().await;
        quietus::Domain::global().cookie().await;
        quietus::qsbr::domain().cookie().await;
    });
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    drop(domain.pin());
                    let cookie = domain.cookie();
                    block_on(cookie.into_future());
                    assert!(cookie.is_elapsed());
                }
            });
        }
    });
}

#[test]
fn r_1_a_task_is_not_ready_before_its_grace_period() {
    let domain = Domain::new();
    std::thread::scope(|scope| {
        let sleeper = Sleeper::new(scope, &domain);
        let mut task = Box::pin(domain.cookie().into_future());
        let (woken, waker) = Woken::new();
        for _ in 0..20 {
            assert!(task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(woken.times(), 0);
        drop(sleeper);
        until("it is woken", || woken.times() == 1);
        assert!(task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    });
}

#[test]
fn r_1_a_dropped_task_leaves_nothing_behind() {
    let domain = Domain::builder().workers(false).build();
    let guard = domain.pin();
    let (woken, waker) = Woken::new();
    for _ in 0..10 {
        let mut task = Box::pin(domain.cookie().into_future());
        assert!(task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    assert_eq!(std::sync::Arc::strong_count(&woken), 2, "ours, and the waker's");
    assert!(!domain.tick(), "nobody waits");
    drop(guard);
    domain.tick();
    assert_eq!(woken.times(), 0);
}

#[test]
fn r_1_waiting_inside_is_an_error_or_a_panic() {
    let domain = Domain::new();
    let guard = domain.pin();
    assert_eq!(domain.try_synchronize(), Err(InsideSection));
    Domain::new().try_synchronize().expect("another domain's grace periods do not wait for this section");
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| domain.synchronize())).unwrap_err();
    drop(guard);
    assert_eq!(domain.try_synchronize(), Ok(()));
    let qsbr = Domain::qsbr();
    let mut reader = qsbr.reader();
    assert_eq!(qsbr.try_synchronize(), Err(InsideSection));
    assert_eq!(reader.offline(|| qsbr.try_synchronize()), Ok(()));
}

/// Of two who register at once the first may be ready at its second look: somebody has to tell the worker all the same.
#[test]
fn r_1_a_task_that_was_first_and_is_ready_leaves_nobody_alone() {
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    let (domain, done) = (Domain::new(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (domain, done) = (&domain, &done);
        let _end = Stop(done);
        scope.spawn(move || {
            while !done.load(SeqCst) {
                domain.synchronize();
            }
        });
        let tasks: Vec<_> = (0..3)
            .map(|_| scope.spawn(move || (0..20_000).for_each(|_| block_on(domain.cookie().into_future()))))
            .collect();
        // As long as it takes; one that is left alone never ends (by the watchdog of whoever runs the tests, then).
        tasks.into_iter().for_each(|task| task.join().unwrap());
    });
}

/// A waker whose code panics, with a payload that does, too, ends neither the call nor the others.
#[test]
fn r_1_a_waker_may_panic() {
    struct Worse;
    impl Drop for Worse {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new("a payload's own"));
        }
    }
    struct Bad;
    impl Wake for Bad {
        fn wake(self: std::sync::Arc<Self>) {
            std::panic::resume_unwind(Box::new(Worse));
        }
    }
    let domain = Domain::builder().workers(false).build();
    let guard = domain.pin();
    let (mut first, mut second) = (Box::pin(domain.cookie().into_future()), Box::pin(domain.cookie().into_future()));
    let (woken, waker) = Woken::new();
    let bad = Waker::from(std::sync::Arc::new(Bad));
    assert!(first.as_mut().poll(&mut Context::from_waker(&bad)).is_pending());
    assert!(second.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop(guard);
    domain.tick();
    assert_eq!(woken.times(), 1);
}

/// A task that is run where it is woken, on the worker, may own the domain.
#[test]
fn r_1_a_waker_may_end_the_domain() {
    use std::sync::{Arc, Mutex};
    struct Owner(Mutex<Option<Arc<Domain>>>, std::sync::mpsc::Sender<bool>);
    impl Wake for Owner {
        fn wake(self: Arc<Self>) {
            let domain = self.0.lock().unwrap().take();
            until("this is the last", || domain.as_ref().is_none_or(|domain| Arc::strong_count(domain) == 1));
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(domain)));
            self.1.send(ended.is_ok()).unwrap();
        }
    }
    let (send, ended) = std::sync::mpsc::channel();
    let domain = Arc::new(Domain::new());
    let weak = Arc::downgrade(&domain);
    let waker = Waker::from(Arc::new(Owner(Mutex::new(Some(Arc::clone(&domain))), send)));
    std::thread::scope(|scope| {
        let sleeper = Sleeper::new(scope, &domain);
        let mut task = Box::pin(domain.cookie().into_future());
        assert!(task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        std::mem::forget(task);
        drop(sleeper);
    });
    drop((waker, domain));
    assert!(ended.recv().unwrap());
    assert!(weak.upgrade().is_none());
}

#[test]
fn r_1_times_may_be_as_long_as_there_are() {
    use crate::support::in_child;
    let output = in_child("waiting::r_1_times_may_be_as_long_as_there_are", || {
        let max = Duration::MAX;
        let domain = Domain::builder().age_limit(max).wait_limit(max).stall_after(max).build();
        domain.defer(|| ());
        assert!(domain.cookie().wait_timeout(max));
        domain.flush();
        until("the worker has run it", || domain.stats().kvfree.calls_run == 1);
    });
    if let Some(output) = output {
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!text.contains("panicked"), "{text}");
    }
}

/// How often a thread of this process has gone to sleep.
#[cfg(all(target_os = "linux", not(miri)))]
fn sleeps(tid: libc::c_long) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}

#[test]
#[cfg(all(target_os = "linux", not(miri)))]
fn r_1_a_waiting_thread_sleeps_and_keeps_its_timer_slack() {
    // More than an `int` holds.
    const SLACK: libc::c_long = 5_000_000_000;
    fn prctl(option: libc::c_int, argument: libc::c_long) -> libc::c_long {
        // SAFETY: the two options below touch no memory, and change this thread's timers at most.
        unsafe { libc::syscall(libc::SYS_prctl, libc::c_long::from(option), argument, 0, 0, 0) }
    }
    let domain = Domain::builder().workers(false).build();
    std::thread::scope(|scope| {
        let sleeper = Sleeper::new(scope, &domain);
        let (tell, told) = std::sync::mpsc::channel();
        let waiter = scope.spawn({
            let domain = &domain;
            move || {
                assert_eq!(prctl(libc::PR_SET_TIMERSLACK, SLACK), 0);
                // SAFETY: gettid takes nothing and cannot fail.
                tell.send(unsafe { libc::syscall(libc::SYS_gettid) }).unwrap();
                domain.synchronize();
                prctl(libc::PR_GET_TIMERSLACK, 0)
            }
        });
        let tid = told.recv().unwrap();
        let before = sleeps(tid);
        until("it sleeps again and again", || sleeps(tid) >= before + 12);
        drop(sleeper);
        assert_eq!(waiter.join().unwrap(), SLACK);
    });
}
