//! seize: a collector with its default batch size, Boxes.

use super::{BoxSlot, Cycles, Node, Readers, Reclaims, boxed};
use ::seize::{Collector, Guard, reclaim};
use std::hint::black_box;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

pub(crate) struct Seize(Collector);

impl Readers for Seize {
    const NAME: &'static str = "seize";
    type Slot = BoxSlot;
    type Local = ();
    fn new() -> Result<Self, String> {
        Ok(Seize(Collector::new()))
    }
    fn local(&self) {}
    fn slot(&self, value: Node) -> BoxSlot {
        BoxSlot::new(value)
    }
    #[inline(always)]
    fn read(&self, _local: &mut (), slot: &BoxSlot) -> u64 {
        let guard = self.0.enter();
        // SAFETY: never null; the guard holds it.
        unsafe { (*guard.protect(&slot.0, Acquire))[0] }
    }
}

impl Reclaims for Seize {
    #[inline(always)]
    fn replace(&self, _local: &mut (), slot: &BoxSlot, value: Node) {
        let guard = self.0.enter();
        let old = guard.swap(&slot.0, boxed(value), AcqRel);
        // SAFETY: swapped out by us alone; a Box's.
        unsafe { guard.defer_retire(old, reclaim::boxed) };
    }
    fn flush(&self, _local: &mut ()) {
        self.0.enter().flush();
    }
    fn barrier(&self, _local: &mut ()) {
        // SAFETY: benchmarks call it when no other thread uses the collector, and outside a guard.
        unsafe { self.0.reclaim_all() };
    }
}

impl Cycles for Seize {
    #[inline(always)]
    fn cycle(&self, _local: &mut (), value: Node) {
        let guard = self.0.enter();
        let node = black_box(boxed(value));
        // SAFETY: never published; a Box's.
        unsafe { guard.defer_retire(node, reclaim::boxed) };
    }
}
