//! Memory pressure: what could be given back, and giving it back (the kernel's shrinker, `kfree_rcu_shrink_count` and `_scan`).
//!
//! Handed to by [`kvfree`](crate::kvfree), and by workers and ticks that look for themselves, if they were told where
//! ([`gauge`](crate::gauge)); hands to [`drain`](crate::drain), [`reclaim`](crate::reclaim) and [`reserve`](crate::reserve).

use crate::event::event;
use crate::grace::GracePeriods;
use crate::queue::Want;
use crate::shared::Shared;
use quietus_slab::raw::BLOCK_BYTES;

/// Bytes that a [`Kvfree`](crate::Kvfree) holds and might give back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Reclaimable {
    /// Retired objects that are not free yet.
    pub pending_bytes: u64,
    /// Empty blocks in the CPUs' reserves.
    pub reserve_bytes: u64,
}

impl<G: GracePeriods> Shared<G> {
    pub(crate) fn reclaimable(&self) -> Reclaimable {
        let pending_bytes = self.queued_bytes() + self.counters.stray_bytes.get() + self.open_size().bytes;
        Reclaimable { pending_bytes, reserve_bytes: u64::from(self.reserve.blocks()) * BLOCK_BYTES as u64 }
    }

    /// A worker's or ticker's look at the system's memory, if it was told where, it is time, and there is something to give back: if memory
    /// is short, so much is given back as by [`relieve`](Self::relieve).
    pub(crate) fn heed_pressure(&self) {
        let Some(pressure) = &self.config.pressure else { return };
        let held = self.reclaimable();
        if held.pending_bytes + held.reserve_bytes == 0 || !self.looked.is_due(pressure.pause()) {
            return;
        }
        let reading = pressure.read();
        self.counters.pressure_looks.add(1);
        self.counters.pressure_errors.add(reading.errors);
        if pressure.is_short(&reading) {
            self.counters.pressure_reliefs.add(1);
            event!(debug, bytes = held.pending_bytes, "memory is short");
            self.relieve();
        }
    }

    /// Closes every open block, pushes the grace period, frees what has elapsed without user code, empties the reserves, and makes
    /// refills small for a while. Returns what there was before, less what there is now.
    pub(crate) fn relieve(&self) -> Reclaimable {
        let before = self.reclaimable();
        self.reserve.back_off(self.config.backoff);
        self.drain(u64::MAX);
        // So many times at most: others may go on retiring faster than this thread frees.
        for _ in 0..64 {
            if !self.reclaim_some(Want::Plain).is_some_and(|oldest| self.gp.advance(oldest)) {
                break;
            }
        }
        self.reserve.empty();
        self.wake();
        let after = self.reclaimable();
        Reclaimable {
            pending_bytes: before.pending_bytes.saturating_sub(after.pending_bytes),
            reserve_bytes: before.reserve_bytes.saturating_sub(after.reserve_bytes),
        }
    }
}
