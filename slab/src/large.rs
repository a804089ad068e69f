//! Objects above the largest size class: a range of their own, straight from the page source.
//!
//! Handed to by [`kmalloc`](crate::kmalloc); hands to [`segment`](crate::segment). Each allocation and each free is a system call
//! or two; the time is the page faults'.

use crate::AllocError;
use crate::segment::{DESCRIPTORS, Pool, SEGMENT, SLAB_BYTES};
use crate::slab::Slab;
use std::alloc::Layout;
use std::ptr::NonNull;

/// Where an object of small alignment begins: behind the header and the first descriptor.
const OFFSET: usize = 2048;
const _: () = assert!(OFFSET >= DESCRIPTORS + size_of::<Slab>() && OFFSET.is_power_of_two());

/// Zeroed memory of this layout. Alignments above 2 MiB are refused.
#[cold]
#[inline(never)]
pub(crate) fn alloc(layout: Layout) -> Result<NonNull<u8>, AllocError> {
    if layout.align() > SEGMENT / 2 {
        return Err(AllocError);
    }
    // Below 64 KiB the object begins in the header's slab, behind descriptor 0, which is then its own. From 64 KiB on it
    // begins behind all descriptors.
    let offset = layout.align().max(OFFSET);
    debug_assert!(offset >= OFFSET && (offset < SLAB_BYTES || offset >= crate::segment::HEADER));
    let (object, slab) = Pool::of(None, false).map_large(layout.size(), offset)?;
    slab.assign_large(layout.size());
    Ok(object)
}

/// # Safety
/// 1. `slab` describes a large allocation that nobody uses any more.
pub(crate) unsafe fn free(slab: &Slab) {
    // SAFETY: by (1).
    unsafe { Pool::unmap_large(slab) }
}
