//! This library: nodes from a cache of their own, lists from the size classes, grace periods of the global domain.
//!
//! Nothing of it comes from the global allocator. In the verify run the slabs poison what is freed; they count what is
//! retired in every run.

use std::alloc::{Layout, handle_alloc_error};
use std::ptr::NonNull;

use quietus::slab::{self, Cache, SlabBox};
use quietus::{Domain, Guard};

use super::{Account, Reclaimer, Retired, Setup};
use crate::index::node::Node;

/// quietus.
pub(crate) struct Quietus {
    nodes: Cache<Node>,
    domain: &'static Domain,
}

// SAFETY: 1. The domain frees what was retired after a grace period, which ends after every section open when it began. 2. It
// is the slab allocator's.
unsafe impl Reclaimer for Quietus {
    type Guard<'r> = Guard;

    fn new(setup: Setup) -> Quietus {
        // Before the size classes are first used: they keep what they were made with.
        slab::set_poison(setup.verify);
        let nodes = Cache::builder("index-nodes").poison(setup.verify).build().expect("small objects, and few caches");
        Quietus { nodes, domain: Domain::global() }
    }

    #[inline]
    fn pin(&self) -> Guard {
        quietus::pin()
    }

    fn new_node(&self, node: Node) -> NonNull<Node> {
        SlabBox::into_raw(self.nodes.alloc(node))
    }

    unsafe fn free_node(&self, node: NonNull<Node>) {
        // SAFETY: 1. By (1) it is from `into_raw` in `new_node`, by (2) nobody else's.
        drop(unsafe { SlabBox::from_raw(node) });
    }

    unsafe fn retire_node(&self, _: &Guard, node: NonNull<Node>) {
        // SAFETY: 1. (1), (2); sections of this reclaimer are the domain's. A node borrows nothing. 2. By (1) from this cache.
        unsafe { self.domain.retire_in(&self.nodes, node) };
    }

    fn alloc_list(&self, layout: Layout) -> NonNull<u8> {
        slab::alloc(layout).unwrap_or_else(|_| handle_alloc_error(layout))
    }

    unsafe fn free_list(&self, list: NonNull<u8>, _: Layout) {
        // SAFETY: 1. (1), (2).
        unsafe { slab::free(list) };
    }

    #[inline]
    unsafe fn retire_list(&self, section: Guard, list: NonNull<u8>, _: Layout) {
        // First: retiring needs no section, and a retirer over the budget gives way to the readers it waits for.
        drop(section);
        // SAFETY: 1. (1), (2); sections of this reclaimer are the domain's.
        unsafe { self.domain.retire_ptr(list) };
    }

    fn grace_period(&self) -> bool {
        self.domain.synchronize();
        true
    }

    fn barrier(&self) {
        self.domain.barrier();
    }

    fn account(&self, _: Retired) -> Account {
        let stats = self.domain.stats().kvfree;
        Account { left: stats.pending_objects + stats.leaked, peak_bytes: Some(stats.peak_pending_bytes) }
    }
}
