//! Many objects at once: frees grouped by cache into blocks, which go to the barns whole.
//!
//! Handed to by [`kmalloc`](crate::kmalloc) and by `quietus-kvfree`'s reclaim; hands to [`cache`](crate::cache). Grouping never
//! sorts and never goes to the slabs unless a barn overflows.

use crate::cache::Core;
use crate::page::{self, BlockNo};
use crate::segment::slab_of;
use crate::{array, front, large};
use std::sync::atomic::Ordering::Relaxed;

/// Fewer objects than this go to the CPU's blocks one by one: opening groups costs more.
const FEW: usize = 256;
/// Groups that are open at a time; a cache whose place is taken sends the earlier one's block off.
const GROUPS: usize = 64;

/// Blocks being filled, by cache.
struct Groups([Option<(&'static Core, BlockNo)>; GROUPS]);

impl Groups {
    /// Adds a free object of `core`.
    fn add(&mut self, core: &'static Core, p: *mut u8) {
        let entry = &mut self.0[usize::from(core.id()) % GROUPS];
        if let Some((owner, b)) = *entry {
            // SAFETY: blocks in groups are ours.
            if std::ptr::eq(owner, core) && unsafe { b.block().push(p) } {
                return;
            }
            *entry = None;
            owner.take_in_loose(b);
        }
        let fresh = if core.block_capacity() > 0 { page::page() } else { None };
        let Some(b) = fresh else {
            // SAFETY: the object is free and ours.
            return unsafe { core.free_direct(&[p]) };
        };
        b.block().reset(core.block_capacity());
        // SAFETY: the block is ours, and has room.
        let pushed = unsafe { b.block().push(p) };
        debug_assert!(pushed);
        *entry = Some((core, b));
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for (core, b) in self.0.iter_mut().filter_map(Option::take) {
            core.take_in_loose(b);
        }
    }
}

/// Frees objects of any caches and sizes. About a nanosecond or two each from 64 on; null pointers are skipped.
///
/// # Safety
/// 1. Each pointer is null or an object of this allocator that nobody uses any more, and none is there twice.
pub unsafe fn free_bulk(objects: &[*mut u8]) {
    if objects.len() < FEW {
        let arrays = array::any();
        for &p in objects.iter().filter(|p| !p.is_null()) {
            // SAFETY: by (1).
            match unsafe { slab_of(p) }.cache().filter(|core| arrays && core.is_array()) {
                // SAFETY: by (1).
                Some(core) => unsafe { core.free_unparked(p) },
                // SAFETY: by (1).
                None => unsafe { front::free(p) },
            }
        }
        return;
    }
    let mut groups = Groups([None; GROUPS]);
    for &p in objects.iter().filter(|p| !p.is_null()) {
        // SAFETY: by (1).
        let slab = unsafe { slab_of(p) };
        match slab.cache() {
            // SAFETY: by (1).
            Some(core) if slab.is_guest() => unsafe { core.free_unparked(p) },
            Some(core) => groups.add(core, p),
            // SAFETY: by (1); without a cache it is a large allocation.
            None => unsafe { large::free(slab) },
        }
    }
}

/// Hands a block full of free objects **of one lane** back: if that is the lane of their cache, and the cache is not chained, they are
/// all of this cache, and the block becomes a sheaf of its barn; no object is touched. Else each goes to the cache that it is of
/// by now. An empty block goes to the page supply.
///
/// # Safety
/// 1. The caller owns the block, and its objects, which all were of one cache when they were put in. That cache's id is the block's
///    `lane`, if it was ever chained since.
pub unsafe fn recycle(b: BlockNo) {
    if !b.is_some() {
        return;
    }
    if b.block().filled() == 0 {
        return page::put_page(b);
    }
    // SAFETY: by (1) the block holds an object.
    let slab = unsafe { slab_of(b.block().slot(0)) };
    b.block().become_sheaf();
    // Relaxed: the block is ours.
    let lane = b.block().lane.load(Relaxed);
    match slab.cache() {
        Some(core) if u32::from(core.id()) != lane || core.parent().is_some() => scatter(b),
        Some(core) if b.block().len() * 2 >= core.block_capacity() => core.take_in(b),
        Some(core) => {
            b.block().set_capacity(core.block_capacity().max(b.block().len()));
            core.take_in_loose(b);
        }
        None => scatter(b),
    }
}

/// Frees the objects of a sheaf, each to its own cache.
fn scatter(b: BlockNo) {
    // SAFETY: by the contract of `recycle` the block and the objects are the caller's.
    unsafe { free_bulk(b.block().pointers()) };
    page::put_page(b);
}
