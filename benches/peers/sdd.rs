//! sdd: its own owners, which put the collector's list into the allocation (80 bytes for a node).

use super::{Cycles, Node, Readers, Reclaims};
use ::sdd::{AtomicOwned, Guard, Owned, Tag};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{AcqRel, Acquire, Release},
};

pub(crate) struct Sdd;

impl Readers for Sdd {
    const NAME: &'static str = "sdd";
    type Slot = AtomicOwned<Node>;
    type Local = ();
    fn new() -> Result<Self, String> {
        Ok(Sdd)
    }
    fn local(&self) {}
    fn slot(&self, value: Node) -> Self::Slot {
        AtomicOwned::new(value)
    }
    #[inline(always)]
    fn read(&self, _local: &mut (), slot: &Self::Slot) -> u64 {
        let guard = Guard::new();
        slot.load(Acquire, &guard).as_ref().map_or(0, |node| node[0])
    }
}

impl Reclaims for Sdd {
    #[inline(always)]
    fn replace(&self, _local: &mut (), slot: &Self::Slot, value: Node) {
        let _guard = Guard::new();
        drop(slot.swap((Some(Owned::new(value)), Tag::None), AcqRel));
    }
    fn flush(&self, _local: &mut ()) {
        Guard::new().accelerate();
    }
    fn barrier(&self, _local: &mut ()) {
        let ran = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ran);
        // Release, Acquire below: what ran before it has run.
        Guard::new().defer_execute(move || flag.store(true, Release));
        while !ran.load(Acquire) {
            Guard::new().accelerate();
        }
    }
}

impl Cycles for Sdd {
    #[inline(always)]
    fn cycle(&self, _local: &mut (), value: Node) {
        let _guard = Guard::new();
        drop(black_box(Owned::new(value)));
    }
}
