//! Stage 4, reclaim: a batch whose grace period is over is freed — whole blocks to their barn, mixed ones by cache, calls called.
//!
//! Handed to by [`collect`](crate::collect) (a retirer's share), [`worker`](crate::worker), [`barrier`](crate::barrier) and the
//! allocator's hook; hands to the slab crate (`recycle`, `free_bulk`) and the [`reserve`](crate::reserve).
//!
//! # Ordering
//! Pair **G**: `poll` true happens after the sections. It is asked twice: once to take the batch, once before anything is freed;
//! if the second answer is no, the batch is leaked and reported, never freed.

use crate::collect::Item;
use crate::grace::{Cookie, GracePeriods};
use crate::lane::{CALL, Kind};
use crate::queue::{Batch, Size, measure};
use crate::shared::Shared;
use quietus_slab::raw::BlockNo;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// A deferred function is running on this thread for the `Shared` at this address; older ones below.
struct Frame {
    owner: *const (),
    below: *const Frame,
}

thread_local! {
    /// The newest frame, which lives on this thread's stack.
    static CALLS: Cell<*const Frame> = const { Cell::new(std::ptr::null()) };
}

/// Is this thread inside a deferred function or destructor, of whatever `Shared`?
#[inline(always)]
pub(crate) fn in_any_call() -> bool {
    !CALLS.get().is_null()
}

/// Batches a helper reclaims at most at one go: bounds what a single retire or allocation may cost (a batch is one block, or the
/// few that had piled up on a CPU).
const HELP_BATCHES: u32 = 16;
/// A mixed batch costs about as much as so many whole-block ones.
const MIXED_COST: u32 = 8;

/// A deferred function: what the second word of a pair is.
pub(crate) type Function = unsafe fn(*mut u8);

fn newest() -> *const Frame {
    CALLS.try_with(Cell::get).unwrap_or(std::ptr::null())
}

impl<G: GracePeriods> Shared<G> {
    /// Is this thread inside one of our deferred functions or destructors? Waiting there would be waiting for itself.
    pub(crate) fn in_call(&self) -> bool {
        let mut at = newest();
        // SAFETY: frames on the list are below us on this thread's stack.
        while let Some(frame) = unsafe { at.as_ref() } {
            if frame.owner == std::ptr::from_ref(self).cast() {
                return true;
            }
            at = frame.below;
        }
        false
    }

    /// A bounded number of elapsed batches without user code, oldest first. Returns the cookie of the oldest of these that is left,
    /// whether elapsed or not; `None`: none is left, or somebody else has the queue.
    pub(crate) fn reclaim_some(&self) -> Option<Cookie> {
        let mut budget = HELP_BATCHES;
        loop {
            let mut queue = self.queue.try_lock()?;
            let Some(batch) = (budget > 0).then(|| queue.take(&self.running, false, |c| self.gp.poll(c))).flatten()
            else {
                return queue.oldest_plain();
            };
            drop(queue);
            budget = budget.saturating_sub(if Kind::of(batch.first) == Kind::Same { 1 } else { MIXED_COST });
            self.counters.helped.add(1);
            self.reclaim(batch);
        }
    }

    /// Every elapsed batch up to the one that is the youngest now, calls included: others may go on queueing faster than this
    /// thread reclaims. Stops between two batches once `until` has passed.
    pub(crate) fn reclaim_all(&self, until: Option<Instant>) {
        let last = self.queue.lock().last();
        self.reclaim_up_to(last, until);
    }

    /// Elapsed batches, calls included, until those up to `number` are off the queue and finished, or nothing that is left has
    /// elapsed, or `until` has passed. Returns whether they are.
    pub(crate) fn reclaim_up_to(&self, number: u64, until: Option<Instant>) -> bool {
        loop {
            // Relaxed: whoever abandons is inside a call on this thread; or is inside a section, and then a call that has begun may
            // end later (`retire`, contract 2).
            if self.abandoned.load(Relaxed) || until.is_some_and(|end| Instant::now() >= end) {
                return false;
            }
            let mut queue = self.queue.lock();
            if queue.done(&self.running, number) {
                return true;
            }
            let Some(batch) = queue.take(&self.running, true, |c| self.gp.poll(c)) else { return false };
            drop(queue);
            self.reclaim(batch);
        }
    }

    /// The allocating slow path found a barn empty: hand back what has elapsed, push the grace period if enough waits for it.
    pub(crate) fn help_dry(&self) -> bool {
        let before = self.counters.helped.get();
        if let Some(oldest) = self.reclaim_some() {
            let enough = self.counters.waiting_bytes.get() >= self.batch_bytes() / 2;
            if self.counters.helped.get() == before && enough && self.gp.advance(oldest) {
                self.reclaim_some();
            }
        }
        self.counters.helped.get() != before
    }

    fn reclaim(&self, batch: Batch) {
        /// Counts the batch as done, whatever happens to it.
        struct Done<'s, G: GracePeriods>(&'s Shared<G>, Batch, Size);
        impl<G: GracePeriods> Drop for Done<'_, G> {
            fn drop(&mut self) {
                self.0.counters.waiting_objects.sub(self.2.objects);
                self.0.counters.waiting_bytes.sub(self.2.bytes);
                self.0.running.finished(&self.1);
            }
        }
        let size = measure(batch.first);
        let done = Done(self, batch, size);
        let batch = &done.1;
        if self.gp.poll(batch.cookie) {
            let mut b = batch.first;
            while b.is_some() {
                let next = b.block().next();
                self.free_block(b);
                b = next;
            }
            self.counters.reclaimed_objects.add(size.objects);
            self.counters.reclaimed_bytes.add(size.bytes);
        } else {
            self.counters.leaked.add(size.objects);
            eprintln!(
                "quietus: grace period {} of {} retired objects was taken back after it had ended; leaking them",
                batch.cookie.0, size.objects
            );
        }
    }

    /// Frees what a block holds, now.
    fn free_block(&self, b: BlockNo) {
        match Kind::of(b) {
            // SAFETY: the block is ours, its objects are of one cache, and their grace period is over.
            Kind::Same => unsafe { quietus_slab::raw::recycle(b) },
            Kind::Mixed => {
                // SAFETY: the objects' grace period is over; retire's contract says that each is there once. The block is ours
                // until it goes back.
                unsafe { quietus_slab::free_bulk(b.block().retired()) };
                self.reserve.put(b);
            }
            Kind::Call => {
                // SAFETY: the block is ours until it goes back to the reserve.
                for pair in unsafe { b.block().retired() }.chunks_exact(2) {
                    // Relaxed: set by the call before, on this thread, or never seen.
                    if self.abandoned.load(Relaxed) {
                        self.counters.leaked.add(1); // the handle is gone: so may be what the rest borrows
                    } else {
                        self.call(pair[0], pair[1]);
                    }
                }
                self.reserve.put(b);
            }
        }
    }

    /// Frees one item, now: its grace period is over.
    pub(crate) fn free_item(&self, item: Item) {
        if item.lane == CALL {
            self.call(item.pointer, item.function);
        } else {
            // SAFETY: the object's grace period is over.
            unsafe { quietus_slab::free_bulk(&[item.pointer]) };
        }
    }

    /// Calls one deferred function. A panic is counted (the panic hook has reported it) and stops nothing.
    fn call(&self, pointer: *mut u8, function: *mut u8) {
        // SAFETY: pairs are made by `Kvfree::call` from a `Function`; both have the size of a pointer.
        let function = unsafe { std::mem::transmute::<*mut u8, Function>(function) };
        let frame = Frame { owner: std::ptr::from_ref(self).cast(), below: newest() };
        let _ = CALLS.try_with(|calls| calls.set(&raw const frame));
        // SAFETY: the contract of `Kvfree::call`: the function may be called once on the pointer, after a grace period.
        let result = catch_unwind(AssertUnwindSafe(|| unsafe { function(pointer) }));
        let _ = CALLS.try_with(|calls| calls.set(frame.below));
        // Release: pairs with the snapshots of a barrier: what the call has retired.
        self.counters.calls_run.add_release(1);
        if let Err(payload) = result {
            self.counters.panics.add(1);
            // A payload's own destructor may panic, too; what that leaves is given up.
            if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                std::mem::forget(again);
            }
        }
    }
}
