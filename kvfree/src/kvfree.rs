//! [`Kvfree`]: the handle, and the doors for retiring.
//!
//! Handed to by users and by `quietus`; hands to [`collect`](crate::collect).

use crate::grace::GracePeriods;
use crate::reclaim::{self, Function};
use crate::shared::{Config, Shared};
use crate::stats::Stats;
use crate::worker;
use quietus_slab::Cache;
use quietus_slab::raw::{self, Lock, WEIGHT_UNIT};
use std::ptr::NonNull;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

/// Deferred bulk free over one source of grace periods. Retiring costs a few nanoseconds and does not touch the object. Once for
/// every few hundred objects, when a block is full, it also does a bounded share of the reclaiming.
pub struct Kvfree<G: GracePeriods> {
    shared: Arc<Shared<G>>,
    worker: Lock<Option<JoinHandle<()>>>,
}

/// What the allocator's hook sees of a `Kvfree`.
trait Help: Send + Sync {
    fn help_dry(&self) -> bool;
}

impl<G: GracePeriods> Help for Shared<G> {
    fn help_dry(&self) -> bool {
        Shared::help_dry(self)
    }
}

/// Those alive, for the allocator's hook.
static LIVE: Lock<Vec<Weak<dyn Help>>> = Lock::new(Vec::new());

/// An allocation found its barn empty: has anybody something that has elapsed?
fn dry() -> bool {
    let mut any = false;
    for i in 0.. {
        // The lock is not held while one helps, or goes.
        let Some(shared) = LIVE.try_lock().and_then(|live| live.get(i).map(Weak::upgrade)) else { break };
        any |= shared.is_some_and(|shared| shared.help_dry());
    }
    any
}

impl<G: GracePeriods> Kvfree<G> {
    /// A `Kvfree` over `gp`. Starts its worker thread, if it is to have one.
    ///
    /// # Panics
    /// When the thread cannot be started, or no per-CPU words are left (8,183, two for each `Kvfree` and one for each cache).
    pub fn new(gp: G, config: Config) -> Self {
        let shared = Arc::new(Shared::new(gp, config));
        let worker = shared.config.workers.then(|| worker::start(&shared).expect("quietus: cannot start the worker"));
        let weak: Weak<Shared<G>> = Arc::downgrade(&shared);
        let mut live = LIVE.lock();
        live.retain(|w| w.strong_count() > 0);
        live.push(weak);
        drop(live);
        raw::on_dry(dry);
        Kvfree { shared, worker: Lock::new(worker) }
    }

    /// The source of grace periods.
    pub fn grace_periods(&self) -> &G {
        &self.shared.gp
    }

    /// Frees an object of the slab allocator after a grace period, dropping its value first. May be called inside a section,
    /// from any thread; never waits for a grace period, unless every block there can be is in use (4 GiB of them).
    ///
    /// # Safety
    /// 1. `object` is an object of `quietus-slab` holding a live `T`; no section that begins from now on can reach it, only
    ///    sections of this source may still reach it, and they only read; nobody retires or frees it again.
    /// 2. What `T` borrows lives until it is dropped: until a barrier, or the drop of this `Kvfree` outside sections of its source.
    ///    (Dropped inside one, a destructor that has begun goes on.)
    #[inline(always)]
    pub unsafe fn retire<T: Send>(&self, object: NonNull<T>) {
        if std::mem::needs_drop::<T>() {
            // SAFETY: (1) makes the call valid once; `drop_slab` expects what (1) says.
            unsafe { self.call(object.cast(), drop_slab::<T>, size_of::<T>()) }
        } else {
            // SAFETY: by (1); no destructor is due.
            unsafe { self.retire_ptr(object.cast()) }
        }
    }

    /// [`retire`](Self::retire) for an object of a known cache: spares the look at the object's slab, about a third of the time.
    ///
    /// # Safety
    /// 1. As [`retire`](Self::retire).
    /// 2. `object` was allocated from `cache`.
    #[inline(always)]
    pub unsafe fn retire_in<T: Send>(&self, cache: &Cache<T>, object: NonNull<T>) {
        if std::mem::needs_drop::<T>() {
            // SAFETY: by (1).
            unsafe { self.retire(object) }
        } else {
            let (lane, weight) = cache.lane_and_weight();
            // SAFETY: a typed cache's lane is its id; by (1) and (2) the object is one of that lane.
            unsafe { self.shared.collect(lane, object.as_ptr().cast(), weight) }
        }
    }

    /// Frees memory of the slab allocator after a grace period (`kvfree_rcu` of a bare pointer). No destructor runs.
    ///
    /// # Safety
    /// 1. As [`retire`](Self::retire), without the value.
    #[inline(always)]
    pub unsafe fn retire_ptr(&self, object: NonNull<u8>) {
        let pointer = object.as_ptr();
        // SAFETY: by (1) it is an object of the allocator.
        let slab = unsafe { raw::slab(pointer) };
        // SAFETY: a slab's lane is its cache's id, or 0.
        unsafe { self.shared.collect(slab.lane(), pointer, slab.weight()) };
    }

    /// Drops a `Box` after a grace period.
    ///
    /// # Safety
    /// 1. `object` came from `Box::into_raw`; otherwise as [`retire`](Self::retire).
    pub unsafe fn retire_box<T: Send>(&self, object: NonNull<T>) {
        // SAFETY: by (1), as in `retire`.
        unsafe { self.call(object.cast(), drop_box::<T>, size_of::<T>()) }
    }

    /// Calls `function(pointer)` once, after a grace period, on a worker's, ticker's or barrier's thread. `bytes` count against
    /// the budget.
    ///
    /// # Safety
    /// 1. The call is valid once, from any thread, at any time after a grace period that begins now, up to a barrier, or the drop of
    ///    this `Kvfree` outside sections of its source.
    #[inline]
    pub unsafe fn call(&self, pointer: NonNull<u8>, function: unsafe fn(*mut u8), bytes: usize) {
        let function: Function = function;
        let weight = bytes.div_ceil(WEIGHT_UNIT).min(1 << 22) as u32;
        if reclaim::in_any_call() {
            self.shared.counters.chained.add(1); // a barrier that covers the caller covers this, too
        }
        self.shared.collect_call(pointer.as_ptr(), function as *mut u8, weight);
    }

    /// Runs a closure after a grace period (`call_rcu`). Allocates a `Box` for it.
    pub fn defer<F: FnOnce() + Send + 'static>(&self, f: F) {
        unsafe fn run<F: FnOnce()>(p: *mut u8) {
            // SAFETY: `p` is the Box made below, and each pair is called once.
            unsafe { Box::from_raw(p.cast::<F>())() }
        }
        let p = NonNull::from(Box::leak(Box::new(f)));
        // SAFETY: F is Send and 'static: it may run anywhere, any time.
        unsafe { self.call(p.cast(), run::<F>, size_of::<F>()) }
    }

    /// Frees everything retired before the call (and what its destructors retire). Waits for grace periods; deferred functions
    /// may run on this thread.
    ///
    /// # Panics
    /// Inside a read-side section, or inside a deferred function or destructor: it would wait for itself.
    pub fn barrier(&self) {
        self.shared.barrier();
    }

    /// Closes every open block, so that nothing waits for its age, and starts a grace period. Does not wait for it.
    pub fn flush(&self) {
        self.shared.drain(u64::MAX);
        let oldest = self.shared.queue.lock().oldest();
        if let Some(oldest) = oldest {
            self.shared.gp.advance(oldest);
        }
        self.shared.wake();
    }

    /// One round of the worker's duties on this thread: closes blocks, pushes the grace period, frees what has elapsed (calling
    /// deferred functions), refills the reserve. Does not wait for readers. Returns whether something is still pending.
    pub fn tick(&self) -> bool {
        self.shared.drain(u64::MAX);
        let waiting = self.shared.pass(None);
        waiting || self.shared.any_open()
    }

    /// What is pending, and what has happened. What open blocks hold is a racy look: blocks on their way to the queue may be
    /// missed, so that "nothing pending" is certain only after a barrier that nobody has retired beside.
    pub fn stats(&self) -> Stats {
        let s = &self.shared;
        let c = &s.counters;
        let open = s.open_size();
        Stats {
            pending_objects: c.waiting_objects.get() + c.stray_objects.get() + open.objects,
            pending_bytes: c.waiting_bytes.get() + c.stray_bytes.get() + open.bytes,
            peak_pending_bytes: c.peak_bytes.get(),
            queued_objects: c.queued_objects.get(),
            reclaimed_objects: c.reclaimed_objects.get(),
            reclaimed_bytes: c.reclaimed_bytes.get(),
            batches: c.batches.get(),
            drains: c.drains.get(),
            strays: c.strays.get(),
            leaked: c.leaked.get(),
            inline_waits: c.inline_waits.get(),
            helped: c.helped.get(),
            yields: c.yields.get(),
            calls_run: c.calls_run.get(),
            panics: c.panics.get(),
            worker_wakes: c.wakes.get(),
            reserve_blocks: s.reserve.blocks(),
            // Relaxed: a statistic.
            from_supply: s.reserve.supply.load(Relaxed),
            from_neighbour: s.reserve.neighbour.load(Relaxed),
            from_fresh: s.reserve.fresh.load(Relaxed),
            refills: s.reserve.refills.load(Relaxed),
        }
    }
}

unsafe fn drop_slab<T>(p: *mut u8) {
    // SAFETY: the contract of `Kvfree::retire`: a live T in slab memory, whose last user is gone.
    drop(unsafe { quietus_slab::SlabBox::from_raw(NonNull::new_unchecked(p.cast::<T>())) });
}

unsafe fn drop_box<T>(p: *mut u8) {
    // SAFETY: the contract of `Kvfree::retire_box`.
    drop(unsafe { Box::from_raw(p.cast::<T>()) });
}

impl<G: GracePeriods> Drop for Kvfree<G> {
    /// Barriers until nothing is pending, then the worker's end. Inside a section of the source, or one of our own deferred
    /// functions, where a barrier is impossible, what is pending is leaked, and no further deferred function runs.
    fn drop(&mut self) {
        let can_wait = self.shared.gp.inside() != Some(true) && !self.shared.in_call();
        if can_wait {
            self.shared.barrier();
            // Only destructors can retire now: more generations than one barrier goes through.
            while self.shared.counters.waiting_objects.get() > 0 || self.shared.any_open() {
                self.shared.barrier();
            }
        } else {
            // Relaxed: see `reclaim_up_to`.
            self.shared.abandoned.store(true, Relaxed);
        }
        if let Some(handle) = self.worker.lock().take() {
            worker::stop(&self.shared, handle, can_wait);
        }
        self.shared.reserve.empty();
        if can_wait && self.shared.drain(u64::MAX) && !self.shared.any_open() {
            // SAFETY: nothing is open after the drain, and the handle is the last user.
            unsafe { self.shared.lanes.release() };
        }
    }
}
