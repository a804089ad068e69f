//! The one mutex of this crate and of `quietus-kvfree`: while a thread holds any of them it is marked, so that a signal handler which interrupts it can tell.
//!
//! Handed to by every module that has a lock. A handler may allocate, free and retire: fast paths take no lock, and a slow path
//! that finds its own thread [`held`] fails over instead of waiting for itself ([`cache`](crate::cache)). What the process makes once is
//! made inside the same gate ([`once`]), or a child would wait for ever for a thread that was making it.
//!
//! # Ordering
//! That of the mutex. The mark is one thread's own word; the compiler fences keep it outside the lock as a handler sees it.

use crate::fork;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{
    AtomicU32,
    Ordering::{Relaxed, SeqCst},
    compiler_fence,
};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

thread_local! {
    /// Locks of the allocator that this thread holds or waits for; and, in steps of [`MAKING`], what it makes once. Inside the gate if not 0.
    static DEPTH: AtomicU32 = const { AtomicU32::new(0) };
}

const LOCK: i32 = 1;
const MAKING: i32 = 1 << 16;

/// Is this thread inside one of the allocator's locks? True only in a signal handler that interrupted it there.
pub fn held() -> bool {
    // Relaxed: this thread's own word; atomic because a handler may read it in the middle.
    DEPTH.try_with(|d| d.load(Relaxed)).unwrap_or(0) & (MAKING as u32 - 1) != 0
}

/// Is this thread inside the gate? In a signal handler or in what is made once, else it does not ask.
pub(crate) fn inside() -> bool {
    // Relaxed: as in `held`.
    DEPTH.try_with(|d| d.load(Relaxed)).unwrap_or(0) > 0
}

/// A number of this thread's own, not 0.
pub(crate) fn thread() -> usize {
    DEPTH.with(|d| std::ptr::from_ref(d).addr())
}

/// Changes the mark; returns what it was.
fn mark(step: i32) -> u32 {
    // SeqCst (compiler only): the mark is outside the lock, as a handler on this thread sees it.
    compiler_fence(SeqCst);
    let was = DEPTH.with(|d| {
        // Relaxed: as in `held`.
        let was = d.load(Relaxed);
        d.store(was.wrapping_add_signed(step), Relaxed);
        was
    });
    compiler_fence(SeqCst);
    was
}

/// The mark of a lock, or of something that is made once: inside the gate of [`fork`].
struct Mark<const STEP: i32>;

impl<const STEP: i32> Mark<STEP> {
    fn new() -> Self {
        if mark(STEP) == 0 {
            fork::enter(thread());
        }
        Mark
    }
    /// Not while the process forks.
    fn try_new() -> Option<Self> {
        if mark(STEP) == 0 && !fork::try_enter(thread()) {
            mark(-STEP);
            return None;
        }
        Some(Mark)
    }
}

impl<const STEP: i32> Drop for Mark<STEP> {
    fn drop(&mut self) {
        // Relaxed: as in `held`. Outside before the mark goes: a handler in between keeps out by itself.
        if DEPTH.with(|d| d.load(Relaxed)) == STEP as u32 {
            fork::leave(thread());
        }
        mark(-STEP);
    }
}

/// What `cell` holds, made now if nobody has: no fork comes while it is made. (`make` may take locks. A signal handler that wants what its own
/// thread is making waits for ever, as with any `OnceLock`.)
#[inline]
pub fn once<T>(cell: &OnceLock<T>, make: impl FnOnce() -> T) -> &T {
    match cell.get() {
        Some(value) => value,
        None => once_slow(cell, make),
    }
}

#[cold]
fn once_slow<T>(cell: &OnceLock<T>, make: impl FnOnce() -> T) -> &T {
    fork::install();
    let _inside = Mark::<MAKING>::new();
    cell.get_or_init(make)
}

/// The mark of a thread that forks: locks within are not looked after by the gate.
pub(crate) struct Pass(());

impl Pass {
    pub(crate) fn new() -> Pass {
        mark(LOCK);
        Pass(())
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        mark(-LOCK);
    }
}

/// A mutex that marks its holder. The standard library's, since a fork child finds nothing of other threads in it but whether it is held.
#[derive(Debug, Default)]
pub struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    /// A lock around a value.
    pub const fn new(value: T) -> Self {
        Lock(Mutex::new(value))
    }
    /// Waits for the lock.
    pub fn lock(&self) -> Held<'_, T> {
        let mark = Mark::new();
        // What panics under one of these locks is a bug, which has been reported; the value is as fit as without the poison.
        Held(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)), mark)
    }
    /// The lock, if it is free.
    pub fn try_lock(&self) -> Option<Held<'_, T>> {
        let mark = Mark::try_new()?;
        match self.0.try_lock() {
            Ok(guard) => Some(Held(Some(guard), mark)),
            Err(TryLockError::Poisoned(guard)) => Some(Held(Some(guard.into_inner()), mark)),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// A lock that is held. Always `Some`, but while it is waited in a [`Signal`]. (The guard goes before its mark.)
pub struct Held<'a, T>(Option<MutexGuard<'a, T>>, #[allow(dead_code)] Mark<LOCK>);

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

/// Waits for a mutex that is held while others work: outside the gate, without a mark. Each process has its own ([`process`](crate::process)).
pub(crate) fn long<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        Self::outside(held, |guard| self.0.wait(guard).unwrap_or_else(PoisonError::into_inner));
    }
    /// The same, for a time. True: it has passed.
    pub(crate) fn wait_for<T>(&self, held: &mut Held<'_, T>, time: Duration) -> bool {
        let mut late = false;
        Self::outside(held, |guard| {
            let (guard, result) = self.0.wait_timeout(guard, time).unwrap_or_else(PoisonError::into_inner);
            late = result.timed_out();
            guard
        });
        late
    }
    /// Waits outside the gate: a fork is not to wait for whoever waits. (It may find the lock taken by somebody who has just been woken.
    /// What is waited for here belongs to one process, and a child makes its own: [`process`](crate::process).)
    fn outside<'a, T>(held: &mut Held<'a, T>, wait: impl FnOnce(MutexGuard<'a, T>) -> MutexGuard<'a, T>) {
        fork::leave(thread());
        held.0 = held.0.take().map(wait);
        fork::enter(thread());
    }
    /// Wakes all who wait; costs nothing if nobody does.
    pub(crate) fn all(&self) {
        self.0.notify_all();
    }
}
