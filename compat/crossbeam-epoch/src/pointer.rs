//! [`Pointer`]: an owned or a shared pointer as the word that an atomic holds, and the tag in its low bits.
//!
//! # Layout
//! One word: an address, whose low bits, as far as [`Pointable::ALIGN`] leaves them free, are the tag. The null pointer is 0, so that
//! zeroed memory is an array of null pointers.

use crate::pointable::Pointable;

/// An [`Owned`](crate::Owned) or a [`Shared`](crate::Shared).
pub trait Pointer<T: ?Sized + Pointable> {
    /// The word, tag included.
    fn into_usize(self) -> usize;

    /// The pointer again.
    ///
    /// # Safety
    /// 1. `data` came from [`into_usize`](Self::into_usize) of a pointer of the same kind, and is used once if that kind owns.
    unsafe fn from_usize(data: usize) -> Self;
}

/// The bits that a tag may have.
pub(crate) const fn tag_bits<T: ?Sized + Pointable>() -> usize {
    T::ALIGN - 1
}

/// The tag of a word.
#[inline]
pub(crate) fn tag<T: ?Sized + Pointable>(word: usize) -> usize {
    word & tag_bits::<T>()
}

/// A word without its tag: the address.
#[inline]
pub(crate) fn address<T: ?Sized + Pointable>(word: usize) -> usize {
    word & !tag_bits::<T>()
}

/// A word with another tag; bits that do not fit are left out.
#[inline]
pub(crate) fn tagged<T: ?Sized + Pointable>(word: usize, tag: usize) -> usize {
    address::<T>(word) | (tag & tag_bits::<T>())
}

/// The word of an address that came from outside.
///
/// # Panics
/// It is not aligned: its low bits would pass for a tag.
#[inline]
pub(crate) fn from_outside<T>(raw: *const T) -> usize {
    let word = raw.expose_provenance();
    assert!(tag::<T>(word) == 0, "unaligned pointer");
    word
}
