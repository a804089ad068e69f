//! The fast paths: one object from, and one object to, the blocks of this CPU.
//!
//! Handed to by [`kmalloc`](crate::kmalloc), [`typed`](crate::typed) and [`slab_box`](crate::slab_box); a block that is empty or
//! full goes to [`cache`](crate::cache).

use crate::cache::Core;
use crate::large;
use crate::percpu::Word;
use crate::segment::{slab_of, word_of};

/// A free object of the cache whose per-CPU word is `word`. Null when the page source fails.
#[inline(always)]
pub(crate) fn alloc(core: &'static Core, word: Word) -> *mut u8 {
    let p = word.pop();
    if p.is_null() { core.alloc_slow() } else { p }
}

/// Frees by address.
///
/// # Safety
/// 1. `p` is an object of this allocator that nobody uses any more.
#[inline(always)]
pub(crate) unsafe fn free(p: *mut u8) {
    // SAFETY: by (1); the number came from `Word::get`.
    if !unsafe { Word::from_raw(word_of(p)) }.push(p) {
        // SAFETY: by (1).
        unsafe { free_slow(p) }
    }
}

/// # Safety
/// 1. As [`free`].
#[cold]
#[inline(never)]
unsafe fn free_slow(p: *mut u8) {
    // SAFETY: by (1).
    let slab = unsafe { slab_of(p) };
    match slab.cache() {
        // SAFETY: by (1).
        Some(core) if slab.is_guest() => unsafe { core.free_unparked(p) },
        // SAFETY: by (1).
        Some(core) => unsafe { core.free_slow(p) },
        // SAFETY: by (1); without a cache it is a large allocation.
        None => unsafe { large::free(slab) },
    }
}
