//! CPUs, and tests that must not hang.
#![allow(dead_code)] // each test binary uses its part

use quietus_kvfree::{GracePeriods, Kvfree};
use quietus_slab::raw;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

/// Ends the process with a word unless it is dropped within three minutes: a deadlock cannot be left by unwinding.
pub(crate) struct Watchdog(#[allow(dead_code)] Sender<()>);

impl Watchdog {
    pub(crate) fn new(what: &'static str) -> Watchdog {
        let (alive, watch) = mpsc::channel();
        std::thread::spawn(move || {
            if watch.recv_timeout(Duration::from_secs(180)) == Err(RecvTimeoutError::Timeout) {
                eprintln!("hangs: {what}");
                std::process::abort();
            }
        });
        Watchdog(alive)
    }
}

/// Keeps this thread on one CPU of those the process may run on, chosen by number; false: it has fewer.
#[cfg(target_os = "linux")]
pub(crate) fn pin(n: usize) -> bool {
    // SAFETY: the set is zeroed, filled in by the kernel, and lives through the calls.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        // The main thread's, which is never pinned; this one may have inherited a pin.
        assert_eq!(libc::sched_getaffinity(libc::getpid(), size_of::<libc::cpu_set_t>(), &mut set), 0);
        let Some(cpu) = (0..libc::CPU_SETSIZE as usize).filter(|&cpu| libc::CPU_ISSET(cpu, &set)).nth(n) else {
            return false;
        };
        libc::CPU_ZERO(&mut set);
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) == 0
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn pin(_: usize) -> bool {
    false
}

/// Runs `f` on a thread of its own that stays in one place (a CPU, or a slot of its own) until `f` ends.
pub(crate) fn in_one_place<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| {
        let place = scope.spawn(|| {
            pin(0);
            f()
        });
        place.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A thread that does as it is told, in a place of its own.
pub(crate) struct Elsewhere {
    jobs: Option<Sender<Box<dyn FnOnce() + Send>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Elsewhere {
    /// In another place than this thread, which is pinned to its first CPU. `None`, with a word: there is only one place.
    pub(crate) fn new() -> Option<Elsewhere> {
        let here = raw::sites().next();
        for _ in 0..64 {
            let (jobs, queue) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
            let (place, told) = mpsc::channel();
            let thread = std::thread::spawn(move || {
                pin(1);
                place.send(raw::sites().next()).unwrap();
                queue.into_iter().for_each(|job| job());
            });
            let there = told.recv().unwrap();
            if here != there {
                return Some(Elsewhere { jobs: Some(jobs), thread: Some(thread) });
            }
            drop(jobs);
            thread.join().unwrap();
        }
        eprintln!("skipped in part: this process may run on one CPU only");
        None
    }

    /// Runs `job` there, and waits for its end.
    pub(crate) fn run<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> R {
        let (send, done) = mpsc::channel();
        let job = Box::new(move || send.send(job()).unwrap());
        self.jobs.as_ref().unwrap().send(job).unwrap();
        done.recv().expect("the job panicked")
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.jobs = None;
        let _ = self.thread.take().unwrap().join();
    }
}

/// The worker of a `Kvfree` is in a deferred function until this goes: it does nothing else, and believes itself awake, so that
/// nobody has to wake it but for a kick.
pub(crate) struct Busy(#[allow(dead_code)] Sender<()>);

impl Busy {
    pub(crate) fn new<G: GracePeriods>(kvfree: &Kvfree<G>) -> Busy {
        raw::grow(4); // no miss of its own
        let ((began, begun), (end, ended)) = (mpsc::channel(), mpsc::channel::<()>());
        kvfree.defer(move || {
            began.send(()).unwrap();
            let _ = ended.recv();
        });
        kvfree.flush();
        begun.recv().unwrap();
        Busy(end)
    }
}
