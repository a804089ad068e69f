//! No reclamation at all: what the index would do if freeing cost nothing. The ceiling for the others, for as long as
//! memory lasts: a run stops at 2 GiB.

use std::alloc::Layout;
use std::ptr::NonNull;

use super::{Account, Reclaimer, Retired, Setup, memory};
use crate::index::node::Node;

/// Frees nothing that was published.
pub(crate) struct Leak;

// SAFETY: 1. What is retired is never freed. 2. It is the global allocator's.
unsafe impl Reclaimer for Leak {
    type Guard<'r> = ();

    const CEILING_BYTES: Option<u64> = Some(2 << 30);

    fn new(_: Setup) -> Leak {
        Leak
    }

    fn pin(&self) {}

    fn new_node(&self, node: Node) -> NonNull<Node> {
        memory::new_node(node)
    }

    unsafe fn free_node(&self, node: NonNull<Node>) {
        // SAFETY: (1), (2).
        unsafe { memory::free_node(node) };
    }

    unsafe fn retire_node(&self, (): &(), _: NonNull<Node>) {}

    fn alloc_list(&self, layout: Layout) -> NonNull<u8> {
        memory::allocate(layout)
    }

    unsafe fn free_list(&self, list: NonNull<u8>, layout: Layout) {
        // SAFETY: (1), (2).
        unsafe { memory::free(list, layout) };
    }

    unsafe fn retire_list(&self, (): (), _: NonNull<u8>, _: Layout) {}

    fn grace_period(&self) -> bool {
        false
    }

    fn barrier(&self) {}

    fn account(&self, retired: Retired) -> Account {
        Account { left: retired.objects, peak_bytes: Some(retired.bytes) }
    }
}
