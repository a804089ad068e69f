//! [`Owned`]: a box with a tag, not published yet or not shared any more.

use crate::guard::Guard;
use crate::pointable::Pointable;
use crate::pointer::{self, Pointer};
use crate::shared::Shared;
use std::borrow::{Borrow, BorrowMut};
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr;

/// The owner of an object, as a `Box` is, with a tag. For sized objects it is a `Box` inside, and converts both ways.
///
/// ```
/// use crossbeam_epoch::Owned;
/// let owned = Owned::new(7).with_tag(1);
/// assert_eq!((*owned, owned.tag()), (7, 1));
/// assert_eq!(*owned.into_box(), 7);
/// ```
pub struct Owned<T: ?Sized + Pointable> {
    word: usize,
    _object: PhantomData<Box<T>>,
}

impl<T: ?Sized + Pointable> Pointer<T> for Owned<T> {
    #[inline]
    fn into_usize(self) -> usize {
        ManuallyDrop::new(self).word
    }

    #[inline]
    unsafe fn from_usize(data: usize) -> Self {
        debug_assert!(pointer::address::<T>(data) != 0, "converting zero into `Owned`");
        Owned { word: data, _object: PhantomData }
    }
}

impl<T> Owned<T> {
    /// Takes over a raw pointer, with tag 0.
    ///
    /// # Safety
    /// 1. `raw` came from `Box::into_raw`, and nobody else owns it.
    ///
    /// # Panics
    /// It is not aligned.
    #[inline]
    pub unsafe fn from_raw(raw: *mut T) -> Owned<T> {
        // SAFETY: by (1), and now it is ours.
        unsafe { Owned::from_usize(pointer::from_outside(raw)) }
    }

    /// The box. The tag is lost.
    #[inline]
    pub fn into_box(self) -> Box<T> {
        let word = self.into_usize();
        // SAFETY: an Owned of a sized type owns a Box.
        unsafe { Box::from_raw(ptr::with_exposed_provenance_mut(pointer::address::<T>(word))) }
    }

    /// Moves a value to the heap.
    #[inline]
    pub fn new(init: T) -> Owned<T> {
        Owned::init(init)
    }
}

impl<T: ?Sized + Pointable> Owned<T> {
    /// Makes an object from what it is made from: for a slice, its length.
    #[inline]
    pub fn init(init: T::Init) -> Owned<T> {
        // SAFETY: the address is dropped by Drop, or handed on.
        unsafe { Owned::from_usize(T::init(init)) }
    }

    /// Gives the ownership up: the object is, from now on, whoever's who unlinks it.
    #[inline]
    pub fn into_shared<'g>(self, _: &'g Guard) -> Shared<'g, T> {
        // SAFETY: a Shared owns nothing.
        unsafe { Shared::from_usize(self.into_usize()) }
    }

    /// The tag.
    #[inline]
    pub fn tag(&self) -> usize {
        pointer::tag::<T>(self.word)
    }

    /// The same object with another tag. Bits that the alignment does not leave free are ignored.
    #[inline]
    pub fn with_tag(self, tag: usize) -> Owned<T> {
        let word = self.into_usize();
        // SAFETY: the word of an Owned, used once.
        unsafe { Owned::from_usize(pointer::tagged::<T>(word, tag)) }
    }
}

impl<T: ?Sized + Pointable> Drop for Owned<T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: our own object, from `init`, and this is its end.
        unsafe { T::drop(pointer::address::<T>(self.word)) }
    }
}

impl<T: Clone> Clone for Owned<T> {
    fn clone(&self) -> Self {
        Owned::new((**self).clone()).with_tag(self.tag())
    }
}

impl<T: ?Sized + Pointable> Deref for Owned<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: our own object, borrowed.
        unsafe { T::deref(pointer::address::<T>(self.word)) }
    }
}

impl<T: ?Sized + Pointable> DerefMut for Owned<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: our own object, borrowed mutably.
        unsafe { T::deref_mut(pointer::address::<T>(self.word)) }
    }
}

impl<T> From<T> for Owned<T> {
    fn from(t: T) -> Self {
        Owned::new(t)
    }
}

impl<T> From<Box<T>> for Owned<T> {
    fn from(b: Box<T>) -> Self {
        // SAFETY: it came from a Box just now.
        unsafe { Owned::from_raw(Box::into_raw(b)) }
    }
}

impl<T: ?Sized + Pointable> Borrow<T> for Owned<T> {
    fn borrow(&self) -> &T {
        self
    }
}

impl<T: ?Sized + Pointable> BorrowMut<T> for Owned<T> {
    fn borrow_mut(&mut self) -> &mut T {
        self
    }
}

impl<T: ?Sized + Pointable> AsRef<T> for Owned<T> {
    fn as_ref(&self) -> &T {
        self
    }
}

impl<T: ?Sized + Pointable> AsMut<T> for Owned<T> {
    fn as_mut(&mut self) -> &mut T {
        self
    }
}

impl<T: ?Sized + Pointable> fmt::Debug for Owned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let raw = ptr::without_provenance::<()>(pointer::address::<T>(self.word));
        f.debug_struct("Owned").field("raw", &raw).field("tag", &self.tag()).finish()
    }
}
