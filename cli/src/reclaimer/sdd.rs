//! A peer: sdd's collector, over the global allocator.
//!
//! Its own owners put its link beside the value, whose size has to be known; a list's is not. So this is its way for memory
//! of others: `defer_execute` with a closure that frees. In the verify run the closure also poisons and counts.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sdd::Guard;

use super::{Account, Reclaimer, Retired, Setup, memory};
use crate::index::node::Node;

/// How long the verify run's barrier waits for what other threads have left behind.
const PATIENCE: Duration = Duration::from_secs(20);

/// sdd.
pub(crate) struct Sdd {
    /// In the verify run. Never freed: closures outlive anything.
    counts: Option<&'static Counts>,
}

/// Objects.
#[derive(Default)]
struct Counts {
    deferred: AtomicU64,
    freed: AtomicU64,
}

// SAFETY: 1. sdd runs a deferred closure only after every guard that was alive when it was deferred is gone. 2. It is the
// global allocator's.
unsafe impl Reclaimer for Sdd {
    type Guard<'r> = Guard;

    fn new(setup: Setup) -> Sdd {
        Sdd { counts: setup.verify.then(|| &*Box::leak(Box::default())) }
    }

    #[inline]
    fn pin(&self) -> Guard {
        Guard::new()
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
        // SAFETY: 1. (1). 2. (2). 3. A list's.
        unsafe { self.defer(&section, list, layout) };
    }

    /// Asks the collector to advance until a closure deferred now has run.
    fn grace_period(&self) -> bool {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        // Release: with the Acquire below; the closure is all that ran before.
        Guard::new().defer_execute(move || told.store(true, Ordering::Release));
        // Acquire: with the Release in the closure.
        while !over.load(Ordering::Acquire) {
            Guard::new().accelerate();
            thread::yield_now();
        }
        true
    }

    /// Covers what this thread can reach. What ended threads have left behind is taken over some epochs later: the verify run,
    /// which counts, waits for that, too.
    fn barrier(&self) {
        let start = Instant::now();
        loop {
            self.grace_period();
            if start.elapsed() > PATIENCE || self.counts.is_none_or(|counts| counts.left() == 0) {
                return;
            }
        }
    }

    fn account(&self, _: Retired) -> Account {
        Account { left: self.counts.map_or(0, Counts::left), peak_bytes: None }
    }
}

impl Counts {
    /// Deferred and not freed. Nobody defers meanwhile.
    fn left(&self) -> u64 {
        // Acquire: with the Release in the closures: nobody uses what they freed.
        let freed = self.freed.load(Ordering::Acquire);
        // Relaxed: a count; the threads that defer have been joined.
        self.deferred.load(Ordering::Relaxed) - freed
    }
}

impl Sdd {
    /// Has the collector free it.
    ///
    /// # Safety
    /// 1. `memory` is from `memory::allocate` with this layout, and neither freed nor retired yet.
    /// 2. Sections that open later cannot reach it.
    /// 3. The layout is that of a node or a list.
    #[inline]
    unsafe fn defer(&self, section: &Guard, memory: NonNull<u8>, layout: Layout) {
        let Some(counts) = self.counts else {
            // SAFETY: when it runs, no section sees the memory any more (2), so for `free`: 1. (1), and this is the only free.
            return section.defer_execute(move || unsafe { memory::free(memory, layout) });
        };
        // Relaxed: a count.
        counts.deferred.fetch_add(1, Ordering::Relaxed);
        section.defer_execute(move || {
            // SAFETY: as above; 2. (3).
            unsafe { memory::poison_and_free(memory, layout) };
            // Release: with the Acquire in `left`.
            counts.freed.fetch_add(1, Ordering::Release);
        });
    }
}
