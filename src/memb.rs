//! The default flavour: a guard, and between its birth and its death a read-side section.
//!
//! [`pin`] opens a section of the global engine, [`DomainGuard`] one of a private engine. Both hand the thread's slot
//! to the engine and are handed to whatever loads a protected pointer, as a [`Section`].
//!
//! Guards may be dropped in any order, swapped, kept in thread-locals and leaked: the slot is cleared when the last
//! one goes, and only then.
//!
//! # Ordering
//!
//! The pairs B, C, D and K of docs/ORDERING.md, in `engine`.

use crate::engine::{Engine, Left};
use crate::engine_ref::EngineRef;
use crate::local::{self, GLOBAL};
use crate::registry::Slot;
use crate::section::{Section, sealed::Sealed};
use std::fmt;
use std::marker::PhantomData;

/// An open read-side section of the global domain.
///
/// What was reachable when it was opened, or is loaded while it lives, is not freed before it is dropped. It belongs to
/// the thread that opened it:
///
/// ```compile_fail,E0277
/// let guard = quietus::pin();
/// std::thread::spawn(move || drop(guard));
/// ```
///
/// ```
/// std::thread::spawn(|| drop(quietus::pin())).join().unwrap();
/// ```
#[must_use = "the section ends when the guard is dropped"]
pub struct Guard {
    slot: &'static Slot,
    /// Neither Send nor Sync: the slot is the thread's.
    _thread: PhantomData<*mut ()>,
}

/// Opens a read-side section of the global domain.
///
/// Costs a few instructions and no fence where the [asymmetric mode](crate::membarrier::Mode::Asymmetric) is in force.
/// A thread's first call registers it. Sections nest.
#[inline]
pub fn pin() -> Guard {
    let slot = local::current();
    if GLOBAL.enter_outermost(slot) {
        return Guard { slot, _thread: PhantomData };
    }
    pin_slow()
}

#[cold]
#[inline(never)]
fn pin_slow() -> Guard {
    let slot = local::global_slot();
    GLOBAL.enter(slot);
    Guard { slot, _thread: PhantomData }
}

impl Guard {
    /// Ends the section and opens a new one, at less than the cost of the two. Does nothing while another guard of
    /// this thread is alive.
    ///
    /// No reference from before survives it:
    ///
    /// ```compile_fail,E0502
    /// # use std::sync::atomic::Ordering::Acquire;
    /// let atomic = quietus::Atomic::<u64>::null();
    /// let mut guard = quietus::pin();
    /// let before = atomic.load(Acquire, &guard);
    /// guard.repin();
    /// before.is_null();
    /// ```
    ///
    /// ```
    /// # use std::sync::atomic::Ordering::Acquire;
    /// let atomic = quietus::Atomic::<u64>::null();
    /// let mut guard = quietus::pin();
    /// guard.repin();
    /// atomic.load(Acquire, &guard).is_null();
    /// ```
    #[inline]
    pub fn repin(&mut self) {
        GLOBAL.repin(self.slot);
    }
}

impl Drop for Guard {
    #[inline]
    fn drop(&mut self) {
        if GLOBAL.leave(self.slot) == Left::GiveBack {
            give_back_slow(self.slot);
        }
    }
}

#[cold]
#[inline(never)]
fn give_back_slow(slot: &'static Slot) {
    // Forget first: a signal handler must not find a slot that is being given up.
    local::forget_global();
    GLOBAL.give_back(slot);
}

impl Sealed for Guard {}

// SAFETY: (1) `pin` entered a section on this thread's slot and only Drop leaves it; the guard is neither Send nor Sync,
// so whoever holds a reference is that thread, or code it waits for. (2) Drop and `repin` need the guard itself, not a
// borrow; other guards of the thread are counted, so that neither dropping nor repinning them clears the slot.
unsafe impl Section for Guard {}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

/// An open read-side section of a [`Domain`](crate::Domain), which it borrows.
///
/// It stays on its thread, and so do references to it:
///
/// ```compile_fail,E0277
/// let domain = quietus::Domain::new();
/// let guard = domain.pin();
/// std::thread::scope(|s| s.spawn(move || drop(guard)).join().unwrap());
/// ```
///
/// ```compile_fail,E0277
/// let domain = quietus::Domain::new();
/// let guard = domain.pin();
/// std::thread::scope(|s| s.spawn(|| drop(&guard)).join().unwrap());
/// ```
///
/// ```
/// let domain = quietus::Domain::new();
/// std::thread::scope(|s| s.spawn(|| drop(domain.pin())).join().unwrap());
/// ```
///
/// `repin` ends the section for what was loaded before:
///
/// ```compile_fail,E0502
/// # use std::sync::atomic::Ordering::Acquire;
/// let (domain, slot) = (quietus::Domain::new(), quietus::Atomic::<u64>::null());
/// let mut guard = domain.pin();
/// let seen = slot.load(Acquire, &guard);
/// guard.repin();
/// seen.is_null();
/// ```
///
/// ```
/// # use std::sync::atomic::Ordering::Acquire;
/// let (domain, slot) = (quietus::Domain::new(), quietus::Atomic::<u64>::null());
/// let mut guard = domain.pin();
/// slot.load(Acquire, &guard).is_null();
/// guard.repin();
/// ```
///
/// Everything said of [`Guard`] holds for it, for the objects of its own domain.
#[must_use = "the section ends when the guard is dropped"]
pub struct DomainGuard<'d> {
    engine: &'d Engine,
    slot: &'d Slot,
    /// The slot is the engine's global one, which thread-locals know.
    global: bool,
    _thread: PhantomData<*mut ()>,
}

impl<'d> DomainGuard<'d> {
    /// Opens a section of the engine behind `engine`.
    #[inline]
    pub(crate) fn pin(engine: &'d EngineRef) -> DomainGuard<'d> {
        let slot = engine.slot();
        engine.enter(slot);
        DomainGuard { engine, slot, global: matches!(engine, EngineRef::Global), _thread: PhantomData }
    }

    /// Ends the section and opens a new one; see [`Guard::repin`].
    #[inline]
    pub fn repin(&mut self) {
        self.engine.repin(self.slot);
    }
}

impl Drop for DomainGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.engine.leave(self.slot) == Left::GiveBack {
            self.drop_slow();
        }
    }
}

impl DomainGuard<'_> {
    #[cold]
    #[inline(never)]
    fn drop_slow(&mut self) {
        if self.global {
            // Forget first: a signal handler must not find a slot that is being given up.
            local::forget_global();
        }
        // A private engine's slot that is marked is on no list of this thread: nothing to forget.
        self.engine.give_back(self.slot);
    }
}

impl Sealed for DomainGuard<'_> {}

// SAFETY: (1) `pin` entered a section on this thread's slot of `engine` and only Drop leaves it; the guard is neither
// Send nor Sync. (2) As for Guard.
unsafe impl Section for DomainGuard<'_> {}

impl fmt::Debug for DomainGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DomainGuard").finish_non_exhaustive()
    }
}
