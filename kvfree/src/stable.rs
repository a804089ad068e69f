//! Type-stable memory: a [`Kvfree`] knows the readers that a slab of such a cache has to wait for.
//!
//! Handed to by the allocator ([`Grace`]), on slow paths of frees; hands to [`linked`](crate::linked). The slab is queued by two words
//! of its own descriptor, so that this needs no block, no memory and no lock: as the kernel does it (`call_rcu` of `free_slab`).

use crate::grace::GracePeriods;
use crate::head::{Callback, RcuHead};
use crate::kvfree::Kvfree;
use quietus_slab::{Call, Grace, SLAB_BYTES};
use std::ptr::NonNull;

/// A slab counts with all its bytes against the budget.
static SLAB: Callback = Callback::new(give, SLAB_BYTES);

const _: () =
    assert!(size_of::<RcuHead>() == size_of::<[*mut (); 2]>() && align_of::<RcuHead>() == align_of::<*mut ()>());

unsafe fn give(head: NonNull<RcuHead>) {
    // SAFETY: queued by `after` below, once, with the address of a call.
    unsafe { Call::from_raw(head.cast()) }.run();
}

/// For [`type_stable`](quietus_slab::StableBuilder::type_stable): slabs wait for sections of this source, and of no other. A worker, ticker or
/// barrier drops their values. Costs an exchange and, if nothing was pending, a wake-up for each slab; never allocates, waits or fails. (In a
/// fork's child the worker comes back with the next call that opens a block, or somebody has to `tick`.)
// SAFETY: (1) the callback is run after a grace period that begins later, whose end happens after the sections' accesses.
unsafe impl<G: GracePeriods> Grace for Kvfree<G> {
    fn after(&self, call: Call) {
        let head = call.into_raw().cast::<RcuHead>();
        // SAFETY: two words of the right size and alignment, which are ours.
        unsafe { head.write(RcuHead::new()) };
        self.shared.counters.callbacks.add(1);
        // As in a signal handler: the allocator may hold long locks, and whoever frees may be in one.
        self.shared.link(head, &SLAB, true);
        self.shared.note_chained();
    }
}
