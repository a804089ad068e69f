//! The one mutex of this crate and of `quietus-kvfree`: while a thread holds any of them it is marked, so that a signal handler which interrupts it can tell.
//!
//! Handed to by every module that has a lock. A handler may allocate, free and retire: fast paths take no lock, and a slow path
//! that finds its own thread [`held`] fails over instead of waiting for itself ([`cache`](crate::cache)).
//!
//! # Ordering
//! That of the mutex. The mark is one thread's own word; the compiler fences keep it outside the lock as a handler sees it.

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{
    AtomicU32,
    Ordering::{Relaxed, SeqCst},
    compiler_fence,
};
use std::time::Duration;

thread_local! {
    /// Locks of the allocator that this thread holds or waits for.
    static DEPTH: AtomicU32 = const { AtomicU32::new(0) };
}

/// Is this thread inside one of the allocator's locks? True only in a signal handler that interrupted it there.
pub fn held() -> bool {
    // Relaxed: this thread's own word; atomic because a handler may read it in the middle.
    DEPTH.try_with(|d| d.load(Relaxed)).unwrap_or(0) > 0
}

fn mark(step: i32) {
    // SeqCst (compiler only): the mark is outside the lock, as a handler on this thread sees it.
    compiler_fence(SeqCst);
    // Relaxed: as in `held`.
    let _ = DEPTH.try_with(|d| d.store(d.load(Relaxed).wrapping_add_signed(step), Relaxed));
    compiler_fence(SeqCst);
}

/// A mutex that marks its holder.
#[derive(Debug, Default)]
pub struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    /// A lock around a value.
    pub const fn new(value: T) -> Self {
        Lock(Mutex::new(value))
    }
    /// Waits for the lock.
    pub fn lock(&self) -> Held<'_, T> {
        mark(1);
        Held(Some(self.0.lock()))
    }
    /// The lock, if it is free.
    pub fn try_lock(&self) -> Option<Held<'_, T>> {
        mark(1);
        let guard = self.0.try_lock();
        if guard.is_none() {
            mark(-1);
        }
        guard.map(|g| Held(Some(g)))
    }
}

/// A lock that is held. Always `Some` until dropped.
pub struct Held<'a, T>(Option<MutexGuard<'a, T>>);

impl<T> Deref for Held<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.as_ref().expect("held")
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("held")
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        self.0 = None;
        mark(-1);
    }
}

/// What threads wait for that hold a [`Lock`], which they give up meanwhile. (They stay marked: they have it again before they go on.)
#[derive(Debug, Default)]
pub(crate) struct Signal(Condvar);

impl Signal {
    pub(crate) const fn new() -> Self {
        Signal(Condvar::new())
    }
    /// Waits for the signal; may return without one.
    pub(crate) fn wait<T>(&self, held: &mut Held<'_, T>) {
        self.0.wait(held.0.as_mut().expect("held"));
    }
    /// The same, for a time. True: it has passed.
    pub(crate) fn wait_for<T>(&self, held: &mut Held<'_, T>, time: Duration) -> bool {
        self.0.wait_for(held.0.as_mut().expect("held"), time).timed_out()
    }
    /// Wakes all who wait; costs nothing if nobody does.
    pub(crate) fn all(&self) {
        self.0.notify_all();
    }
}
