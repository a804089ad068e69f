//! [`ScopedDomain`]: a private domain for values that borrow, as a map has whose keys and values do.
//!
//! Users retire what borrows; everything else is the [`Domain`]'s. Nobody but the owner's own calls runs destructors here: there is no worker, and
//! the domain takes no part when somebody else destroys a cache. So what is retired is dropped before the owner goes, and if the owner is
//! leaked it is never dropped at all; in neither case after the end of what it borrows.

use crate::builder::Builder;
use crate::domain::Domain;
use quietus_slab::Cache;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;

/// A private [`Domain`] whose retired values and deferred functions may borrow for `'a`.
///
/// They are dropped, or run, by calls of its owner only: by [`drain`](Self::drain), [`tick`](Domain::tick) and
/// [`throttle`](Domain::throttle), by retiring threads if [`help_with_destructors`](Builder::help_with_destructors) says so, and at the
/// latest when the domain is dropped, which waits for no reader. Owners that go on for long call `tick` now and then.
///
/// ```
/// use quietus::ScopedDomain;
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// let runs = AtomicU64::new(0);
/// {
///     let domain = ScopedDomain::new();
///     domain.defer(|| _ = runs.fetch_add(1, Relaxed));
/// } // drained
/// assert_eq!(runs.load(Relaxed), 1);
/// ```
///
/// What is borrowed lives longer than the domain:
///
/// ```compile_fail,E0597
/// # use quietus::ScopedDomain;
/// # use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// let domain = ScopedDomain::new();
/// let runs = AtomicU64::new(0);
/// domain.defer(|| _ = runs.fetch_add(1, Relaxed));
/// ```
///
/// also if the domain is lent to somebody who knows a shorter life only:
///
/// ```compile_fail
/// # use quietus::ScopedDomain;
/// # use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// fn count<'b>(domain: &ScopedDomain<'b>, runs: &'b AtomicU64) {
///     domain.defer(|| _ = runs.fetch_add(1, Relaxed));
/// }
/// fn lend<'a>(domain: &ScopedDomain<'a>) {
///     let runs = AtomicU64::new(0);
///     count(domain, &runs);
/// }
/// ```
///
/// ```
/// # use quietus::ScopedDomain;
/// # use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// fn count<'b>(domain: &ScopedDomain<'b>, runs: &'b AtomicU64) {
///     domain.defer(|| _ = runs.fetch_add(1, Relaxed));
/// }
/// fn lend<'a>(domain: &ScopedDomain<'a>, runs: &'a AtomicU64) {
///     count(domain, runs);
/// }
/// ```
///
/// and it still goes from thread to thread:
///
/// ```compile_fail,E0277
/// let shared = std::rc::Rc::new(1);
/// quietus::ScopedDomain::new().defer(|| drop(shared));
/// ```
///
/// In a usual domain, whose worker runs what is deferred whenever it comes to it, nothing may borrow:
///
/// ```compile_fail,E0597
/// # use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// let runs = AtomicU64::new(0);
/// quietus::Domain::new().defer(|| _ = runs.fetch_add(1, Relaxed));
/// ```
///
/// # Leaks
/// A domain that is leaked (`mem::forget`, a cycle of `Arc`) drops nothing any more. Memory of values without destructor comes back
/// all the same, when the allocator runs dry.
pub struct ScopedDomain<'a> {
    domain: Domain,
    /// Invariant: lent out for a shorter life it must not take what lives no longer.
    _borrows: PhantomData<fn(&'a ()) -> &'a ()>,
}

impl Builder {
    /// Makes a [`ScopedDomain`]. It has no worker, whatever [`workers`](Self::workers) says.
    ///
    /// # Panics
    /// As [`build`](Self::build).
    pub fn build_scoped<'a>(mut self) -> ScopedDomain<'a> {
        self.config.confined = true;
        ScopedDomain { domain: self.build(), _borrows: PhantomData }
    }
}

impl<'a> ScopedDomain<'a> {
    /// One with the default settings.
    ///
    /// # Panics
    /// As [`Builder::build`].
    pub fn new() -> ScopedDomain<'a> {
        Builder::default().build_scoped()
    }

    /// Runs a closure after a grace period, on a thread that calls [`drain`](Self::drain) or [`tick`](Domain::tick), or drops the domain.
    /// Allocates a `Box`.
    pub fn defer<C: FnOnce() + Send + 'a>(&self, f: C) {
        unsafe fn run<C: FnOnce()>(p: *mut u8) {
            // SAFETY: `p` is the Box made below, and each pair is called once.
            unsafe { Box::from_raw(p.cast::<C>())() }
        }
        let p = NonNull::from(Box::leak(Box::new(f)));
        // SAFETY: (1) C is Send; and it is called through a `&` of this domain, or by its drop, which `'a` outlives.
        unsafe { self.domain.kvfree().call(p.cast(), run::<C>, size_of::<C>()) }
    }

    /// [`Domain::retire`] of a value that may borrow for `'a`.
    ///
    /// # Safety
    /// 1. As [`Domain::retire`], but for its second contract, which the type answers.
    #[inline(always)]
    pub unsafe fn retire<T: Send + 'a>(&self, object: NonNull<T>) {
        // SAFETY: (1) by (1); (2) the value is dropped through a `&` of this domain, or by its drop, which `'a` outlives.
        unsafe { self.domain.retire(object) }
    }

    /// [`Domain::retire_in`] of a value that may borrow for `'a`.
    ///
    /// # Safety
    /// 1. As [`retire`](Self::retire).
    /// 2. `object` was allocated from `cache`.
    #[inline(always)]
    pub unsafe fn retire_in<T: Send + 'a>(&self, cache: &Cache<T>, object: NonNull<T>) {
        // SAFETY: by (1) and (2), and as in `retire`.
        unsafe { self.domain.retire_in(cache, object) }
    }

    /// [`Domain::retire_box`] of a value that may borrow for `'a`.
    ///
    /// # Safety
    /// 1. `object` came from `Box::into_raw`; otherwise as [`retire`](Self::retire).
    #[inline]
    pub unsafe fn retire_box<T: Send + 'a>(&self, object: NonNull<T>) {
        // SAFETY: by (1), and as in `retire`.
        unsafe { self.domain.retire_box(object) }
    }

    /// Drops everything retired before the call, and runs everything deferred, and what that retires, on this thread. Waits for grace periods.
    ///
    /// # Panics
    /// Inside a section of this domain, or inside one of its deferred functions: it would wait for itself.
    #[track_caller]
    pub fn drain(&self) {
        self.domain.barrier();
    }
}

impl Domain {
    /// Runs a closure with a private domain for values that borrow; when it ends, or panics, everything is dropped that was retired to it. Since the
    /// closure gets a reference, the domain cannot be leaked: everything *is* dropped.
    ///
    /// ```
    /// use quietus::{Domain, slab::SlabBox};
    /// let mut words = Vec::new();
    /// let text = String::from("the words of a text");
    /// let count = Domain::scoped(|domain| {
    ///     for word in text.split(' ') {
    ///         // SAFETY: known to nobody else.
    ///         unsafe { domain.retire(SlabBox::into_raw(SlabBox::new(word))) };
    ///     }
    ///     domain.defer(|| words.push("all"));
    ///     domain.stats().kvfree.pending_objects
    /// });
    /// assert_eq!((count, words), (6, vec!["all"]));
    /// ```
    ///
    /// Nothing of the closure's own can be borrowed, since that ends first:
    ///
    /// ```compile_fail,E0373
    /// quietus::Domain::scoped(|domain| {
    ///     let own = String::from("text");
    ///     domain.defer(|| println!("{own}"));
    /// });
    /// ```
    ///
    /// ```
    /// quietus::Domain::scoped(|domain| {
    ///     let own = String::from("text");
    ///     domain.defer(move || println!("{own}"));
    /// });
    /// ```
    ///
    /// # Panics
    /// As [`Builder::build`].
    pub fn scoped<'a, R>(f: impl FnOnce(&ScopedDomain<'a>) -> R) -> R {
        f(&ScopedDomain::new())
    }
}

impl Default for ScopedDomain<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for ScopedDomain<'_> {
    type Target = Domain;
    fn deref(&self) -> &Domain {
        &self.domain
    }
}

impl Drop for ScopedDomain<'_> {
    /// With an empty body: that there is one has the compiler see to it that `'a` lasts until here. The domain's own drop drains it.
    fn drop(&mut self) {}
}

impl fmt::Debug for ScopedDomain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedDomain").finish_non_exhaustive()
    }
}
