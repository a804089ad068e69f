//! [`Shared`]: a pointer that was loaded in a section, and is good as long as its guard.

use crate::owned::Owned;
use crate::pointable::Pointable;
use crate::pointer::{self, Pointer};
use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;
use std::ptr;

/// A pointer to an object that a guard protects: null or an address, and a tag.
///
/// It does not outlive its guard:
///
/// ```compile_fail,E0597
/// use crossbeam_epoch::{self as epoch, Atomic};
/// use std::sync::atomic::Ordering::Acquire;
/// let atomic = Atomic::<u64>::null();
/// let shared = {
///     let guard = epoch::pin();
///     atomic.load(Acquire, &guard)
/// };
/// shared.is_null();
/// ```
///
/// ```
/// use crossbeam_epoch::{self as epoch, Atomic};
/// use std::sync::atomic::Ordering::Acquire;
/// let atomic = Atomic::<u64>::null();
/// let guard = epoch::pin();
/// let shared = atomic.load(Acquire, &guard);
/// shared.is_null();
/// ```
pub struct Shared<'g, T: 'g + ?Sized + Pointable> {
    word: usize,
    /// Neither Send nor Sync, as its guard.
    _section: PhantomData<(&'g (), *const T)>,
}

impl<T: ?Sized + Pointable> Clone for Shared<'_, T> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized + Pointable> Copy for Shared<'_, T> {}

impl<T: ?Sized + Pointable> Pointer<T> for Shared<'_, T> {
    #[inline]
    fn into_usize(self) -> usize {
        self.word
    }

    #[inline]
    unsafe fn from_usize(data: usize) -> Self {
        Shared { word: data, _section: PhantomData }
    }
}

impl<T> Shared<'_, T> {
    /// The address, without the tag.
    #[inline]
    pub fn as_raw(&self) -> *const T {
        ptr::with_exposed_provenance(pointer::address::<T>(self.word))
    }
}

impl<'g, T: ?Sized + Pointable> Shared<'g, T> {
    /// The null pointer with tag 0.
    #[inline]
    pub const fn null() -> Shared<'g, T> {
        Shared { word: 0, _section: PhantomData }
    }

    /// Whether it is null, whatever its tag.
    #[inline]
    pub fn is_null(&self) -> bool {
        pointer::address::<T>(self.word) == 0
    }

    /// The object.
    ///
    /// # Safety
    /// 1. The pointer is not null, and its object was reachable at some moment of the section `'g`.
    /// 2. It was loaded with Acquire, or its publication happens before this call in another way.
    /// 3. Nobody has a mutable reference to the object within `'g`.
    #[inline]
    pub unsafe fn deref(&self) -> &'g T {
        // SAFETY: by 1 and 2 a live object, by 3 without a writer.
        unsafe { T::deref(pointer::address::<T>(self.word)) }
    }

    /// The object, to be written to.
    ///
    /// # Safety
    /// 1. As 1 and 2 of [`deref`](Self::deref).
    /// 2. Nobody else has a reference to the object within `'g`.
    #[inline]
    pub unsafe fn deref_mut(&mut self) -> &'g mut T {
        // SAFETY: by 1 a live object, by 2 ours alone.
        unsafe { T::deref_mut(pointer::address::<T>(self.word)) }
    }

    /// The object, or `None` if the pointer is null.
    ///
    /// # Safety
    /// 1. As [`deref`](Self::deref), where it is not null.
    #[inline]
    pub unsafe fn as_ref(&self) -> Option<&'g T> {
        // SAFETY: (1).
        if self.is_null() { None } else { Some(unsafe { self.deref() }) }
    }

    /// The object's owner, with the same tag.
    ///
    /// # Safety
    /// 1. The pointer is not null, the object is of [`Owned`]'s making, and nobody else has a reference to it, or will have one.
    ///
    /// # Panics
    /// The pointer is null, where debug assertions are on.
    #[inline]
    pub unsafe fn into_owned(self) -> Owned<T> {
        debug_assert!(!self.is_null(), "converting a null `Shared` into `Owned`");
        // SAFETY: by (1).
        unsafe { Owned::from_usize(self.word) }
    }

    /// [`into_owned`](Self::into_owned), or `None` if the pointer is null.
    ///
    /// # Safety
    /// 1. As there, where it is not null.
    #[inline]
    pub unsafe fn try_into_owned(self) -> Option<Owned<T>> {
        // SAFETY: (1).
        if self.is_null() { None } else { Some(unsafe { self.into_owned() }) }
    }

    /// The tag.
    #[inline]
    pub fn tag(&self) -> usize {
        pointer::tag::<T>(self.word)
    }

    /// The same pointer with another tag. Bits that the alignment does not leave free are ignored.
    #[inline]
    pub fn with_tag(&self, tag: usize) -> Shared<'g, T> {
        Shared { word: pointer::tagged::<T>(self.word, tag), _section: PhantomData }
    }
}

impl<T> From<*const T> for Shared<'_, T> {
    /// A pointer from outside, with tag 0.
    ///
    /// # Panics
    /// It is not aligned.
    #[inline]
    fn from(raw: *const T) -> Self {
        Shared { word: pointer::from_outside(raw), _section: PhantomData }
    }
}

impl<'g, T: ?Sized + Pointable> PartialEq for Shared<'g, T> {
    fn eq(&self, other: &Self) -> bool {
        self.word == other.word
    }
}

impl<T: ?Sized + Pointable> Eq for Shared<'_, T> {}

impl<'g, T: ?Sized + Pointable> PartialOrd for Shared<'g, T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: ?Sized + Pointable> Ord for Shared<'_, T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.word.cmp(&other.word)
    }
}

impl<T: ?Sized + Pointable> Default for Shared<'_, T> {
    fn default() -> Self {
        Shared::null()
    }
}

impl<T: ?Sized + Pointable> fmt::Debug for Shared<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let raw = ptr::without_provenance::<()>(pointer::address::<T>(self.word));
        f.debug_struct("Shared").field("raw", &raw).field("tag", &self.tag()).finish()
    }
}

impl<T: ?Sized + Pointable> fmt::Pointer for Shared<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Pointer::fmt(&ptr::without_provenance::<()>(pointer::address::<T>(self.word)), f)
    }
}
