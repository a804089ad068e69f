//! [`Atomic`]: one pointer that readers follow inside a section, with null, tag bits and compare-exchange: what lists,
//! maps and trees are made of.
//!
//! It owns nothing and frees nothing. Objects come in as raw pointers ([`Shared::from_raw`]), from whatever allocator;
//! unlinked ones are retired by whoever unlinked them. What it does guarantee is that a loaded pointer carries the
//! lifetime of the section it was loaded in.
//!
//! # Layout
//!
//! One word. The low bits that the alignment of `T` leaves free are the tag.
//!
//! # Ordering
//!
//! T: publishing is at least Release, following a pointer takes at least an Acquire load. Callers pass orderings as
//! they do to the standard library's atomics.

use crate::flavour::Memb;
use crate::membarrier;
use crate::section::Section;
use crate::sync::{AtomicPtr, Ordering};
use quietus_slab::SlabBox;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

/// A shared pointer to a `T`, possibly null, with a tag in its low bits: what lists, maps and trees are made of. The repository's
/// `examples/stack.rs` is a whole structure.
///
/// It owns nothing and frees nothing: dropping an `Atomic` leaves the object alone, and whoever unlinks an object retires it
/// ([`Domain::retire`](crate::Domain::retire)). It is `Send` and `Sync` for `T: Send + Sync`; a node type that hands its value to one
/// thread only says so with `unsafe impl` of its own.
///
/// Invariant in `T`:
///
/// ```compile_fail
/// fn shorten<'a>(atomic: &'a quietus::Atomic<&'static str>) -> &'a quietus::Atomic<&'a str> {
///     atomic
/// }
/// ```
///
/// ```
/// fn keep<'a>(atomic: &'a quietus::Atomic<&'static str>) -> &'a quietus::Atomic<&'static str> {
///     atomic
/// }
/// ```
///
/// `T` must have a size: zero-sized objects share addresses, so that a compare-exchange could not tell two of them
/// apart.
///
/// ```compile_fail,E0080
/// let atomic = quietus::Atomic::<()>::null();
/// ```
///
/// ```
/// let atomic = quietus::Atomic::<u8>::null();
/// ```
///
/// `F` is the flavour whose sections open it. [`null`](Atomic::null) and [`new`](Atomic::new) make one of the default flavour,
/// [`in_flavour`](Atomic::in_flavour) one of any.
pub struct Atomic<T, F = Memb> {
    pointer: AtomicPtr<T>,
    /// Invariant in `T`, and neither Send nor Sync unless said below.
    _object: PhantomData<*mut T>,
    _flavour: PhantomData<fn() -> F>,
}

// SAFETY: whoever has the atomic can reach the object by reference from its own thread, and may move it out of reach
// and retire it, which drops it elsewhere: both bounds.
unsafe impl<T: Send + Sync, F> Send for Atomic<T, F> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync, F> Sync for Atomic<T, F> {}

impl<T> Atomic<T> {
    #[cfg(not(quietus_loom))]
    /// A null pointer with tag 0.
    #[inline]
    pub const fn null() -> Atomic<T> {
        const { Self::SIZED };
        Atomic { pointer: AtomicPtr::new(ptr::null_mut()), _object: PhantomData, _flavour: PhantomData }
    }

    #[cfg(quietus_loom)]
    /// A null pointer with tag 0.
    pub fn null() -> Atomic<T> {
        const { Self::SIZED };
        Atomic { pointer: AtomicPtr::new(ptr::null_mut()), _object: PhantomData, _flavour: PhantomData }
    }

    /// An atomic that starts with `object`.
    #[inline]
    pub fn new(object: Shared<'_, T>) -> Atomic<T> {
        Atomic::in_flavour(object)
    }
}

impl<T, F> Atomic<T, F> {
    const SIZED: () = assert!(size_of::<T>() != 0, "zero-sized objects cannot be told apart by address");

    /// [`new`](Atomic::new) for any flavour: `let head: Atomic<Node, Qsbr> = Atomic::in_flavour(Shared::null());`
    #[inline]
    pub fn in_flavour(object: Shared<'_, T>) -> Atomic<T, F> {
        const { Self::SIZED };
        Atomic { pointer: AtomicPtr::new(object.pointer), _object: PhantomData, _flavour: PhantomData }
    }

    /// The pointer, as it is now. It has to be loaded with Acquire, or stronger, to be dereferenced, and in a section of the domain
    /// that its objects are retired to.
    ///
    /// ```compile_fail,E0597
    /// # use std::sync::atomic::Ordering::Acquire;
    /// let atomic = quietus::Atomic::<u64>::null();
    /// let shared = {
    ///     let guard = quietus::pin();
    ///     atomic.load(Acquire, &guard)
    /// };
    /// shared.is_null();
    /// ```
    ///
    /// ```
    /// # use std::sync::atomic::Ordering::Acquire;
    /// let atomic = quietus::Atomic::<u64>::null();
    /// let guard = quietus::pin();
    /// let shared = atomic.load(Acquire, &guard);
    /// shared.is_null();
    /// ```
    ///
    /// # Panics
    ///
    /// If `order` is Release or AcqRel, as the standard library does.
    #[inline(always)]
    pub fn load<'g>(&self, order: Ordering, _section: &'g impl Section<F>) -> Shared<'g, T> {
        // The caller's order, Acquire to dereference: pairs with the publications below (T), after the slot's store
        // and the light fence (B).
        let pointer = self.pointer.load(order);
        membarrier::interrupt();
        Shared::new(pointer)
    }

    /// Publishes `new`. Release, or stronger, if the object may be new to a reader.
    ///
    /// What was there before is lost: [`swap`](Atomic::swap) it out if it has to be retired.
    #[inline]
    pub fn store(&self, new: Shared<'_, T>, order: Ordering) {
        // The caller's order, Release to publish: pairs with load (T).
        self.pointer.store(new.pointer, order);
    }

    /// Publishes `new` and returns what was there before. AcqRel, if the old object is to be dereferenced.
    #[inline]
    pub fn swap<'g>(&self, new: Shared<'_, T>, order: Ordering, _section: &'g impl Section<F>) -> Shared<'g, T> {
        // The caller's order, Release half to publish: pairs with load (T).
        Shared::new(self.pointer.swap(new.pointer, order))
    }

    /// Publishes `new` if pointer and tag are those of `current`; returns `current`, or what is there instead.
    ///
    /// # Errors
    ///
    /// What was found, if it was not `current`.
    #[inline]
    pub fn compare_exchange<'g>(
        &self,
        current: Shared<'_, T>,
        new: Shared<'_, T>,
        success: Ordering,
        failure: Ordering,
        _section: &'g impl Section<F>,
    ) -> Result<Shared<'g, T>, Shared<'g, T>> {
        // The caller's orders, Release half of success to publish: pairs with load (T).
        match self.pointer.compare_exchange(current.pointer, new.pointer, success, failure) {
            Ok(pointer) => Ok(Shared::new(pointer)),
            Err(pointer) => Err(Shared::new(pointer)),
        }
    }

    /// Like [`compare_exchange`](Atomic::compare_exchange), but may fail although `current` is there: for loops.
    ///
    /// # Errors
    ///
    /// What was found; it may be `current`.
    #[inline]
    pub fn compare_exchange_weak<'g>(
        &self,
        current: Shared<'_, T>,
        new: Shared<'_, T>,
        success: Ordering,
        failure: Ordering,
        _section: &'g impl Section<F>,
    ) -> Result<Shared<'g, T>, Shared<'g, T>> {
        // The caller's orders, Release half of success to publish: pairs with load (T).
        match self.pointer.compare_exchange_weak(current.pointer, new.pointer, success, failure) {
            Ok(pointer) => Ok(Shared::new(pointer)),
            Err(pointer) => Err(Shared::new(pointer)),
        }
    }

    /// Sets tag bits and returns the pointer as it was before, with its old tag: how a list marks a node as removed.
    ///
    /// Bits that the alignment of `T` does not leave free are ignored.
    #[inline]
    pub fn fetch_or<'g>(&self, tag: usize, order: Ordering, _section: &'g impl Section<F>) -> Shared<'g, T> {
        let tag = tag & tag_mask::<T>();
        // Relaxed: only the first guess; the exchange decides.
        let mut old = self.pointer.load(Ordering::Relaxed);
        loop {
            let new = old.map_addr(|address| address | tag);
            // The caller's order: pairs with load (T). Relaxed on failure: the next guess.
            match self.pointer.compare_exchange_weak(old, new, order, Ordering::Relaxed) {
                Ok(_) => return Shared::new(old),
                Err(now) => old = now,
            }
        }
    }

    /// The pointer, through exclusive access, without its tag: for destructors, which need no section.
    #[inline]
    pub fn take(&mut self) -> Option<NonNull<T>> {
        // Relaxed: exclusive access; whatever gave it synchronises.
        let pointer = self.pointer.swap(ptr::null_mut(), Ordering::Relaxed);
        NonNull::new(untagged(pointer))
    }
}

impl<T> Default for Atomic<T> {
    fn default() -> Self {
        Atomic::null()
    }
}

impl<T, F> fmt::Debug for Atomic<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Relaxed: an address for a human, not to be followed.
        let pointer = self.pointer.load(Ordering::Relaxed);
        f.debug_struct("Atomic").field("pointer", &untagged(pointer)).field("tag", &tag_of(pointer)).finish()
    }
}

/// A pointer that was loaded from an [`Atomic`], or is about to be stored there: null or an object, and a tag. Valid as
/// long as the section it was loaded in, which `'g` borrows.
pub struct Shared<'g, T> {
    pointer: *mut T,
    _section: PhantomData<&'g ()>,
}

impl<'g, T> Shared<'g, T> {
    #[inline(always)]
    fn new(pointer: *mut T) -> Self {
        Shared { pointer, _section: PhantomData }
    }

    /// The null pointer with tag 0.
    #[inline]
    pub const fn null() -> Self {
        Shared { pointer: ptr::null_mut(), _section: PhantomData }
    }

    /// An object, with tag 0.
    ///
    /// # Safety
    ///
    /// 1. `object` is aligned and points to a live `T`.
    /// 2. The object is not freed within `'g`: either it has not been published yet, or a section protects it.
    #[inline]
    pub unsafe fn from_raw(object: NonNull<T>) -> Self {
        Shared::new(object.as_ptr())
    }

    /// An object that was just allocated, with tag 0. Its owner is from now on whoever unlinks it.
    #[inline]
    pub fn from_box(object: SlabBox<T>) -> Self {
        // Nothing owns the object any more, and only unsafe code can free it.
        Shared::new(SlabBox::into_raw(object).as_ptr())
    }

    /// The address, without the tag, as `retire` takes it; `None` if it is null.
    #[inline]
    pub fn as_non_null(self) -> Option<NonNull<T>> {
        NonNull::new(self.as_raw())
    }

    /// The address, without the tag; null if it is null.
    #[inline]
    pub fn as_raw(self) -> *mut T {
        untagged(self.pointer)
    }

    /// Whether it is null, whatever its tag.
    #[inline]
    pub fn is_null(self) -> bool {
        self.as_raw().is_null()
    }

    /// The tag.
    #[inline]
    pub fn tag(self) -> usize {
        tag_of(self.pointer)
    }

    /// The same pointer with another tag. Bits that the alignment of `T` does not leave free are ignored.
    #[inline]
    pub fn with_tag(self, tag: usize) -> Self {
        Shared::new(untagged(self.pointer).map_addr(|address| address | (tag & tag_mask::<T>())))
    }

    /// The object.
    ///
    /// # Safety
    ///
    /// 1. The pointer is not null, and points to a `T` that was alive at some moment of the section `'g`, and is freed
    ///    only after a grace period, *of the domain whose section `'g` borrows*, that began when it was out of reach.
    /// 2. It was loaded with Acquire, or its publication happens before this call in another way.
    /// 3. Nobody writes to the object within `'g`, except through its own interior mutability.
    #[inline]
    pub unsafe fn deref(self) -> &'g T {
        // SAFETY: contract 1 makes it valid for 'g, 2 initialised for this thread, 3 free of writers.
        unsafe { &*self.as_raw() }
    }

    /// The object, if there is one.
    ///
    /// # Safety
    ///
    /// Those of [`deref`](Shared::deref), where the pointer is not null.
    #[inline]
    pub unsafe fn as_ref(self) -> Option<&'g T> {
        // SAFETY: null is caught here; else as for deref.
        unsafe { self.as_raw().as_ref() }
    }
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<'_, T> {}

/// Pointer and tag are equal.
impl<T> PartialEq for Shared<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self.pointer, other.pointer)
    }
}

impl<T> Eq for Shared<'_, T> {}

impl<T> fmt::Debug for Shared<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("pointer", &self.as_raw()).field("tag", &self.tag()).finish()
    }
}

const fn tag_mask<T>() -> usize {
    align_of::<T>() - 1
}

#[inline]
fn tag_of<T>(pointer: *mut T) -> usize {
    pointer.addr() & tag_mask::<T>()
}

#[inline]
fn untagged<T>(pointer: *mut T) -> *mut T {
    pointer.map_addr(|address| address & !tag_mask::<T>())
}
