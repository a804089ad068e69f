//! haphazard: its global domain, Boxes, one hazard pointer kept by each thread (what its documentation advises).

use super::{BoxSlot, Cycles, Node, Readers, Reclaims, boxed};
use ::haphazard::{Domain, Global, HazardPointer};
use std::hint::black_box;
use std::sync::atomic::Ordering::AcqRel;

pub(crate) struct Haphazard;

impl Readers for Haphazard {
    const NAME: &'static str = "haphazard";
    type Slot = BoxSlot;
    type Local = HazardPointer<'static, Global>;
    fn new() -> Result<Self, String> {
        Ok(Haphazard)
    }
    fn local(&self) -> Self::Local {
        HazardPointer::new()
    }
    fn slot(&self, value: Node) -> BoxSlot {
        BoxSlot::new(value)
    }
    #[inline(always)]
    fn read(&self, local: &mut Self::Local, slot: &BoxSlot) -> u64 {
        // SAFETY: 1: what is in the slot is live. 2: it is retired to the global domain.
        let word = unsafe { local.protect(&slot.0) }.map_or(0, |node| node[0]);
        local.reset_protection();
        word
    }
}

impl Reclaims for Haphazard {
    #[inline(always)]
    fn replace(&self, _local: &mut Self::Local, slot: &BoxSlot, value: Node) {
        let old = slot.0.swap(boxed(value), AcqRel);
        // SAFETY: 1 and 2: swapped out by us alone. 3: the global domain is never dropped.
        unsafe { Domain::global().retire_ptr::<Node, Box<Node>>(old) };
    }
    fn barrier(&self, _local: &mut Self::Local) {
        Domain::global().eager_reclaim();
    }
}

impl Cycles for Haphazard {
    #[inline(always)]
    fn cycle(&self, _local: &mut Self::Local, value: Node) {
        let node = black_box(boxed(value));
        // SAFETY: 1 and 2: never published. 3: the global domain is never dropped.
        unsafe { Domain::global().retire_ptr::<Node, Box<Node>>(node) };
    }
}
