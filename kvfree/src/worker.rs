//! The worker: one thread for each [`Kvfree`](crate::Kvfree) that closes blocks by age, reclaims what has elapsed, and refills
//! the reserve. Asleep for good while nothing is pending.
//!
//! Handed to by [`collect`](crate::collect) through [`ring`](Shared::ring); hands to [`drain`](crate::drain),
//! [`reclaim`](crate::reclaim) and [`reserve`](crate::reserve).
//!
//! # Ordering
//! Pair **bell**: a retirer installs a block, then swaps `armed` to true (AcqRel), and wakes the worker if it was false. Before
//! sleeping for good the worker swaps `armed` to false (AcqRel) and then looks whether any word is not 0. Of the two swaps one
//! is first: either the retirer finds false and wakes, or the worker sees the block.

use crate::grace::GracePeriods;
use crate::shared::Shared;
use crate::sync::{
    Instant,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    thread::{self, JoinHandle},
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// Pause between looks at a grace period that a reader holds up.
const SHORT: Duration = Duration::from_millis(1);

impl<G: GracePeriods> Shared<G> {
    /// Something is pending: the worker must not sleep for good. At most one wake-up.
    pub(crate) fn ring(&self) {
        if self.arm() {
            self.wake();
        }
    }

    /// [`ring`](Self::ring), but for the wake-up, which is left to the caller if the answer is true.
    pub(crate) fn arm(&self) -> bool {
        // AcqRel: see "bell" in the module.
        !self.armed.swap(true, AcqRel)
    }

    /// Wakes the worker, if there is one.
    pub(crate) fn wake(&self) {
        if let Some(worker) = self.worker.get() {
            self.counters.wakes.add(1);
            worker.unpark();
        }
    }

    /// One round of everything a worker does but draining. Returns whether a batch is still waiting for its grace period.
    /// Stops calling deferred functions at `until`, so that they do not keep blocks from ageing.
    pub(crate) fn pass(&self, until: Option<Instant>) -> bool {
        self.reserve.refill();
        self.reclaim_all(until);
        let left = self.sweep(until);
        let oldest = self.queue.lock().oldest();
        let Some(oldest) = oldest else { return left };
        if self.gp.advance(oldest) {
            self.reclaim_all(until);
        }
        left || !self.queue.lock().is_empty()
    }

    fn work(&self) {
        let mut last = Instant::now();
        // Acquire: pairs with the Release in `stop`.
        while !self.stopping.load(Acquire) {
            // A panic here is a bug (deferred functions are caught one by one); it has been reported, and must not end the worker.
            let _ = catch_unwind(AssertUnwindSafe(|| self.round(&mut last)));
        }
    }

    fn round(&self, last: &mut Instant) {
        let period = self.config.age / 2;
        if last.elapsed() >= period {
            // A block opened since the pass before is younger than a period; one that was there already is old.
            // Relaxed: a clock; a late reader makes a block seem older.
            let now = self.passes.fetch_add(1, Relaxed) + 1;
            self.drain(now - 1);
            self.reserve.adapt();
            *last = Instant::now();
        }
        if self.pass(Some(*last + period)) {
            return thread::park_timeout(SHORT.min(period));
        }
        // AcqRel: see "bell" in the module.
        self.armed.swap(false, AcqRel);
        // In this order: what a `tick` takes goes from the words to the queue, under the queue's lock.
        if self.any_open() || self.reserve.wanted() || !self.queue.lock().is_empty() {
            // Relaxed: spares retirers a wake-up; nothing follows from it.
            self.armed.store(true, Relaxed);
            thread::park_timeout(period.saturating_sub(last.elapsed()));
        } else {
            self.reserve.empty(); // idle: what was preloaded goes back
            thread::park();
        }
    }
}

/// Starts the worker of `shared`.
pub(crate) fn start<G: GracePeriods>(shared: &Arc<Shared<G>>) -> std::io::Result<JoinHandle<()>> {
    let mine = Arc::clone(shared);
    let handle = thread::Builder::new().name("quietus-drain".into()).spawn(move || mine.work())?;
    let _ = shared.worker.set(handle.thread().clone());
    Ok(handle)
}

/// Ends the worker of `shared`; waits for its end only if asked to.
pub(crate) fn stop<G: GracePeriods>(shared: &Shared<G>, handle: JoinHandle<()>, wait: bool) {
    // Release: pairs with the Acquire in `work`.
    shared.stopping.store(true, Release);
    handle.thread().unpark();
    if wait {
        let _ = handle.join();
    }
}
