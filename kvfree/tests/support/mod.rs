//! Sources of grace periods that a test controls, and objects that count their ends.
#![allow(dead_code)] // each test binary uses its part

pub(crate) mod doors;
pub(crate) mod machine;
pub(crate) mod pages;

use quietus_kvfree::{Cookie, GracePeriods, Kvfree};
use quietus_slab::SlabBox;
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::{Duration, Instant};

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Pretends that this thread is inside a section.
pub(crate) struct Inside;
impl Inside {
    pub(crate) fn enter() -> Inside {
        INSIDE.set(true);
        Inside
    }
}
impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

/// No readers at all: every grace period is over at once.
#[derive(Default, Clone)]
pub(crate) struct Instant_(Arc<AtomicU64>);

// SAFETY: there are no sections, so any answer is right; the calls do what 4 asks.
unsafe impl GracePeriods for Instant_ {
    fn start(&self) -> Cookie {
        Cookie(self.0.fetch_add(1, SeqCst) + 1)
    }
    fn poll(&self, _: Cookie) -> bool {
        true
    }
    fn synchronize(&self, _: Cookie) {}
    fn inside(&self) -> Option<bool> {
        Some(INSIDE.get())
    }
}

/// Grace periods end when the test says so.
#[derive(Default, Clone)]
pub(crate) struct Manual(Arc<Numbers>);

#[derive(Default)]
struct Numbers {
    started: AtomicU64,
    completed: AtomicU64,
    /// What `advance` was asked for last.
    asked: AtomicU64,
    /// `advance` and `synchronize` complete what they are asked for.
    willing: AtomicBool,
}

impl Manual {
    /// A source that completes exactly what it is asked to, and no more.
    pub(crate) fn willing() -> Manual {
        let manual = Manual::default();
        manual.0.willing.store(true, SeqCst);
        manual
    }
    /// Cookies handed out so far.
    pub(crate) fn started(&self) -> u64 {
        self.0.started.load(SeqCst)
    }
    pub(crate) fn completed(&self) -> u64 {
        self.0.completed.load(SeqCst)
    }
    /// The cookie that `advance` was asked for last.
    pub(crate) fn asked(&self) -> u64 {
        self.0.asked.load(SeqCst)
    }
    /// Ends every grace period up to `cookie`.
    pub(crate) fn complete(&self, cookie: u64) {
        self.0.completed.fetch_max(cookie, SeqCst);
    }
    /// Ends all that have been asked for, and from now on each as it is asked for.
    pub(crate) fn open(&self) {
        self.0.willing.store(true, SeqCst);
        self.complete(self.started());
    }
}

/// Ends all grace periods when it goes: a `Kvfree` that is dropped after it, even by a failing test, can wait for its last ones.
pub(crate) struct Opens<'a>(pub(crate) &'a Manual);
impl Drop for Opens<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

// SAFETY: there are no sections, so any answer is right; the calls do what 4 asks.
unsafe impl GracePeriods for Manual {
    fn start(&self) -> Cookie {
        Cookie(self.0.started.fetch_add(1, SeqCst) + 1)
    }
    fn poll(&self, cookie: Cookie) -> bool {
        self.completed() >= cookie.0
    }
    fn advance(&self, cookie: Cookie) -> bool {
        self.0.asked.store(cookie.0, SeqCst);
        if self.0.willing.load(SeqCst) {
            self.complete(cookie.0);
        }
        self.poll(cookie)
    }
    fn synchronize(&self, cookie: Cookie) {
        while !self.advance(cookie) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    fn inside(&self) -> Option<bool> {
        Some(INSIDE.get())
    }
}

/// How often each object has been dropped.
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
            assert_eq!(n.load(SeqCst), 1, "drops of object {id}");
        }
    }
}

pub(crate) struct Object {
    tally: Arc<Tally>,
    id: usize,
}
impl Drop for Object {
    fn drop(&mut self) {
        self.tally.0[self.id].fetch_add(1, SeqCst);
    }
}

/// Retires a value in slab memory of its size class.
pub(crate) fn retire<G: GracePeriods, T: Send>(kvfree: &Kvfree<G>, value: T) {
    // SAFETY: fresh, known to nobody else; what it borrows lives as long as the test.
    unsafe { kvfree.retire(SlabBox::into_raw(SlabBox::new(value))) }
}

/// Retires `size` bytes without a destructor.
pub(crate) fn retire_bytes<G: GracePeriods>(kvfree: &Kvfree<G>, size: usize) {
    let layout = std::alloc::Layout::from_size_align(size, 16).unwrap();
    // SAFETY: fresh, known to nobody else.
    unsafe { kvfree.retire_ptr(quietus_slab::alloc(layout).unwrap()) }
}

/// Waits until `done` holds; panics when it does not within a minute.
#[track_caller]
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sets a flag when it goes, so that others end too if this thread panics.
pub(crate) struct Stop<'a>(pub(crate) &'a AtomicBool);
impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

pub(crate) fn pointer<T>(p: NonNull<T>) -> usize {
    p.as_ptr().addr()
}
