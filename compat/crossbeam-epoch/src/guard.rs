//! [`Guard`]: an open section, and the doors for what is to happen after it.
//!
//! Handed out by `local`'s users; hands to `deferred` and `local`.

use crate::collector::Collector;
use crate::deferred::Deferred;
use crate::local::Local;
use crate::pointable::Pointable;
use crate::pointer::{self, Pointer};
use crate::shared::Shared;
use std::fmt;
use std::ptr;

/// An open section: what is loaded with it stays until it is dropped.
///
/// Guards nest, and drop in any order. One that is leaked keeps its collector from freeing anything, for ever. A guard belongs to its thread:
///
/// ```compile_fail,E0277
/// let guard = crossbeam_epoch::pin();
/// std::thread::spawn(move || drop(guard));
/// ```
///
/// ```
/// std::thread::spawn(|| drop(crossbeam_epoch::pin())).join().unwrap();
/// ```
pub struct Guard {
    /// Null: of [`unprotected`].
    local: *const Local,
}

impl Guard {
    /// Opens a section.
    ///
    /// # Safety
    /// 1. `local` is live, and belongs to this thread.
    #[inline]
    pub(crate) unsafe fn enter(local: *const Local) -> Guard {
        // SAFETY: live by (1).
        unsafe { &*local }.enter();
        Guard { local }
    }

    #[inline]
    fn local(&self) -> Option<&Local> {
        // SAFETY: null, or a registration that a guard keeps alive.
        unsafe { self.local.as_ref() }
    }

    /// Calls `f` when every section that is open now has ended: on this thread or another, when it pins or flushes, at the latest when
    /// the collector goes. With [`unprotected`], at once. A panic is reported and caught.
    ///
    /// A closure of at most one word costs some nanoseconds and no memory; a larger one is moved to the heap.
    ///
    /// ```compile_fail,E0277
    /// let shared = std::rc::Rc::new(1);
    /// crossbeam_epoch::pin().defer(move || drop(shared));
    /// ```
    ///
    /// ```
    /// let shared = std::sync::Arc::new(1);
    /// crossbeam_epoch::pin().defer(move || drop(shared));
    /// ```
    #[inline]
    pub fn defer<F, R>(&self, f: F)
    where
        F: FnOnce() -> R + Send + 'static,
    {
        // SAFETY: Send and 'static: it may run anywhere, any time.
        unsafe { self.defer_unchecked(f) }
    }

    /// [`defer`](Self::defer) for closures that the compiler cannot vouch for.
    ///
    /// # Safety
    /// 1. The closure may run on any thread, though it may not be `Send`.
    /// 2. What it borrows lives until it has run, though it may not be `'static`.
    #[inline]
    pub unsafe fn defer_unchecked<F, R>(&self, f: F)
    where
        F: FnOnce() -> R,
    {
        match self.local() {
            // SAFETY: (1) and (2).
            Some(local) => unsafe { local.defer(Deferred::new(move || drop(f()))) },
            None => drop(f()),
        }
    }

    /// Drops an object, and frees its memory, when every section that is open now has ended. Allocates nothing.
    ///
    /// # Safety
    /// 1. `ptr` is not null; its object is of [`Owned`](crate::Owned)'s making, and unlinked: no section that begins from now on can reach it.
    /// 2. Nobody destroys it again, and it may be dropped on any thread.
    /// 3. What it borrows lives until it is dropped.
    #[inline]
    pub unsafe fn defer_destroy<T: ?Sized + Pointable>(&self, ptr: Shared<'_, T>) {
        let address = pointer::address::<T>(ptr.into_usize());
        match self.local() {
            // SAFETY: by 1 a live object, by 2 and 3 the call may be made later.
            Some(local) => unsafe { local.defer(Deferred::destroy::<T>(address)) },
            // SAFETY: by (1), and whoever uses `unprotected` vouches that nobody else is there.
            None => unsafe { T::drop(address) },
        }
    }

    /// Pushes what is deferred on its way: blocks are closed, the grace period is pushed, and what has elapsed is called, here and now.
    /// Of two flushes in two sections, with nobody else pinned, the second calls what was deferred before the first.
    ///
    /// Takes back what other CPUs have collected, which may cost a membarrier (microseconds).
    #[inline]
    pub fn flush(&self) {
        if let Some(local) = self.local() {
            local.flush();
        }
    }

    /// Ends the section and opens a new one, for less than both would cost. Does nothing while another guard of this registration is alive.
    ///
    /// ```compile_fail,E0502
    /// use crossbeam_epoch::{self as epoch, Atomic};
    /// use std::sync::atomic::Ordering::Acquire;
    /// let (atomic, mut guard) = (Atomic::<u64>::null(), epoch::pin());
    /// let before = atomic.load(Acquire, &guard);
    /// guard.repin();
    /// before.is_null();
    /// ```
    ///
    /// ```
    /// use crossbeam_epoch::{self as epoch, Atomic};
    /// use std::sync::atomic::Ordering::Acquire;
    /// let (atomic, mut guard) = (Atomic::<u64>::null(), epoch::pin());
    /// guard.repin();
    /// atomic.load(Acquire, &guard).is_null();
    /// ```
    #[inline]
    pub fn repin(&mut self) {
        if let Some(local) = self.local() {
            local.repin();
        }
    }

    /// Runs `f` outside the section, and opens a new one, even if `f` panics: for what takes long. While another guard of this registration
    /// is alive, the section stays open meanwhile.
    pub fn repin_after<F, R>(&mut self, f: F) -> R
    where
        F: FnOnce() -> R,
    {
        /// Opens the section again.
        struct Back(*const Local);
        impl Drop for Back {
            fn drop(&mut self) {
                // SAFETY: held since below.
                unsafe { &*self.0 }.enter();
                // SAFETY: our hold; the guard that was just opened keeps it alive.
                unsafe { Local::let_go(self.0) };
            }
        }
        let Some(local) = self.local() else { return f() };
        // `f` may drop the handle.
        local.hold();
        let _back = Back(self.local);
        // SAFETY: this guard owes it, `_back` makes up for it, and it is held.
        unsafe { Local::leave(self.local) };
        f()
    }

    /// The collector that the guard belongs to; `None` for [`unprotected`].
    #[inline]
    pub fn collector(&self) -> Option<&Collector> {
        self.local().map(Local::collector)
    }
}

impl Drop for Guard {
    #[inline]
    fn drop(&mut self) {
        if !self.local.is_null() {
            // SAFETY: the guard owes it, and is gone afterwards.
            unsafe { Local::leave(self.local) };
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

/// A guard that guards nothing, for structures that nobody else can reach: being built, or being dropped. What is deferred with it happens
/// at once.
///
/// ```
/// use crossbeam_epoch::{self as epoch, Atomic};
/// use std::sync::atomic::Ordering::Relaxed;
/// let atomic = Atomic::new(String::from("mine"));
/// // SAFETY: nobody else has `atomic`.
/// unsafe {
///     let guard = epoch::unprotected();
///     let object = atomic.load(Relaxed, guard);
///     guard.defer_destroy(object); // dropped here
/// }
/// ```
///
/// # Safety
/// 1. No other thread uses what is loaded, or deferred, with it.
#[inline]
pub unsafe fn unprotected() -> &'static Guard {
    /// Guards are not Sync; this one has no thread.
    struct Nobody(Guard);
    // SAFETY: with a null registration nothing but the value itself is read, and it never changes.
    unsafe impl Sync for Nobody {}
    static NOBODY: Nobody = Nobody(Guard { local: ptr::null() });
    &NOBODY.0
}
