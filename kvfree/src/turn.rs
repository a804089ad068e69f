//! A turn: the worker's duties in small portions, for handles without a worker whose callers come by often, outside sections.
//!
//! Handed to by the drop-in packages, at each of so many sections; hands to [`reclaim`](crate::reclaim) and
//! [`drain`](crate::drain). Unlike a [`tick`](crate::Kvfree::tick), a turn closes no block and does a bounded share, so that it may be
//! taken in the middle of a program's hot path.
//!
//! # Ordering
//! S, as in [`collect`](crate::collect): detached under the queue's lock, then the cookie. G in `reclaim`.

use crate::grace::GracePeriods;
use crate::kvfree::Kvfree;
use crate::queue::Want;
use crate::reclaim;
use crate::shared::Shared;
use crate::sync::thread;
use quietus_slab::raw::{sites, unpack};

/// Most that a turn yields the processor while the budget is exceeded: to the reader that holds up the grace period.
const YIELDS: u32 = 4;

impl<G: GracePeriods> Shared<G> {
    /// Takes back what this thread's CPU has, by the CPU's own commits, and queues it: mostly all there is, and no other CPU is interrupted.
    fn close_here(&self) {
        self.lanes.with_used(|words| {
            let mut queue = self.queue.lock();
            let Some(site) = sites().next() else { return };
            for &word in words {
                let old = word.load(site);
                if old == 0 || !word.exchange(site, old, 0) {
                    continue; // nothing, or moved to another CPU: the drain finds it
                }
                let (open, mut chain) = unpack(old);
                if open.is_some() && open.block().filled() == 0 {
                    self.reserve.put(open);
                } else if open.is_some() {
                    open.block().set_next(chain);
                    chain = open;
                }
                if chain.is_some() {
                    // The cookie after the detaching (S).
                    let cookie = self.gp.start();
                    self.enqueue(&mut queue, chain, cookie);
                }
            }
        });
    }
}

impl<G: GracePeriods> Kvfree<G> {
    /// Frees a bounded share of what has elapsed, oldest first, deferred functions and destructors included; pushes the grace period on
    /// for the rest. Above the budget it also gives way, a bounded number of times: to be called outside sections, where that holds
    /// nobody up. Does nothing inside a deferred function, so that those do not pile up on the stack. Never waits.
    pub fn turn(&self) {
        let s = &self.shared;
        if reclaim::in_any_call() {
            return;
        }
        let Some(oldest) = s.reclaim_some(Want::All) else { return };
        if s.gp.advance(oldest) {
            s.reclaim_some(Want::All);
        }
        let mut left = YIELDS;
        while s.counters.waiting_bytes() > s.config.budget as u64 && left > 0 {
            left -= 1;
            s.counters.yields.add(1);
            thread::yield_now();
            match s.reclaim_some(Want::All) {
                Some(oldest) => s.gp.advance(oldest),
                None => break,
            };
        }
    }

    /// Closes every open block, pushes the grace period on for all that is pending, and frees what has elapsed, on this thread. Inside a
    /// deferred function nothing is freed. Never waits for readers; two calls in two sections of the only reader free what was
    /// retired before the first.
    pub fn settle(&self) {
        let s = &self.shared;
        s.close_here();
        if s.any_open() {
            s.drain(u64::MAX);
        }
        let last = {
            let queue = s.queue.lock();
            if queue.is_empty() && !s.overflow.pending() {
                return;
            }
            queue.last()
        };
        // A number of its own, and not the oldest batch's: a grace period that somebody began before is completed, and a new one begun.
        s.gp.advance(s.gp.start());
        if !reclaim::in_any_call() {
            s.reclaim_up_to(Want::All, last, None);
            s.sweep(None);
        }
    }
}
