//! The peer: crossbeam-epoch's default collector, over the global allocator.
//!
//! In timed runs it is used as its own documentation has it: `defer_unchecked` with a closure that frees. In the verify
//! run the closure also poisons and counts.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crossbeam_epoch::{self as epoch, Guard};

use super::{Account, Reclaimer, Retired, Setup, memory};
use crate::index::node::Node;

/// Asks the collector to advance until a closure deferred now has run: it has no other way to wait.
pub(crate) fn wait() {
    let over = Arc::new(AtomicBool::new(false));
    let section = epoch::pin();
    let told = Arc::clone(&over);
    // Release: with the Acquire below; the closure is all that ran before.
    section.defer(move || told.store(true, Ordering::Release));
    section.flush();
    drop(section);
    // Acquire: with the Release in the closure.
    while !over.load(Ordering::Acquire) {
        epoch::pin().flush();
        thread::yield_now();
    }
}

/// crossbeam-epoch.
pub(crate) struct Crossbeam {
    /// In the verify run: how many objects the deferred closures have freed. Never freed itself: they outlive anything.
    freed: Option<&'static AtomicU64>,
}

// SAFETY: 1. crossbeam runs a deferred closure only after every guard that was alive when it was deferred is gone. 2. It is
// the global allocator's.
unsafe impl Reclaimer for Crossbeam {
    type Guard<'r> = Guard;

    fn new(setup: Setup) -> Crossbeam {
        Crossbeam { freed: setup.verify.then(|| &*Box::leak(Box::new(AtomicU64::new(0)))) }
    }

    #[inline]
    fn pin(&self) -> Guard {
        epoch::pin()
    }

    fn new_node(&self, node: Node) -> NonNull<Node> {
        memory::new_node(node)
    }

    unsafe fn free_node(&self, node: NonNull<Node>) {
        // SAFETY: (1), (2).
        unsafe { memory::free_node(node) };
    }

    unsafe fn retire_node(&self, section: &Guard, node: NonNull<Node>) {
        // SAFETY: 1. (1); `new_node` allocates with this layout. 2. (2). 3. A node's. Like any memory: nothing is dropped.
        unsafe { self.defer(section, node.cast(), memory::NODE) };
    }

    fn alloc_list(&self, layout: Layout) -> NonNull<u8> {
        memory::allocate(layout)
    }

    unsafe fn free_list(&self, list: NonNull<u8>, layout: Layout) {
        // SAFETY: (1), (2).
        unsafe { memory::free(list, layout) };
    }

    #[inline]
    unsafe fn retire_list(&self, section: Guard, list: NonNull<u8>, layout: Layout) {
        // The section, by which crossbeam knows the thread, ends after it.
        // SAFETY: 1. (1). 2. (2). 3. A list's.
        unsafe { self.defer(&section, list, layout) };
    }

    fn grace_period(&self) -> bool {
        wait();
        true
    }

    /// The threads that retired have ended, so their garbage is in the collector's queue; that is worked off in order,
    /// so when a closure deferred now has run, all of it has.
    fn barrier(&self) {
        wait();
    }

    fn account(&self, retired: Retired) -> Account {
        // Relaxed: `barrier` has ordered the closures before this.
        let left = self.freed.map_or(0, |freed| retired.objects - freed.load(Ordering::Relaxed));
        Account { left, peak_bytes: None }
    }
}

impl Crossbeam {
    /// Has the collector free it.
    ///
    /// # Safety
    /// 1. `memory` is from `memory::allocate` with this layout, and neither freed nor retired yet.
    /// 2. Sections that open later cannot reach it.
    /// 3. The layout is that of a node or a list.
    #[inline]
    unsafe fn defer(&self, section: &Guard, memory: NonNull<u8>, layout: Layout) {
        if let Some(freed) = self.freed {
            // SAFETY: when it runs, no section sees the memory any more (2), so for `poison_and_free`: 1. (1), and this is
            // the only free. 2. (3). The closure may run on another thread and later: all it holds may go there and stays.
            unsafe {
                section.defer_unchecked(move || {
                    memory::poison_and_free(memory, layout);
                    // Relaxed: a count; read after the barrier.
                    freed.fetch_add(1, Ordering::Relaxed);
                });
            }
        } else {
            // SAFETY: as above; for `free` (1) and (2) are enough.
            unsafe { section.defer_unchecked(move || memory::free(memory, layout)) };
        }
    }
}
