//! Waiting for room: what a retirer, or a caller of [`throttle`](crate::Kvfree::throttle), does while more than the budget is pending.
//!
//! Handed to by [`collect`](crate::collect), once for each closed block, and by [`kvfree`](crate::kvfree); hands to
//! [`reclaim`](crate::reclaim) and to the worker.
//!
//! # Who may wait
//! Nobody inside a section of whatever source there is, since two threads that wait for each other's would wait for ever; no worker and no
//! deferred function, which are what is waited for; no signal handler. A retirer that holds a lock which a reader or a destructor wants
//! does harm that nothing here can see: that is why retiring waits only where it was asked for, and for a limited time.

use crate::crew::LATE;
use crate::grace::GracePeriods;
use crate::live;
use crate::queue::Want;
use crate::reclaim;
use crate::shared::Shared;
use crate::sync::{Instant, thread};
use crate::worker;
use quietus_slab::raw;
use std::fmt;
use std::time::Duration;

/// What retiring does when more than the budget is pending.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnOverflow {
    /// Reclaims what has elapsed, and gives up the processor a bounded number of times. Memory is bounded by the rate of retiring and the
    /// length of grace periods.
    #[default]
    Help,
    /// Waits, too, until no more than the budget is pending, or [`wait_limit`](crate::Config::wait_limit) has passed; but never inside a
    /// section, in a deferred function or destructor, on a worker, or in a signal handler. Then no more than the budget, one block for
    /// each retiring thread, and the open blocks are pending; and while a reader stalls, a block more of each such thread whenever its limit has passed. Not for threads that hold a lock which a reader or a destructor takes.
    Wait,
}

/// Why a thread may not wait here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MayNotWait {
    /// It is inside a read-side section, of this source or of another.
    InsideSection,
    /// It is running a deferred function or a destructor.
    InCall,
    /// It is a worker.
    OnWorker,
    /// It is in a signal handler that has interrupted the allocator.
    InHandler,
}

impl fmt::Display for MayNotWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MayNotWait::InsideSection => "this thread is inside a read-side section, and others may wait for its end",
            MayNotWait::InCall => "this thread is running a deferred function, which others may wait for",
            MayNotWait::OnWorker => "this thread is the worker, which frees what would be waited for",
            MayNotWait::InHandler => "this thread is in a signal handler that has interrupted the allocator",
        })
    }
}

impl std::error::Error for MayNotWait {}

impl<G: GracePeriods> Shared<G> {
    fn over_budget(&self) -> bool {
        self.queued_bytes() > self.config.budget as u64
    }

    /// May the calling thread wait for a grace period, as far as can be told?
    fn may_wait(&self) -> Result<(), MayNotWait> {
        if raw::held() {
            return Err(MayNotWait::InHandler);
        }
        if reclaim::in_any_call() {
            return Err(MayNotWait::InCall);
        }
        if worker::is_worker() {
            return Err(MayNotWait::OnWorker);
        }
        if self.gp.inside_any() || live::any_inside() {
            return Err(MayNotWait::InsideSection);
        }
        Ok(())
    }

    /// Does the calling thread, which retires, wait where there is no room?
    pub(crate) fn waits(&self) -> bool {
        self.config.on_overflow == OnOverflow::Wait && self.gp.inside() == Some(false) && self.may_wait().is_ok()
    }

    /// A retirer's last step: waits for room, if that was asked for; else, or failing that, counts what is too much, and why.
    pub(crate) fn find_room(&self) {
        if !self.over_budget() {
            return;
        }
        if self.waits() {
            self.counters.waits.add(1);
            self.wait_for_room(Instant::now().checked_add(self.config.wait_limit));
        }
        if !self.over_budget() {
            return;
        }
        let c = &self.counters;
        if self.gp.inside() == Some(true) {
            return c.over_inside.add(1);
        }
        // If somebody is busy with the queue the next block will tell.
        let Some(queue) = self.queue.try_lock() else { return };
        match [queue.oldest(), self.overflow.waiting()].into_iter().flatten().min() {
            Some(oldest) if !self.gp.poll(oldest) => c.over_readers.add(1),
            _ => c.over_worker.add(1),
        }
    }

    /// Waits until no more than the budget is pending. Runs no user code. Gives up at `end`, and where all that is left is user code and
    /// there is no worker to run it.
    fn wait_for_room(&self, end: Option<Instant>) {
        self.wake();
        let mut pause = Duration::ZERO;
        while self.over_budget() && end.is_none_or(|end| Instant::now() < end) {
            let oldest = self.reclaim_some(Want::Plain);
            // Without a batch, too: what has no block waits for a tick.
            if oldest.is_none_or(|oldest| self.gp.advance(oldest)) && !self.config.workers {
                self.reclaim_some(Want::Plain);
                if self.queue.try_lock().is_some_and(|queue| !queue.has_plain()) {
                    return;
                }
            }
            self.relieve_worker(LATE);
            pause = snooze(pause);
        }
    }

    /// See [`Kvfree::throttle`](crate::Kvfree::throttle).
    pub(crate) fn throttle(&self) -> Result<(), MayNotWait> {
        self.may_wait()?;
        let mut pause = Duration::ZERO;
        while self.over_budget() {
            if self.config.workers {
                self.wait_for_room(None);
            } else {
                self.pass(None);
                pause = snooze(pause);
            }
        }
        Ok(())
    }
}

/// Yields, then sleeps so long; returns how long the next time.
fn snooze(pause: Duration) -> Duration {
    const LONGEST: Duration = Duration::from_millis(1);
    if pause.is_zero() {
        thread::yield_now();
    } else {
        thread::sleep(pause);
    }
    (pause * 2 + Duration::from_micros(20)).min(LONGEST)
}
