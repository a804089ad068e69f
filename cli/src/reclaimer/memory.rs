//! Nodes and lists from the global allocator, for the reclaimers that have no memory of their own.

use std::alloc::{self, Layout};
use std::hint;
use std::ptr::NonNull;

use crate::index::node::Node;

/// What freed memory is filled with in the verify run: no word, no length, no address.
const POISON: u32 = 0xa5a5_a5a5;

/// The layout nodes are allocated with.
pub(crate) const NODE: Layout = Layout::new::<Node>();

/// Memory of the global allocator.
pub(crate) fn allocate(layout: Layout) -> NonNull<u8> {
    assert!(layout.size() > 0, "nodes and lists have a header");
    // SAFETY: the size is not zero.
    let memory = unsafe { alloc::alloc(layout) };
    NonNull::new(memory).unwrap_or_else(|| alloc::handle_alloc_error(layout))
}

/// A node in memory of the global allocator: [`allocate`]d with [`NODE`].
pub(crate) fn new_node(node: Node) -> NonNull<Node> {
    let place = allocate(NODE).cast();
    // SAFETY: fresh memory of a node's layout.
    unsafe { place.write(node) };
    place
}

/// Gives it back.
///
/// # Safety
/// 1. From [`allocate`] with this layout.
/// 2. Nobody uses it any more.
pub(crate) unsafe fn free(memory: NonNull<u8>, layout: Layout) {
    // SAFETY: (1), (2).
    unsafe { alloc::dealloc(memory.as_ptr(), layout) };
}

/// Gives a node back.
///
/// # Safety
/// 1. From [`new_node`].
/// 2. Nobody uses it any more.
pub(crate) unsafe fn free_node(node: NonNull<Node>) {
    // SAFETY: 1. by (1), which says the layout. 2. (2); a node has nothing to drop.
    unsafe { free(node.cast(), NODE) };
}

/// Gives it back overwritten, so that whoever reads it afterwards finds out.
///
/// # Safety
/// 1. As for [`free`], both of it.
/// 2. The layout is aligned for `u32`, as those of nodes and lists are.
pub(crate) unsafe fn poison_and_free(memory: NonNull<u8>, layout: Layout) {
    let words = memory.cast::<u32>();
    for at in 0..layout.size() / size_of::<u32>() {
        // Volatile, or the compiler would see that the memory is freed next and leave it out.
        // SAFETY: inside the layout by (1), aligned by (2).
        unsafe { words.add(at).write_volatile(POISON) };
    }
    hint::black_box(memory);
    // SAFETY: (1).
    unsafe { free(memory, layout) };
}
