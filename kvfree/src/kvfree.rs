//! [`Kvfree`]: the handle, and the doors for retiring.
//!
//! Handed to by users and by `quietus`; hands to [`collect`](crate::collect).

use crate::check::{self, What};
use crate::collect::{Found, Item};
use crate::constrained::Constrained;
use crate::grace::GracePeriods;
use crate::head::{self, Callback, Ends, Linked, RcuHead};
use crate::lane::CALL;
use crate::live;
use crate::pressure::Reclaimable;
use crate::reclaim::Function;
use crate::shared::{Config, Shared};
use crate::stats::{LaneStats, Stats};
use crate::throttle::MayNotWait;
use crate::worker;
use quietus_slab::Cache;
use quietus_slab::raw::{self, WEIGHT_UNIT};
use std::ptr::{NonNull, null_mut};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Deferred bulk free over one source of grace periods. Retiring costs a few nanoseconds and does not touch the object. Once for
/// every few hundred objects, when a block is full, it also does a bounded share of the reclaiming.
pub struct Kvfree<G: GracePeriods> {
    pub(crate) shared: Arc<Shared<G>>,
}

impl<G: GracePeriods> Kvfree<G> {
    /// A `Kvfree` over `gp`. Starts its worker thread, if it is to have one.
    ///
    /// # Panics
    /// When the thread cannot be started, or no per-CPU words are left (8,183, two for each `Kvfree` and one for each cache).
    pub fn new(gp: G, config: Config) -> Self {
        let shared = Arc::new(Shared::new(gp, config));
        if shared.config.workers {
            worker::start(&shared).expect("quietus: cannot start the worker");
        }
        let weak: Weak<Shared<G>> = Arc::downgrade(&shared);
        live::add(weak);
        Kvfree { shared }
    }

    /// Has it a worker ([`Config::workers`])?
    pub fn has_worker(&self) -> bool {
        self.shared.config.workers
    }

    /// The source of grace periods.
    pub fn grace_periods(&self) -> &G {
        &self.shared.gp
    }

    /// Frees an object of the slab allocator after a grace period, dropping its value first. May be called inside a section,
    /// from any thread. Never waits for a grace period, unless every block there can be is in use (4 GiB of them), the object is
    /// neither of a type without destructor nor of a typed cache, the system has no memory, and the thread is outside sections.
    ///
    /// # Safety
    /// 1. `object` is an object of `quietus-slab` holding a live `T`; no section that begins from now on can reach it, only
    ///    sections of this source may still reach it, and they only read; nobody retires or frees it again.
    /// 2. What `T` borrows lives until it is dropped: until a barrier, or the drop of this `Kvfree` outside sections of its source and
    ///    outside its own deferred functions. (Dropped inside one, a destructor that has begun elsewhere goes on.)
    #[inline(always)]
    pub unsafe fn retire<T: Send>(&self, object: NonNull<T>) {
        // SAFETY: (1) and (2) are what `by_address` asks for.
        unsafe { self.shared.retire(self.by_address(object)) }
    }

    /// [`retire`](Self::retire) of a pointer that may be null, which does nothing: `kvfree_rcu(ptr)`, the form with one argument.
    ///
    /// # Safety
    /// 1. `object` is null, or as for [`retire`](Self::retire).
    #[inline(always)]
    pub unsafe fn kvfree_rcu<T: Send>(&self, object: *mut T) {
        if let Some(object) = NonNull::new(object) {
            // SAFETY: by (1).
            unsafe { self.retire(object) }
        }
    }

    /// [`retire`](Self::retire) for an object of a known cache: spares the look at the object's slab, about a third of the time.
    ///
    /// # Safety
    /// 1. As [`retire`](Self::retire).
    /// 2. `object` was allocated from `cache`.
    #[inline(always)]
    pub unsafe fn retire_in<T: Send>(&self, cache: &Cache<T>, object: NonNull<T>) {
        // SAFETY: by (1) and (2).
        unsafe { self.shared.retire(in_cache(cache, object)) }
    }

    /// Frees memory of the slab allocator after a grace period. No destructor runs.
    ///
    /// # Safety
    /// 1. As [`retire`](Self::retire), without the value.
    #[inline(always)]
    pub unsafe fn retire_ptr(&self, object: NonNull<u8>) {
        // SAFETY: by (1).
        unsafe { self.shared.retire(plain(object)) }
    }

    /// [`retire`](Self::retire) of an object with an [`RcuHead`](crate::RcuHead): never waits, and cannot fail
    /// (`kvfree_rcu(ptr, rhf)`, the form with two arguments).
    ///
    /// # Safety
    /// 1. As [`retire`](Self::retire).
    #[inline(always)]
    pub unsafe fn retire_linked<T: Linked + Send>(&self, object: NonNull<T>) {
        // SAFETY: by (1) it is a live T.
        let head = unsafe { head::head_of(object) };
        // SAFETY: by (1).
        unsafe { self.shared.retire(Item { head: Some((head, Ends::<T>::SLAB)), ..self.by_address(object) }) }
    }

    /// Drops a `Box` after a grace period.
    ///
    /// # Safety
    /// 1. `object` came from `Box::into_raw`; otherwise as [`retire`](Self::retire).
    #[inline]
    pub unsafe fn retire_box<T: Send>(&self, object: NonNull<T>) {
        // SAFETY: CALL is a lane; by (1) the call is valid once.
        unsafe { self.shared.retire(boxed(object)) }
    }

    /// [`retire_box`](Self::retire_box) of an object with an [`RcuHead`](crate::RcuHead): never waits, and cannot fail.
    ///
    /// # Safety
    /// 1. As [`retire_box`](Self::retire_box).
    #[inline]
    pub unsafe fn retire_linked_box<T: Linked + Send>(&self, object: NonNull<T>) {
        // SAFETY: by (1) it is a live T.
        let head = unsafe { head::head_of(object) };
        // SAFETY: CALL is a lane; by (1) the call is valid once.
        unsafe { self.shared.retire(Item { head: Some((head, Ends::<T>::BOX)), ..boxed(object) }) }
    }

    /// What is retired by its address alone.
    ///
    /// # Safety
    /// 1. As [`retire`](Self::retire).
    #[inline(always)]
    pub(crate) unsafe fn by_address<T: Send>(&self, object: NonNull<T>) -> Item {
        // SAFETY: by (1) it is an object of the allocator.
        let item = unsafe { plain(object.cast()) };
        if !std::mem::needs_drop::<T>() {
            return item;
        }
        // SAFETY: as above.
        let slab = unsafe { raw::slab(item.pointer) };
        let function = drop_slab::<T> as Function as *mut u8;
        if slab.dropper() == raw::drop_value::<T> as Function as *mut () {
            return Item { lane: slab.typed(), function, ..item };
        }
        if slab.typed() != 0 {
            self.shared.note_called(slab.typed());
        }
        Item { lane: CALL, function, ..item }
    }

    /// Frees what `cache` has pending here (`kvfree_rcu_barrier_on_cache`). Waits for a grace period, if anything is pending. Does not
    /// wait for others' deferred functions, unless objects of the cache were retired as another type than the cache's, or something
    /// is queued without a block.
    ///
    /// # Panics
    /// As [`barrier`](Self::barrier).
    #[track_caller]
    pub fn barrier_on<T>(&self, cache: &Cache<T>) {
        self.shared.barrier_for(cache.lane_and_weight().0);
    }

    /// A view for signal handlers: see [`Constrained`].
    pub fn constrained(&self) -> Constrained<'_, G> {
        Constrained(self)
    }

    /// Queues an object by its head: `callback` is called once with it, after a grace period (`call_rcu`), on a worker's, ticker's or
    /// barrier's thread. Never allocates, waits or fails; costs an exchange on a list of this CPU, and above the budget gives way once.
    ///
    /// # Safety
    /// 1. As for [`call`](Self::call). The head is in no queue, and lives until the callback runs.
    #[inline]
    pub unsafe fn call_head(&self, head: NonNull<RcuHead>, callback: &'static Callback) {
        self.shared.counters.callbacks.add(1);
        self.shared.link(head, callback, false);
        self.shared.note_chained();
        self.shared.give_way();
    }

    /// Bytes pending, and bytes in reserve. A look, as [`stats`](Self::stats).
    pub fn reclaimable(&self) -> Reclaimable {
        self.shared.reclaimable()
    }

    /// Memory is short: closes every open block, pushes the grace period, frees what has elapsed and runs no user code, empties the
    /// reserves, and keeps refills small for [`Config::backoff`]. Does not wait for readers. Returns what was given back here; the
    /// worker goes on with the rest.
    pub fn relieve(&self) -> Reclaimable {
        self.shared.relieve()
    }

    /// Calls `function(pointer)` once, after a grace period, on a worker's, ticker's or barrier's thread. `bytes` count against
    /// the budget.
    ///
    /// # Safety
    /// 1. The call is valid once, from any thread, at any time after a grace period that begins now, up to a barrier, or the drop of
    ///    this `Kvfree` outside sections of its source and outside its own deferred functions.
    #[inline]
    pub unsafe fn call(&self, pointer: NonNull<u8>, function: unsafe fn(*mut u8), bytes: usize) {
        // SAFETY: CALL is a lane; by (1).
        unsafe { self.shared.retire(call(pointer.as_ptr(), function, bytes, What::Call)) }
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
    #[track_caller]
    pub fn barrier(&self) {
        self.shared.barrier();
    }

    /// Waits until no more than the budget is pending (what lies in open blocks not counted): for callers who may wait, between two
    /// pieces of work, without a lock in hand that a reader or a destructor takes. As long as a reader stalls it waits. Where there is
    /// no worker, deferred functions run on this thread.
    ///
    /// # Errors
    /// The thread must not wait: it is inside a section of whatever source, in a deferred function or destructor, a worker, or in a
    /// signal handler that interrupted the allocator. Nothing was waited for.
    pub fn throttle(&self) -> Result<(), MayNotWait> {
        self.shared.throttle()
    }

    /// Closes every open block, so that nothing waits for its age, and starts a grace period. Does not wait for it.
    pub fn flush(&self) {
        self.shared.drain(u64::MAX);
        let oldest = self.shared.lock_queue().oldest();
        if let Some(oldest) = oldest {
            self.shared.gp.advance(oldest);
        }
        self.shared.wake();
    }

    /// Has the worker, if there is one, call [`GracePeriods::attend`] at once, and again until it answers false.
    pub fn attend(&self) {
        self.shared.attend();
    }

    /// One round of the worker's duties on this thread: closes blocks, pushes the grace period, frees what has elapsed (calling
    /// deferred functions), refills the reserve. Does not wait for readers. Returns whether something is still pending.
    pub fn tick(&self) -> bool {
        self.shared.drain(u64::MAX);
        self.shared.heed_pressure();
        let waiting = self.shared.pass(None);
        waiting || self.shared.any_open()
    }

    /// What is pending in each lane that has something. A walk over every block queued, under the queue's lock: for reports.
    pub fn lanes(&self) -> Vec<LaneStats> {
        self.shared.lane_stats()
    }

    /// What is pending, and what has happened. What open blocks hold is a racy look: blocks on their way to the queue may be
    /// missed, so that "nothing pending" is certain only after a barrier that nobody has retired beside.
    pub fn stats(&self) -> Stats {
        let s = &self.shared;
        let c = &s.counters;
        let (open, reclaimed) = (s.open_size(), c.reclaimed());
        Stats {
            pending_objects: c.waiting_objects() + c.overflow_objects.get() + c.stray_objects.get() + open.objects,
            pending_bytes: s.queued_bytes() + c.stray_bytes.get() + open.bytes,
            oldest: s.queue.try_lock().and_then(|queue| queue.oldest_age()),
            peak_pending_bytes: c.peak_bytes.get(),
            queued_objects: c.queued_objects.get(),
            reclaimed_objects: reclaimed.objects,
            reclaimed_bytes: reclaimed.bytes,
            batches: c.batches.get(),
            drains: c.drains.get(),
            strays: c.strays.get(),
            deferred: c.deferred.get(),
            linked: c.linked.get(),
            links: c.links.get(),
            callbacks: c.callbacks.get(),
            retired_twice: c.twice.get(),
            leaked: c.leaked.get(),
            inline_waits: c.inline_waits.get(),
            helped: c.helped.get(),
            yields: c.yields.get(),
            waits: c.waits.get(),
            over_budget_readers: c.over_readers.get(),
            over_budget_inside: c.over_inside.get(),
            over_budget_worker: c.over_worker.get(),
            calls_run: c.calls_run.get(),
            panics: c.panics.get(),
            worker_wakes: c.wakes.get(),
            workers: s.workers(),
            further_workers: c.further_workers.get(),
            pressure_looks: c.pressure_looks.get(),
            pressure_reliefs: c.pressure_reliefs.get(),
            pressure_errors: c.pressure_errors.get(),
            reserve_blocks: s.reserve.blocks(),
            reserve_depth: s.reserve.depth(),
            backing_off: s.reserve.backs_off(),
            from_supply: s.reserve.supply.get(),
            from_neighbour: s.reserve.neighbour.get(),
            from_fresh: s.reserve.fresh.get(),
            refills: s.reserve.refills.get(),
            windows: s.reserve.windows.count.get(),
            windows_total: Duration::from_nanos(s.reserve.windows.nanoseconds.get()),
            window_longest: Duration::from_nanos(s.reserve.windows.longest.get()),
        }
    }
}

/// Plain memory of the allocator.
///
/// # Safety
/// 1. `object` is an object of the slab allocator.
#[inline(always)]
pub(crate) unsafe fn plain(object: NonNull<u8>) -> Item {
    let pointer = object.as_ptr();
    // SAFETY: by (1).
    let slab = unsafe { raw::slab(pointer) };
    Item {
        lane: slab.lane(),
        weight: slab.weight(),
        pointer,
        function: null_mut(),
        head: None,
        what: What::Slab,
        found: Found::Slab,
        constrained: false,
    }
}

/// An object of a known cache, whose type says whether it has to be dropped.
#[inline(always)]
pub(crate) fn in_cache<T: Send>(cache: &Cache<T>, object: NonNull<T>) -> Item {
    let (lane, weight) = cache.lane_and_weight();
    let drop = if std::mem::needs_drop::<T>() { drop_slab::<T> as Function as *mut u8 } else { null_mut() };
    let pointer = object.as_ptr().cast();
    Item {
        lane,
        weight,
        pointer,
        function: drop,
        head: None,
        what: What::Slab,
        found: Found::Known,
        constrained: false,
    }
}

#[inline(always)]
fn boxed<T: Send>(object: NonNull<T>) -> Item {
    // Boxes without size share an address.
    let what = if size_of::<T>() == 0 { What::Call } else { What::Box };
    call(object.as_ptr().cast(), drop_box::<T>, size_of::<T>(), what)
}

#[inline(always)]
fn call(pointer: *mut u8, function: Function, bytes: usize, what: What) -> Item {
    let weight = bytes.div_ceil(WEIGHT_UNIT).min(1 << 22) as u32;
    Item {
        lane: CALL,
        weight,
        pointer,
        function: function as *mut u8,
        head: None,
        what,
        found: Found::Known,
        constrained: false,
    }
}

pub(crate) unsafe fn drop_slab<T>(p: *mut u8) {
    check::freed(p);
    // SAFETY: the contract of `Kvfree::retire`: a live T in slab memory, whose last user is gone.
    drop(unsafe { quietus_slab::SlabBox::from_raw(NonNull::new_unchecked(p.cast::<T>())) });
}

pub(crate) unsafe fn drop_box<T>(p: *mut u8) {
    check::freed_box(p);
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
            while !self.shared.nothing_left() {
                self.shared.barrier();
            }
        } else {
            self.shared.abandon();
        }
        // A hook or a waker may end it on its own worker, which goes when that has returned, and takes one more look at the lanes.
        let is_last = can_wait && !self.shared.is_worker();
        worker::stop(&self.shared, is_last);
        self.shared.reserve.empty();
        if is_last && self.shared.drain(u64::MAX) && !self.shared.any_open() {
            // SAFETY: nothing is open after the drain, and the handle is the last user.
            unsafe { self.shared.lanes.release() };
        }
    }
}
