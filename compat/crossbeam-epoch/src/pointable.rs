//! [`Pointable`]: what one word can point to, sized values in boxes and slices with their length in front of them.
//!
//! Handed to by `owned`, `shared` and `deferred`; hands to the global allocator.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::mem::MaybeUninit;
use std::ptr;

/// An object that is reached through a single word, whatever its size.
///
/// Every sized `T` is one (a `Box`), and so is `[MaybeUninit<T>]`, whose length is stored in its own memory:
///
/// ```
/// use crossbeam_epoch::Owned;
/// use std::mem::MaybeUninit;
/// let numbers = Owned::<[MaybeUninit<u64>]>::init(4);
/// assert_eq!((numbers.len(), size_of_val(&numbers)), (4, size_of::<usize>()));
/// ```
pub trait Pointable {
    /// The alignment of the object's address: its low bits are free for a tag.
    const ALIGN: usize;

    /// What an object is made from.
    type Init;

    /// The object's size, as far as the type tells: for the budget only. Not in crossbeam-epoch.
    #[doc(hidden)]
    const BYTES: usize = 0;

    /// Allocates an object. Aborts when memory is out.
    ///
    /// # Safety
    /// 1. The address goes to [`drop`](Self::drop) once, or is leaked.
    unsafe fn init(init: Self::Init) -> usize;

    /// The object at an address.
    ///
    /// # Safety
    /// 1. `ptr` came from [`init`](Self::init), and was not dropped within `'a`.
    /// 2. Nobody has a mutable reference to the object within `'a`.
    unsafe fn deref<'a>(ptr: usize) -> &'a Self;

    /// The object at an address, to be written to.
    ///
    /// # Safety
    /// 1. `ptr` came from [`init`](Self::init), and was not dropped within `'a`.
    /// 2. Nobody else has a reference to the object within `'a`.
    unsafe fn deref_mut<'a>(ptr: usize) -> &'a mut Self;

    /// Drops the object and frees its memory.
    ///
    /// # Safety
    /// 1. `ptr` came from [`init`](Self::init), and nobody uses the object any more.
    unsafe fn drop(ptr: usize);
}

impl<T> Pointable for T {
    const ALIGN: usize = align_of::<T>();
    type Init = T;
    const BYTES: usize = size_of::<T>();

    #[inline]
    unsafe fn init(init: T) -> usize {
        Box::into_raw(Box::new(init)).expose_provenance()
    }

    #[inline]
    unsafe fn deref<'a>(ptr: usize) -> &'a T {
        // SAFETY: by (1) a live T, by (2) without a writer.
        unsafe { &*ptr::with_exposed_provenance(ptr) }
    }

    #[inline]
    unsafe fn deref_mut<'a>(ptr: usize) -> &'a mut T {
        // SAFETY: by (1) a live T, by (2) ours alone.
        unsafe { &mut *ptr::with_exposed_provenance_mut(ptr) }
    }

    #[inline]
    unsafe fn drop(ptr: usize) {
        // SAFETY: by (1) it came from a Box, and nobody uses it.
        drop(unsafe { Box::from_raw(ptr::with_exposed_provenance_mut::<T>(ptr)) });
    }
}

/// What stands in front of a slice's elements: their number.
type Length = usize;

/// Layout of a slice with its length, and where the elements begin. `None`: it would not fit the address space.
fn layout<T>(len: usize) -> Option<(Layout, usize)> {
    let (layout, elements) = Layout::new::<Length>().extend(Layout::array::<T>(len).ok()?).ok()?;
    Some((layout.pad_to_align(), elements))
}

/// The elements of the slice at an address, as a raw slice.
///
/// # Safety
/// 1. `ptr` is the address of a live slice.
unsafe fn elements<T>(ptr: usize) -> *mut [MaybeUninit<T>] {
    let start = ptr::with_exposed_provenance_mut::<u8>(ptr);
    // SAFETY: by (1) it begins with its length, which nobody writes.
    let len = unsafe { start.cast::<Length>().read() };
    let offset = size_of::<Length>().next_multiple_of(align_of::<T>());
    // SAFETY: within the allocation, by (1).
    ptr::slice_from_raw_parts_mut(unsafe { start.add(offset) }.cast(), len)
}

impl<T> Pointable for [MaybeUninit<T>] {
    const ALIGN: usize = if align_of::<T>() > align_of::<Length>() { align_of::<T>() } else { align_of::<Length>() };
    type Init = usize;

    unsafe fn init(len: usize) -> usize {
        let (layout, _) = layout::<T>(len).expect("a slice larger than the address space");
        // SAFETY: not empty, there is a length in it.
        let start = unsafe { alloc(layout) };
        if start.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: fresh memory that begins with a Length.
        unsafe { start.cast::<Length>().write(len) };
        start.expose_provenance()
    }

    unsafe fn deref<'a>(ptr: usize) -> &'a Self {
        // SAFETY: by (1) live, by (2) without a writer.
        unsafe { &*elements(ptr) }
    }

    unsafe fn deref_mut<'a>(ptr: usize) -> &'a mut Self {
        // SAFETY: by (1) live, by (2) ours alone.
        unsafe { &mut *elements(ptr) }
    }

    unsafe fn drop(ptr: usize) {
        // SAFETY: (1).
        let len = unsafe { (&raw const *elements::<T>(ptr)).len() };
        let (layout, _) = layout::<T>(len).expect("it was allocated");
        // SAFETY: it was allocated with this layout; elements that may be uninitialised are not dropped.
        unsafe { dealloc(ptr::with_exposed_provenance_mut(ptr), layout) };
    }
}
