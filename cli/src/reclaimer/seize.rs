//! A peer: seize, a collector with its default batches, over the global allocator.
//!
//! It frees an object by a function of its address alone, so the length of a list is read from the list. In the verify run
//! what is retired is a parcel with the object in it, which poisons and counts.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use seize::{Collector, Guard, LocalGuard, reclaim};

use super::{Account, Reclaimer, Retired, Setup, memory};
use crate::index::node::Node;
use crate::index::posting::{Header, layout};

/// seize.
pub(crate) struct Seize {
    collector: Collector,
    /// In the verify run: how many objects have been freed. Never freed itself: parcels may outlive the collector's handle.
    freed: Option<&'static AtomicU64>,
}

// SAFETY: 1. seize runs a retired object's function only after every guard that was alive when it was retired is gone, if the
// loads under it are SeqCst, as `Guard::protect` makes them. 2. It is the global allocator's.
unsafe impl Reclaimer for Seize {
    type Guard<'r> = LocalGuard<'r>;

    const FOLLOW: Ordering = Ordering::SeqCst;

    fn new(setup: Setup) -> Seize {
        let freed = setup.verify.then(|| &*Box::leak(Box::new(AtomicU64::new(0))));
        Seize { collector: Collector::new(), freed }
    }

    #[inline]
    fn pin(&self) -> LocalGuard<'_> {
        self.collector.enter()
    }

    fn new_node(&self, node: Node) -> NonNull<Node> {
        memory::new_node(node)
    }

    unsafe fn free_node(&self, node: NonNull<Node>) {
        // SAFETY: (1), (2).
        unsafe { memory::free_node(node) };
    }

    unsafe fn retire_node(&self, section: &LocalGuard<'_>, node: NonNull<Node>) {
        match self.freed {
            // SAFETY: 1. (1); `new_node` allocates with this layout. 2. (2). 3. A node's.
            Some(freed) => unsafe { defer_parcel(section, node.cast(), memory::NODE, freed) },
            // SAFETY: no later section can reach it (2), and by (1) `free_node` may be called on it once.
            None => unsafe { section.defer_retire(node.as_ptr(), free_node) },
        }
    }

    fn alloc_list(&self, layout: Layout) -> NonNull<u8> {
        memory::allocate(layout)
    }

    unsafe fn free_list(&self, list: NonNull<u8>, layout: Layout) {
        // SAFETY: (1), (2).
        unsafe { memory::free(list, layout) };
    }

    #[inline]
    unsafe fn retire_list(&self, section: LocalGuard<'_>, list: NonNull<u8>, layout: Layout) {
        match self.freed {
            // SAFETY: 1. (1). 2. (2). 3. A list's.
            Some(freed) => unsafe { defer_parcel(&section, list, layout, freed) },
            // SAFETY: no later section can reach it (2), and by (1) `free_list` may be called on it once: what is retired is a
            // list that was written.
            None => unsafe { section.defer_retire(list.as_ptr().cast(), free_list) },
        }
    }

    /// Retires flags until one of them is dropped: a batch is handed over only when it holds an object for each active thread.
    fn grace_period(&self) -> bool {
        let over = Arc::new(AtomicBool::new(false));
        // Acquire: with the Release in `Flag`.
        while !over.load(Ordering::Acquire) {
            let section = self.collector.enter();
            let flag = Box::into_raw(Box::new(Flag(Arc::clone(&over))));
            // SAFETY: nobody else has the Box, and its function is that of a Box.
            unsafe { section.defer_retire(flag, reclaim::boxed) };
            section.flush();
            drop(section);
            thread::yield_now();
        }
        true
    }

    fn barrier(&self) {
        // SAFETY: no other thread uses the collector now (`Reclaimer::barrier`), and this one has no section.
        unsafe { self.collector.reclaim_all() };
    }

    fn account(&self, retired: Retired) -> Account {
        // Relaxed: `barrier` has ordered the parcels before this.
        let left = self.freed.map_or(0, |freed| retired.objects - freed.load(Ordering::Relaxed));
        Account { left, peak_bytes: None }
    }
}

/// Says when it is dropped.
struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        // Release: with the Acquire in `grace_period`.
        self.0.store(true, Ordering::Release);
    }
}

unsafe fn free_node(node: *mut Node, _: &Collector) {
    // SAFETY: retired as `Reclaimer::retire_node` has it: for `memory::free_node`, 1. From `new_node`. 2. Its sections are over.
    unsafe { memory::free_node(NonNull::new_unchecked(node)) };
}

unsafe fn free_list(list: *mut Header, _: &Collector) {
    // SAFETY: a list that was written, whose length is what it was allocated by; nobody changes that. For `memory::free`,
    // 1. From `allocate` with this layout. 2. Its sections are over.
    unsafe {
        let len = (*list).len as usize;
        memory::free(NonNull::new_unchecked(list.cast()), layout(len));
    }
}

/// What is retired in the verify run.
struct Parcel {
    memory: NonNull<u8>,
    layout: Layout,
    freed: &'static AtomicU64,
}

impl Drop for Parcel {
    fn drop(&mut self) {
        // SAFETY: a parcel is dropped once, after the sections that could see what is in it: contract of `defer_parcel`.
        unsafe { memory::poison_and_free(self.memory, self.layout) };
        // Relaxed: a count; read after the barrier.
        self.freed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Has the collector poison, free and count it.
///
/// # Safety
/// 1. `memory` is from `memory::allocate` with this layout, and neither freed nor retired yet.
/// 2. Sections that open later cannot reach it.
/// 3. The layout is that of a node or a list.
#[cold]
unsafe fn defer_parcel(section: &LocalGuard<'_>, memory: NonNull<u8>, layout: Layout, freed: &'static AtomicU64) {
    let parcel = Box::into_raw(Box::new(Parcel { memory, layout, freed }));
    // SAFETY: nobody else has the Box, and its function is that of a Box. What is in it: (1), (2), (3).
    unsafe { section.defer_retire(parcel, reclaim::boxed) };
}
