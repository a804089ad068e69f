//! [`Constrained`]: the doors for signal handlers.
//!
//! Handed to by users; hands to [`collect`](crate::collect), which then takes no lock, allocates nothing, and wakes nobody for a refill.

use crate::collect::Item;
use crate::grace::GracePeriods;
use crate::head::{self, Ends, Linked};
use crate::kvfree::{Kvfree, in_cache, plain};
use quietus_slab::Cache;
use std::ptr::NonNull;

/// A view of a [`Kvfree`] for signal handlers (the kernel's `kvfree_rcu` with interrupts off). Retiring through it takes no lock and
/// makes no system call but one wake-up of a worker that sleeps because nothing was pending; a refill of the reserve that
/// it finds necessary is asked for by the next ordinary call that opens a block, or found by the worker within the age limit; closed
/// blocks are left to either, too. What finds no block is noted in the bitmap or queued by its head; failing both it is given up, and
/// [`leaked`](crate::Stats::leaked) says so.
///
/// The thread should have retired something before, so that its thread-locals are there.
pub struct Constrained<'k, G: GracePeriods>(pub(crate) &'k Kvfree<G>);

impl<G: GracePeriods> Constrained<'_, G> {
    /// See [`Kvfree::retire`].
    ///
    /// # Safety
    /// 1. As there.
    #[inline]
    pub unsafe fn retire<T: Send>(&self, object: NonNull<T>) {
        // SAFETY: by (1).
        unsafe { self.collect(self.0.by_address(object)) }
    }

    /// See [`Kvfree::retire_in`].
    ///
    /// # Safety
    /// 1. As there.
    #[inline]
    pub unsafe fn retire_in<T: Send>(&self, cache: &Cache<T>, object: NonNull<T>) {
        // SAFETY: by (1).
        unsafe { self.collect(in_cache(cache, object)) }
    }

    /// See [`Kvfree::retire_ptr`].
    ///
    /// # Safety
    /// 1. As there.
    #[inline]
    pub unsafe fn retire_ptr(&self, object: NonNull<u8>) {
        // SAFETY: by (1).
        unsafe { self.collect(plain(object)) }
    }

    /// See [`Kvfree::retire_linked`].
    ///
    /// # Safety
    /// 1. As there.
    #[inline]
    pub unsafe fn retire_linked<T: Linked + Send>(&self, object: NonNull<T>) {
        // SAFETY: by (1) it is a live T.
        let head = unsafe { head::head_of(object) };
        // SAFETY: by (1).
        unsafe { self.collect(Item { head: Some((head, Ends::<T>::SLAB)), ..self.0.by_address(object) }) }
    }

    /// # Safety
    /// 1. The item is one that `Kvfree` makes.
    unsafe fn collect(&self, item: Item) {
        // SAFETY: by (1).
        unsafe { self.0.shared.retire(Item { constrained: true, ..item }) }
    }
}
