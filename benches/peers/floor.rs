//! What one would pay without reclamation: nothing at all (the floor), or a lock.

use super::{BoxSlot, Cycles, Node, Readers, Reclaims, boxed, unbox};
use std::hint::black_box;
use std::sync::RwLock;
use std::sync::atomic::Ordering::AcqRel;

/// Plain loads, and an immediate free on mimalloc. With readers *and* writers this would be a use after free; the
/// benchmarks run either the one or the other.
pub(crate) struct Plain;

impl Readers for Plain {
    const NAME: &'static str = "plain (no protection)";
    type Slot = BoxSlot;
    type Local = ();
    fn new() -> Result<Self, String> {
        Ok(Plain)
    }
    fn local(&self) {}
    fn slot(&self, value: Node) -> BoxSlot {
        BoxSlot::new(value)
    }
    #[inline(always)]
    fn read(&self, _local: &mut (), slot: &BoxSlot) -> u64 {
        // SAFETY: (1) benchmarks that read do not write.
        unsafe { slot.look() }
    }
}

impl Reclaims for Plain {
    #[inline(always)]
    fn replace(&self, _local: &mut (), slot: &BoxSlot, value: Node) {
        let old = slot.0.swap(boxed(value), AcqRel);
        // SAFETY: swapped out by us alone, and benchmarks that write do not read.
        unsafe { unbox(old) };
    }
    fn barrier(&self, _local: &mut ()) {}
}

impl Cycles for Plain {
    #[inline(always)]
    fn cycle(&self, _local: &mut (), value: Node) {
        let node = black_box(boxed(value));
        // SAFETY: (1) from above, never published.
        unsafe { unbox(node) };
    }
}

/// A lock around each slot.
pub(crate) struct Locked;

impl Readers for Locked {
    const NAME: &'static str = "std RwLock";
    type Slot = RwLock<Box<Node>>;
    type Local = ();
    fn new() -> Result<Self, String> {
        Ok(Locked)
    }
    fn local(&self) {}
    fn slot(&self, value: Node) -> Self::Slot {
        RwLock::new(Box::new(value))
    }
    #[inline(always)]
    fn read(&self, _local: &mut (), slot: &Self::Slot) -> u64 {
        slot.read().expect("no panic while it is held")[0]
    }
}

impl Reclaims for Locked {
    #[inline(always)]
    fn replace(&self, _local: &mut (), slot: &Self::Slot, value: Node) {
        let new = Box::new(value);
        let old = std::mem::replace(&mut *slot.write().expect("no panic while it is held"), new);
        drop(old);
    }
    fn barrier(&self, _local: &mut ()) {}
}
