//! [`Atomic`]: one word that threads share.
//!
//! # Ordering
//! T of docs/ORDERING.md: publishing is at least Release, following at least Acquire. The callers' orderings are passed on as they are.

use crate::exchange::CompareExchangeError;
#[allow(deprecated, reason = "for `compare_and_set`")]
use crate::exchange::{CompareAndSetError, CompareAndSetOrdering};
use crate::guard::Guard;
use crate::owned::Owned;
use crate::pointable::Pointable;
use crate::pointer::{self, Pointer};
use crate::shared::Shared;
use std::fmt;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A pointer that threads share: null or an object, and a tag in the low bits that the alignment leaves free.
///
/// It owns nothing: dropping it leaves the object where it is. Zeroed memory is a null pointer.
pub struct Atomic<T: ?Sized + Pointable> {
    word: AtomicUsize,
    _object: PhantomData<*mut T>,
}

// SAFETY: whoever has the atomic can reach the object by reference from its own thread, and may take it out and own it.
unsafe impl<T: ?Sized + Pointable + Send + Sync> Send for Atomic<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Pointable + Send + Sync> Sync for Atomic<T> {}

impl<T: std::panic::RefUnwindSafe + ?Sized + Pointable> std::panic::RefUnwindSafe for Atomic<T> {}

impl<T> Atomic<T> {
    /// Moves a value to the heap, and points to it.
    pub fn new(init: T) -> Atomic<T> {
        Atomic::init(init)
    }
}

impl<T: ?Sized + Pointable> Atomic<T> {
    /// Makes an object from what it is made from (for a slice, its length), and points to it.
    pub fn init(init: T::Init) -> Atomic<T> {
        Atomic::from(Owned::<T>::init(init))
    }

    const fn of(word: usize) -> Atomic<T> {
        Atomic { word: AtomicUsize::new(word), _object: PhantomData }
    }

    /// The null pointer with tag 0.
    #[inline]
    pub const fn null() -> Atomic<T> {
        Atomic::of(0)
    }

    /// The pointer, as it is now.
    ///
    /// # Panics
    /// `ord` is Release or AcqRel.
    #[inline]
    pub fn load<'g>(&self, ord: Ordering, _: &'g Guard) -> Shared<'g, T> {
        // The caller's order: T.
        shared(self.word.load(ord))
    }

    /// The pointer, in an order that lets it be followed. Acquire here, which costs nothing on x86-64.
    #[inline]
    pub fn load_consume<'g>(&self, _: &'g Guard) -> Shared<'g, T> {
        // Acquire: T.
        shared(self.word.load(Ordering::Acquire))
    }

    /// Stores `new`. What was there is lost.
    ///
    /// # Panics
    /// `ord` is Acquire or AcqRel.
    #[inline]
    pub fn store<P: Pointer<T>>(&self, new: P, ord: Ordering) {
        // The caller's order: T.
        self.word.store(new.into_usize(), ord);
    }

    /// Stores `new` and returns what was there.
    #[inline]
    pub fn swap<'g, P: Pointer<T>>(&self, new: P, ord: Ordering, _: &'g Guard) -> Shared<'g, T> {
        // The caller's order: T.
        shared(self.word.swap(new.into_usize(), ord))
    }

    /// Stores `new` if address and tag are those of `current`. Returns what was stored, now shared.
    ///
    /// # Errors
    /// What was there instead, and `new` again.
    #[inline]
    pub fn compare_exchange<'g, P>(
        &self,
        current: Shared<'_, T>,
        new: P,
        success: Ordering,
        failure: Ordering,
        _: &'g Guard,
    ) -> Result<Shared<'g, T>, CompareExchangeError<'g, T, P>>
    where
        P: Pointer<T>,
    {
        let new = new.into_usize();
        // The caller's orders: T.
        exchanged(new, self.word.compare_exchange(current.into_usize(), new, success, failure))
    }

    /// [`compare_exchange`](Self::compare_exchange) that may fail without a reason: for loops.
    ///
    /// # Errors
    /// What was there, which may be `current`, and `new` again.
    #[inline]
    pub fn compare_exchange_weak<'g, P>(
        &self,
        current: Shared<'_, T>,
        new: P,
        success: Ordering,
        failure: Ordering,
        _: &'g Guard,
    ) -> Result<Shared<'g, T>, CompareExchangeError<'g, T, P>>
    where
        P: Pointer<T>,
    {
        let new = new.into_usize();
        // The caller's orders: T.
        exchanged(new, self.word.compare_exchange_weak(current.into_usize(), new, success, failure))
    }

    /// Asks `func` for a new pointer until it can be stored. Returns the one that was replaced.
    ///
    /// # Errors
    /// What was there when `func` said `None`.
    pub fn fetch_update<'g, F>(
        &self,
        set_order: Ordering,
        fail_order: Ordering,
        guard: &'g Guard,
        mut func: F,
    ) -> Result<Shared<'g, T>, Shared<'g, T>>
    where
        F: FnMut(Shared<'g, T>) -> Option<Shared<'g, T>>,
    {
        let mut old = self.load(fail_order, guard);
        while let Some(new) = func(old) {
            match self.compare_exchange_weak(old, new, set_order, fail_order, guard) {
                Ok(_) => return Ok(old),
                Err(e) => old = e.current,
            }
        }
        Err(old)
    }

    /// [`compare_exchange`](Self::compare_exchange) under its older name.
    ///
    /// # Errors
    /// As there.
    #[deprecated(note = "use `compare_exchange`")]
    #[allow(deprecated, reason = "it is there for those who still use it")]
    pub fn compare_and_set<'g, O, P>(
        &self,
        current: Shared<'_, T>,
        new: P,
        ord: O,
        guard: &'g Guard,
    ) -> Result<Shared<'g, T>, CompareAndSetError<'g, T, P>>
    where
        O: CompareAndSetOrdering,
        P: Pointer<T>,
    {
        self.compare_exchange(current, new, ord.success(), ord.failure(), guard)
    }

    /// [`compare_exchange_weak`](Self::compare_exchange_weak) under its older name.
    ///
    /// # Errors
    /// As there.
    #[deprecated(note = "use `compare_exchange_weak`")]
    #[allow(deprecated, reason = "it is there for those who still use it")]
    pub fn compare_and_set_weak<'g, O, P>(
        &self,
        current: Shared<'_, T>,
        new: P,
        ord: O,
        guard: &'g Guard,
    ) -> Result<Shared<'g, T>, CompareAndSetError<'g, T, P>>
    where
        O: CompareAndSetOrdering,
        P: Pointer<T>,
    {
        self.compare_exchange_weak(current, new, ord.success(), ord.failure(), guard)
    }

    /// Keeps those tag bits that are set in `val`, and returns what was there.
    #[inline]
    pub fn fetch_and<'g>(&self, val: usize, ord: Ordering, _: &'g Guard) -> Shared<'g, T> {
        // The caller's order: T.
        shared(self.word.fetch_and(val | !pointer::tag_bits::<T>(), ord))
    }

    /// Sets the tag bits of `val`, and returns what was there.
    #[inline]
    pub fn fetch_or<'g>(&self, val: usize, ord: Ordering, _: &'g Guard) -> Shared<'g, T> {
        // The caller's order: T.
        shared(self.word.fetch_or(val & pointer::tag_bits::<T>(), ord))
    }

    /// Flips the tag bits of `val`, and returns what was there.
    #[inline]
    pub fn fetch_xor<'g>(&self, val: usize, ord: Ordering, _: &'g Guard) -> Shared<'g, T> {
        // The caller's order: T.
        shared(self.word.fetch_xor(val & pointer::tag_bits::<T>(), ord))
    }

    /// The object's owner.
    ///
    /// # Safety
    /// 1. The pointer is not null, the object is of [`Owned`]'s making, and nobody else has a reference to it, or will have one.
    pub unsafe fn into_owned(self) -> Owned<T> {
        // SAFETY: by (1).
        unsafe { Owned::from_usize(self.word.into_inner()) }
    }

    /// [`into_owned`](Self::into_owned), or `None` if the pointer is null.
    ///
    /// # Safety
    /// 1. As there, where it is not null.
    pub unsafe fn try_into_owned(self) -> Option<Owned<T>> {
        let word = self.word.into_inner();
        // SAFETY: by (1).
        (pointer::address::<T>(word) != 0).then(|| unsafe { Owned::from_usize(word) })
    }
}

/// What an atomic holds, for the length of a section.
#[inline]
fn shared<'g, T: ?Sized + Pointable>(word: usize) -> Shared<'g, T> {
    // SAFETY: a Shared owns nothing; following it is unsafe.
    unsafe { Shared::from_usize(word) }
}

#[inline]
fn exchanged<'g, T: ?Sized + Pointable, P: Pointer<T>>(
    new: usize,
    result: Result<usize, usize>,
) -> Result<Shared<'g, T>, CompareExchangeError<'g, T, P>> {
    match result {
        Ok(_) => Ok(shared(new)),
        // SAFETY: the word came from a P, and was not stored.
        Err(current) => Err(CompareExchangeError { current: shared(current), new: unsafe { P::from_usize(new) } }),
    }
}

impl<T: ?Sized + Pointable> Clone for Atomic<T> {
    /// Another atomic with the same pointer, as it is now. A Relaxed load: following the copy needs an order of its own.
    fn clone(&self) -> Self {
        // Relaxed: said above.
        Atomic::of(self.word.load(Ordering::Relaxed))
    }
}

impl<T: ?Sized + Pointable> Default for Atomic<T> {
    fn default() -> Self {
        Atomic::null()
    }
}

impl<T: ?Sized + Pointable> From<Owned<T>> for Atomic<T> {
    fn from(owned: Owned<T>) -> Self {
        Atomic::of(owned.into_usize())
    }
}

impl<T> From<Box<T>> for Atomic<T> {
    fn from(b: Box<T>) -> Self {
        Atomic::from(Owned::from(b))
    }
}

impl<T> From<T> for Atomic<T> {
    fn from(t: T) -> Self {
        Atomic::new(t)
    }
}

impl<'g, T: ?Sized + Pointable> From<Shared<'g, T>> for Atomic<T> {
    fn from(ptr: Shared<'g, T>) -> Self {
        Atomic::of(ptr.into_usize())
    }
}

impl<T> From<*const T> for Atomic<T> {
    /// A pointer from outside, with tag 0.
    ///
    /// # Panics
    /// It is not aligned.
    fn from(raw: *const T) -> Self {
        Atomic::of(pointer::from_outside(raw))
    }
}

impl<T: ?Sized + Pointable> fmt::Debug for Atomic<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Relaxed: an address for a human.
        let word = self.word.load(Ordering::Relaxed);
        let raw = ptr::without_provenance::<()>(pointer::address::<T>(word));
        f.debug_struct("Atomic").field("raw", &raw).field("tag", &pointer::tag::<T>(word)).finish()
    }
}

impl<T: ?Sized + Pointable> fmt::Pointer for Atomic<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Relaxed: an address for a human.
        let word = self.word.load(Ordering::Relaxed);
        fmt::Pointer::fmt(&ptr::without_provenance::<()>(pointer::address::<T>(word)), f)
    }
}
