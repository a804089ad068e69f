//! Objects that count their ends, and waits that end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How often each object has been dropped.
#[derive(Debug)]
pub(crate) struct Tally(Vec<AtomicU32>);

impl Tally {
    pub(crate) fn new(n: usize) -> Arc<Tally> {
        Arc::new(Tally((0..n).map(|_| AtomicU32::new(0)).collect()))
    }
    pub(crate) fn object(self: &Arc<Tally>, id: usize) -> Object {
        Object { tally: Arc::clone(self), id }
    }
    pub(crate) fn dropped(&self) -> usize {
        self.0.iter().filter(|n| n.load(SeqCst) > 0).count()
    }
    #[track_caller]
    pub(crate) fn each_once(&self) {
        for (id, n) in self.0.iter().enumerate() {
            assert_eq!(n.load(SeqCst), 1, "drops of object {id} of {}", self.0.len());
        }
    }
}

#[derive(Debug)]
pub(crate) struct Object {
    tally: Arc<Tally>,
    pub(crate) id: usize,
}

impl Drop for Object {
    fn drop(&mut self) {
        self.tally.0[self.id].fetch_add(1, SeqCst);
    }
}

/// Runs `drive` until `done`; panics when that takes more than a minute.
#[track_caller]
pub(crate) fn until(what: &str, mut drive: impl FnMut(), mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "not within a minute: {what}");
        drive();
    }
}

/// Runs `body`; ends the process when it has not returned after two minutes, because a thread that hangs cannot be failed.
pub(crate) fn watched<R>(what: &'static str, body: impl FnOnce() -> R) -> R {
    let (done, wait) = mpsc::channel::<()>();
    let dog = std::thread::spawn(move || {
        if wait.recv_timeout(Duration::from_secs(120)) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("{what}: still not done after two minutes");
            std::process::abort();
        }
    });
    let result = body();
    drop(done);
    dog.join().unwrap();
    result
}

/// A flag that is set when this goes, even by a panic, so that the threads that wait for it end.
pub(crate) struct Sets<'a>(pub(crate) &'a AtomicBool);

impl Drop for Sets<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// The message of a panic.
pub(crate) fn message(payload: Box<dyn std::any::Any + Send>) -> String {
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => payload.downcast_ref::<&str>().map_or_else(|| "?".into(), |s| (*s).into()),
    }
}
