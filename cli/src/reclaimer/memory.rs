//! Nodes and lists from the global allocator, for the reclaimers that have no memory of their own.

use std::alloc::{self, Layout};
use std::hint;
use std::ptr::NonNull;

/// What freed memory is filled with in the verify run: no word, no length, no address.
const POISON: u32 = 0xa5a5_a5a5;

/// Memory of the global allocator.
pub(crate) fn allocate(layout: Layout) -> NonNull<u8> {
    debug_assert!(layout.size() > 0);
    // SAFETY: nodes and lists have a header, so the size is not zero.
    let memory = unsafe { alloc::alloc(layout) };
    NonNull::new(memory).unwrap_or_else(|| alloc::handle_alloc_error(layout))
}

/// Gives it back.
///
/// # Safety
/// From `allocate` with this layout, and not used any more.
pub(crate) unsafe fn free(memory: NonNull<u8>, layout: Layout) {
    // SAFETY: the caller's.
    unsafe { alloc::dealloc(memory.as_ptr(), layout) };
}

/// Gives it back overwritten, so that whoever reads it afterwards finds out.
///
/// # Safety
/// As for `free`.
pub(crate) unsafe fn poison_and_free(memory: NonNull<u8>, layout: Layout) {
    let words = memory.cast::<u32>();
    for at in 0..layout.size() / size_of::<u32>() {
        // Volatile, or the compiler would see that the memory is freed next and leave it out.
        // SAFETY: inside the layout; nodes and lists are aligned for this and a whole number of it.
        unsafe { words.add(at).write_volatile(POISON) };
    }
    hint::black_box(memory);
    // SAFETY: the caller's.
    unsafe { free(memory, layout) };
}
