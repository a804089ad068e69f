//! Threads that hold a section until told, wakers that count, a process of one's own.

use quietus::Domain;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::task::{Wake, Waker};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// A test that has not ended by then hangs.
const LONG: Duration = Duration::from_secs(60);

/// Waits for `done`, doing nothing else.
#[track_caller]
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Keeps this thread on the CPU that it is on, where the system lets it: what it frees is where it allocates.
pub(crate) fn stay() {
    #[cfg(all(target_os = "linux", not(miri)))]
    // SAFETY: a set of one CPU, which lives through the call.
    unsafe {
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu() as usize, &mut one);
        libc::sched_setaffinity(0, size_of_val(&one), &one);
    }
}

/// Ends the threads that ask for it, whatever happens.
pub(crate) struct Stop<'a>(pub(crate) &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// A thread inside a section, until this is dropped.
pub(crate) struct Sleeper<'s> {
    end: Option<mpsc::Sender<()>>,
    thread: Option<ScopedJoinHandle<'s, ()>>,
}

impl<'s> Sleeper<'s> {
    pub(crate) fn new<'e>(scope: &'s Scope<'s, 'e>, domain: &'e Domain) -> Sleeper<'s> {
        let (end, wait) = mpsc::channel();
        let (inside, ready) = mpsc::channel();
        let body = move || {
            let _guard = domain.pin();
            inside.send(()).unwrap();
            let _ = wait.recv();
        };
        let thread = std::thread::Builder::new().name("sleeper".into()).spawn_scoped(scope, body).unwrap();
        ready.recv().unwrap();
        Sleeper { end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        self.end = None;
        self.thread.take().unwrap().join().unwrap();
    }
}

/// How often a task was woken.
#[derive(Default)]
pub(crate) struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Woken {
    pub(crate) fn new() -> (Arc<Woken>, Waker) {
        let woken = Arc::new(Woken::default());
        (Arc::clone(&woken), Waker::from(woken))
    }
    pub(crate) fn times(&self) -> u64 {
        self.0.load(SeqCst)
    }
}

/// The body of a test that needs a process to itself: the test called `test` runs itself again in a child, and there the body.
/// `None`: this is the child, which has run it.
#[track_caller]
pub(crate) fn in_child(test: &str, body: impl FnOnce()) -> Option<Output> {
    in_child_with(test, &[], body)
}

/// [`in_child`], with these variables set there.
#[track_caller]
pub(crate) fn in_child_with(test: &str, env: &[(&str, &str)], body: impl FnOnce()) -> Option<Output> {
    if std::env::var("QUIETUS_CHILD").as_deref() == Ok(test) {
        body();
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command
        .args(["--exact", test, "--nocapture"])
        .env("QUIETUS_CHILD", test)
        .envs(env.iter().copied())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && !out.contains("running 0 tests"), "{}\n{out}\n{err}", output.status);
    Some(output)
}
