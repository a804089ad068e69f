//! [`SlabBox`]: an owner of one object of the allocator, one word, freed by address.
//!
//! Handed to by [`typed`](crate::typed) and users; hands to [`front`](crate::front).

use crate::{AllocError, front, kmalloc};
use std::alloc::{Layout, handle_alloc_error};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Owns a `T` in slab memory; like `Box`, one word. Dropping it drops the value and frees the memory in the cache it came from,
/// whether that cache's handle still lives or not.
pub struct SlabBox<T>(NonNull<T>, PhantomData<T>);

// SAFETY: a SlabBox owns its T as a Box does; freeing works from any thread.
unsafe impl<T: Send> Send for SlabBox<T> {}
// SAFETY: a shared SlabBox gives out `&T` only.
unsafe impl<T: Sync> Sync for SlabBox<T> {}

impl<T> SlabBox<T> {
    /// Moves a value into memory of its size class. Aborts through [`handle_alloc_error`] when memory is out.
    pub fn new(value: T) -> Self {
        Self::try_new(value).unwrap_or_else(|_| handle_alloc_error(Layout::new::<T>()))
    }

    /// Moves a value into memory of its size class; hands it back when memory is out.
    pub fn try_new(value: T) -> Result<Self, (T, AllocError)> {
        match kmalloc::alloc(Layout::new::<T>()) {
            // SAFETY: fresh memory of T's layout.
            Ok(p) => Ok(unsafe { Self::emplace(p.cast(), value) }),
            Err(e) => Err((value, e)),
        }
    }

    /// # Safety
    /// 1. `place` is an unused object of this allocator with T's size and alignment.
    #[inline(always)]
    pub(crate) unsafe fn emplace(place: NonNull<T>, value: T) -> Self {
        // SAFETY: by (1).
        unsafe { place.write(value) };
        SlabBox(place, PhantomData)
    }

    /// Gives the ownership up: the pointer goes back through [`from_raw`](Self::from_raw), a free, or a retire.
    pub fn into_raw(this: Self) -> NonNull<T> {
        let p = this.0;
        std::mem::forget(this);
        p
    }

    /// Takes the ownership back.
    ///
    /// # Safety
    /// 1. `ptr` is an object of this allocator that holds a live `T` (as from [`into_raw`](Self::into_raw)), and nobody else owns or
    ///    uses it.
    pub unsafe fn from_raw(ptr: NonNull<T>) -> Self {
        SlabBox(ptr, PhantomData)
    }

    /// Moves the value out and frees the memory.
    pub fn into_inner(this: Self) -> T {
        let p = Self::into_raw(this);
        // SAFETY: the value is moved out once, then the memory is freed without dropping it.
        unsafe {
            let value = p.read();
            front::free(p.as_ptr().cast());
            value
        }
    }
}

impl<T> Drop for SlabBox<T> {
    fn drop(&mut self) {
        /// Frees even if the value's destructor panics.
        struct Free(*mut u8);
        impl Drop for Free {
            fn drop(&mut self) {
                // SAFETY: the memory was the SlabBox's, whose value is gone.
                unsafe { front::free(self.0) }
            }
        }
        let _free = Free(self.0.as_ptr().cast());
        // SAFETY: we own the value, and it is dropped once.
        unsafe { self.0.drop_in_place() }
    }
}

impl<T> Deref for SlabBox<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: we own a live T.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for SlabBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: we own a live T, borrowed mutably.
        unsafe { self.0.as_mut() }
    }
}

impl<T: fmt::Debug> fmt::Debug for SlabBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::fmt(self, f)
    }
}
