//! The worker: one thread for each [`Kvfree`](crate::Kvfree) that closes blocks by age, reclaims what has elapsed, and refills
//! the reserve. Asleep for good while nothing is pending. It gets others to help, if need be, who do the same rounds: [`crew`](crate::crew).
//!
//! Handed to by [`collect`](crate::collect) through [`ring`](Shared::ring); hands to [`drain`](crate::drain),
//! [`reclaim`](crate::reclaim) and [`reserve`](crate::reserve).
//!
//! # Ordering
//! Pair **bell**: a retirer installs a block, then swaps `armed` to true (AcqRel), and wakes the worker if it was false. Before
//! sleeping for good the worker swaps `armed` to false (AcqRel) and then looks whether any word is not 0. Of the two swaps one
//! is first: either the retirer finds false and wakes, or the worker sees the block.

use crate::crew;
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
    /// Whose worker this thread is (the address of its `Shared`, or 0), and in which seat.
    static WORKS_FOR: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    /// Batches with user code that this thread has run.
    static CALLS_HERE: Cell<u64> = const { Cell::new(0) };
}

/// Is this thread a worker, of whatever `Kvfree`?
pub(crate) fn is_worker() -> bool {
    WORKS_FOR.try_with(Cell::get).is_ok_and(|(owner, _)| owner != 0)
}

/// The seat of this thread, if it is a worker of `shared`; 0: the first.
pub(crate) fn seat_of<G>(shared: &Shared<G>) -> Option<usize> {
    let (owner, seat) = WORKS_FOR.try_with(Cell::get).ok()?;
    (owner == std::ptr::from_ref(shared).addr()).then_some(seat)
}

/// Batches with user code that this thread has run.
pub(crate) fn calls_here() -> u64 {
    CALLS_HERE.with(Cell::get)
}

/// This thread runs one.
pub(crate) fn count_call() {
    let _ = CALLS_HERE.try_with(|n| n.set(n.get() + 1));
}

/// Pause between looks at a grace period that a reader holds up.
pub(crate) const SHORT: Duration = Duration::from_millis(1);

/// One of a worker's rounds. A panic here is a bug (deferred functions are caught one by one); it has been reported, and must not end the
/// worker.
pub(crate) fn guarded(round: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(round));
}

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

    /// Is this thread the first worker?
    pub(crate) fn is_worker(&self) -> bool {
        seat_of(self) == Some(0)
    }

    /// Somebody waits for a grace period: a worker is to look after it ([`GracePeriods::attend`]), now.
    pub(crate) fn attend(&self) {
        self.arm();
        self.wake();
        self.relieve_worker(Duration::ZERO);
    }

    /// One round of everything a worker does but draining. Returns whether anything is still waiting for its grace period.
    /// Stops calling deferred functions at `until`, so that they do not keep blocks from ageing.
    pub(crate) fn pass(&self, until: Option<Instant>) -> bool {
        self.reserve.refill();
        self.reclaim_all(until);
        let swept = {
            let _calling = self.calling();
            self.sweep(until)
        };
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

    /// What the first worker does.
    fn work(&self) {
        guarded(|| {
            event!(debug, "worker started");
        });
        // Acquire: pairs with the Release in `stop`.
        while !self.stopping.load(Acquire) {
            guarded(|| {
                let left = self.round();
                self.sleep(left);
            });
        }
        guarded(|| {
            event!(debug, "worker stopped");
        });
    }

    /// Everything that a worker does between two sleeps. Returns whether anything is still waiting for its grace period.
    pub(crate) fn round(&self) -> bool {
        let period = self.config.age / 2;
        if self.aged.is_due(period) {
            // A block opened since the pass before is younger than a period; one that was there already is old.
            // Relaxed: a clock; a late reader makes a block seem older.
            let now = self.passes.fetch_add(1, Relaxed) + 1;
            self.drain(now - 1);
            self.reserve.adapt();
            self.aged.done();
            self.heed_pressure();
        }
        self.pass(self.aged.due(period))
    }

    fn sleep(&self, left: bool) {
        let period = self.config.age / 2;
        if left {
            return self.crew.rest(0, Some(SHORT.min(period)));
        }
        // AcqRel: see "bell" in the module.
        self.armed.swap(false, AcqRel);
        // In this order: what a `tick` takes goes from the words to the queue, under the queue's lock.
        if self.any_open() || self.reserve.wanted() || !self.lock_queue().is_empty() || self.gp.attend() {
            // Relaxed: spares retirers a wake-up; nothing follows from it.
            self.armed.store(true, Relaxed);
            let now = Instant::now();
            let left = self.aged.due(period).map_or(period, |due| if due > now { due - now } else { Duration::ZERO });
            self.crew.rest(0, Some(left));
        } else {
            self.reserve.empty(); // idle: what was preloaded goes back
            self.crew.rest(0, None);
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
    let handle = crew::spawn(mine, "quietus-drain".into(), move |mine| {
        sit(mine, 0);
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

/// Starts one more, for a seat that is free.
pub(crate) fn start_further<G: GracePeriods>(shared: Arc<Shared<G>>, seat: usize) -> std::io::Result<JoinHandle<()>> {
    crew::spawn(shared, format!("quietus-drain-{seat}"), move |mine| {
        sit(mine, seat);
        mine.assist(seat);
    })
}

/// This thread is a worker of `shared` from now on.
fn sit<G: GracePeriods>(shared: &Shared<G>, seat: usize) {
    WORKS_FOR.with(|who| who.set((std::ptr::from_ref(shared).addr(), seat)));
    shared.crew.sit(seat, true);
}

/// Ends the workers of `shared`, if there are any; waits for their end only if asked to, and if it is not one of them that asks.
pub(crate) fn stop<G: GracePeriods>(shared: &Shared<G>, wait: bool) {
    let wait = wait && seat_of(shared).is_none();
    // Release: pairs with the Acquire in `work`, `assist` and `reinforce`.
    shared.stopping.store(true, Release);
    if shared.config.workers {
        shared.dismiss(wait);
    }
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
