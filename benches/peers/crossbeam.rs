//! crossbeam-epoch: its global collector, Boxes, `defer_unchecked` (what `defer_destroy` comes to).

use super::{BoxSlot, Cycles, Node, Readers, Reclaims, Waits, boxed, unbox};
use crossbeam_epoch::pin;
use std::hint::black_box;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{AcqRel, Acquire, Release},
};

pub(crate) struct Crossbeam;

/// Returns when something deferred now has run: there is no call for it, so flush until it has.
pub(crate) fn flush_loop() {
    let ran = AtomicBool::new(false);
    {
        let flag = &ran;
        let guard = pin();
        // SAFETY: the flag outlives the closure: we do not return before it has run, and the store is the last it does.
        unsafe { guard.defer_unchecked(move || flag.store(true, Release)) };
        guard.flush();
    }
    // Acquire: pairs with the closure's store, and with it all that was freed before.
    while !ran.load(Acquire) {
        pin().flush();
    }
}

impl Readers for Crossbeam {
    const NAME: &'static str = "crossbeam-epoch";
    type Slot = BoxSlot;
    type Local = ();
    fn new() -> Result<Self, String> {
        Ok(Crossbeam)
    }
    fn local(&self) {}
    fn slot(&self, value: Node) -> BoxSlot {
        BoxSlot::new(value)
    }
    #[inline(always)]
    fn read(&self, _local: &mut (), slot: &BoxSlot) -> u64 {
        let _guard = pin();
        // SAFETY: (1) the guard holds it.
        unsafe { slot.look() }
    }
}

impl Reclaims for Crossbeam {
    #[inline(always)]
    fn replace(&self, _local: &mut (), slot: &BoxSlot, value: Node) {
        let guard = pin();
        let old = slot.0.swap(boxed(value), AcqRel);
        // SAFETY: swapped out by us alone; a Box's.
        unsafe { guard.defer_unchecked(move || unbox(old)) };
    }
    fn flush(&self, _local: &mut ()) {
        pin().flush();
    }
    fn barrier(&self, _local: &mut ()) {
        flush_loop();
    }
}

impl Cycles for Crossbeam {
    #[inline(always)]
    fn cycle(&self, _local: &mut (), value: Node) {
        let guard = pin();
        let node = black_box(boxed(value));
        // SAFETY: never published; a Box's.
        unsafe { guard.defer_unchecked(move || unbox(node)) };
    }
}

impl Waits for Crossbeam {
    fn synchronize(&self, _local: &mut ()) {
        flush_loop();
    }
}
