//! No reclamation at all: what the index would do if freeing cost nothing. The ceiling for the others, for as long as
//! memory lasts: a run stops at 2 GiB.

use std::alloc::Layout;
use std::ptr::NonNull;

use super::{Account, Reclaimer, Retired, Setup, memory};
use crate::index::node::Node;

/// Frees nothing that was published.
pub(crate) struct Leak;

// SAFETY: what is retired is never freed.
unsafe impl Reclaimer for Leak {
    type Guard<'r> = ();

    const CEILING_BYTES: Option<u64> = Some(2 << 30);

    fn new(_: Setup) -> Leak {
        Leak
    }

    fn pin(&self) {}

    fn new_node(&self, node: Node) -> NonNull<Node> {
        let place = memory::allocate(Layout::new::<Node>()).cast();
        // SAFETY: fresh memory of a node's layout.
        unsafe { place.write(node) };
        place
    }

    unsafe fn free_node(&self, node: NonNull<Node>) {
        // SAFETY: the caller's; `new_node` used this layout.
        unsafe { memory::free(node.cast(), Layout::new::<Node>()) };
    }

    unsafe fn retire_node(&self, (): &(), _: NonNull<Node>) {}

    fn alloc_list(&self, layout: Layout) -> NonNull<u8> {
        memory::allocate(layout)
    }

    unsafe fn free_list(&self, list: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's.
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
