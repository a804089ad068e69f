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

use crate::event::event;
use crate::grace::GracePeriods;
use crate::shared::Shared;
use crate::sync::{
    AtomicPtr, Instant, Lock,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    thread::{self, JoinHandle, Thread},
    thread_local,
};
use quietus_slab::raw;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::Duration;

thread_local! {
    /// Whose worker this thread is: the address of its `Shared`, or 0.
    static WORKS_FOR: Cell<usize> = const { Cell::new(0) };
}

/// Is this thread a worker, of whatever `Kvfree`?
pub(crate) fn is_worker() -> bool {
    WORKS_FOR.try_with(Cell::get).unwrap_or(0) != 0
}

/// Pause between looks at a grace period that a reader holds up.
const SHORT: Duration = Duration::from_millis(1);

impl<G: GracePeriods> Shared<G> {
    /// Something is pending: the worker must not sleep for good. At most one wake-up.
    pub(crate) fn ring(&self, constrained: bool) {
        if self.arm() {
            self.wake_from(constrained);
        }
    }

    /// [`ring`](Self::ring), but for the wake-up, which is left to the caller if the answer is true.
    pub(crate) fn arm(&self) -> bool {
        // AcqRel: see "bell" in the module.
        !self.armed.swap(true, AcqRel)
    }

    /// Wakes the worker, if there is to be one; starts another if a fork has lost it.
    pub(crate) fn wake(&self) {
        self.wake_from(false);
    }

    /// [`wake`](Self::wake), perhaps from a signal handler, where no thread can be started.
    pub(crate) fn wake_from(&self, constrained: bool) {
        // Relaxed: the swap in `revive` decides.
        if self.lost.load(Relaxed) {
            if constrained || raw::held() {
                // Relaxed: the next who opens a block tries again.
                return self.armed.store(false, Relaxed);
            }
            self.revive();
        }
        if let Some(worker) = self.worker.thread() {
            self.counters.wakes.add(1);
            worker.unpark();
        }
    }

    #[cold]
    fn revive(&self) {
        // AcqRel: pairs with the store in the fork's child; one of several starts it.
        if !self.lost.swap(false, AcqRel) {
            return;
        }
        if let Some(Err(_)) = self.me.get().and_then(Weak::upgrade).map(|me| start(&me)) {
            // Release: as in the fork's child. Whoever comes next tries again.
            self.lost.store(true, Release);
            // Relaxed: as in the child; else nobody would come.
            self.armed.store(false, Relaxed);
        }
    }

    /// Is this thread the worker?
    pub(crate) fn is_worker(&self) -> bool {
        WORKS_FOR.try_with(Cell::get) == Ok(std::ptr::from_ref(self).addr())
    }

    /// Somebody waits for a grace period: the worker is to look after it ([`GracePeriods::attend`]), now.
    pub(crate) fn attend(&self) {
        self.arm();
        self.wake();
    }

    /// One round of everything a worker does but draining. Returns whether anything is still waiting for its grace period.
    /// Stops calling deferred functions at `until`, so that they do not keep blocks from ageing.
    pub(crate) fn pass(&self, until: Option<Instant>) -> bool {
        self.reserve.refill();
        self.reclaim_all(until);
        let swept = self.sweep(until);
        let oldest = self.lock_queue().oldest();
        if oldest.is_some_and(|oldest| self.gp.advance(oldest)) {
            self.reclaim_all(until);
        }
        // Last, so that a stall's end is seen by the round that ends it.
        let left = self.gp.attend() || swept;
        self.tell_of_leaks();
        left || !self.lock_queue().is_empty()
    }

    /// Objects were given up, here or by a retirer, since this was last called.
    fn tell_of_leaks(&self) {
        let leaked = self.counters.leaked.get();
        let told = self.counters.leaks_told.get();
        if leaked > told {
            self.counters.leaks_told.max(leaked);
            event!(warn, objects = leaked - told, "leak");
        }
    }

    fn work(&self) {
        WORKS_FOR.with(|who| who.set(std::ptr::from_ref(self).addr()));
        event!(debug, "worker started");
        let mut last = Instant::now();
        // Acquire: pairs with the Release in `stop`.
        while !self.stopping.load(Acquire) {
            // A panic here is a bug (deferred functions are caught one by one); it has been reported, and must not end the worker.
            let _ = catch_unwind(AssertUnwindSafe(|| self.round(&mut last)));
        }
        event!(debug, "worker stopped");
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
        if self.pass(last.checked_add(period)) {
            return thread::park_timeout(SHORT.min(period));
        }
        // AcqRel: see "bell" in the module.
        self.armed.swap(false, AcqRel);
        // In this order: what a `tick` takes goes from the words to the queue, under the queue's lock.
        if self.any_open() || self.reserve.wanted() || !self.lock_queue().is_empty() || self.gp.attend() {
            // Relaxed: spares retirers a wake-up; nothing follows from it.
            self.armed.store(true, Relaxed);
            thread::park_timeout(period.saturating_sub(last.elapsed()));
        } else {
            self.reserve.empty(); // idle: what was preloaded goes back
            thread::park();
        }
    }
}

/// The worker's thread. Known without a lock, since signal handlers wake it.
#[derive(Default)]
pub(crate) struct Worker {
    thread: AtomicPtr<Thread>,
    handle: Lock<Option<JoinHandle<()>>>,
}

impl Worker {
    pub(crate) fn thread(&self) -> Option<&Thread> {
        // Acquire: pairs with the swap in `is`.
        // SAFETY: null, or a Box that lives as long as `self`: only `drop` frees it.
        unsafe { self.thread.load(Acquire).as_ref() }
    }

    fn is(&self, thread: Thread) {
        // AcqRel: pairs with the load in `thread`. One that was there (a fork has lost it) may be in somebody's hands, and is leaked.
        self.thread.swap(Box::into_raw(Box::new(thread)), AcqRel);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Relaxed: exclusive.
        let thread = self.thread.load(Relaxed);
        if !thread.is_null() {
            // SAFETY: from `Box::into_raw` in `is`, and `self` is going.
            drop(unsafe { Box::from_raw(thread) });
        }
    }
}

/// Starts the worker of `shared`.
pub(crate) fn start<G: GracePeriods>(shared: &Arc<Shared<G>>) -> std::io::Result<()> {
    let _ = shared.me.set(Arc::downgrade(shared));
    let mine = Arc::clone(shared);
    // Whoever rings after the worker's first look at what is pending must find it.
    let again = shared.worker.thread().is_some();
    let handle = thread::Builder::new().name("quietus-drain".into()).spawn(move || {
        if again {
            mine.worker.is(thread::current());
        }
        mine.work();
    })?;
    if !again {
        // Nobody has anything to ring about yet.
        shared.worker.is(handle.thread().clone());
    }
    let before = shared.worker.handle.lock().replace(handle);
    // Of a thread that a fork has lost, which can neither be joined nor detached.
    std::mem::forget(before);
    Ok(())
}

/// Ends the worker of `shared`, if there is one; waits for its end only if asked to.
pub(crate) fn stop<G: GracePeriods>(shared: &Shared<G>, wait: bool) {
    // Release: pairs with the Acquire in `work`.
    shared.stopping.store(true, Release);
    let Some(handle) = shared.worker.handle.lock().take() else { return };
    // AcqRel: as in `revive`.
    if shared.lost.swap(false, AcqRel) {
        return std::mem::forget(handle); // as in `start`
    }
    handle.thread().unpark();
    if wait {
        let _ = handle.join();
    }
}
