//! Stage 4, reclaim: a batch whose grace period is over is freed — whole blocks to their barn, mixed ones by cache, calls called.
//!
//! Handed to by [`collect`](crate::collect) (a retirer's share), [`worker`](crate::worker), [`barrier`](crate::barrier) and the
//! allocator's hook; hands to the slab crate (`recycle`, `free_bulk`) and the [`reserve`](crate::reserve).
//!
//! # Ordering
//! Pair **G**: `poll` true happens after the sections. It is asked twice: once to take the batch, once before anything is freed;
//! if the second answer is no, the batch is leaked and reported, never freed.

use crate::check;
use crate::grace::{Cookie, GracePeriods};
use crate::lane::Kind;
use crate::queue::{Batch, Queue, Want, measure};
use crate::shared::Shared;
use crate::stats::Size;
use crate::sync::{self, Instant};
use crate::worker;
use quietus_slab::raw::{self, BlockNo};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A deferred function is running on this thread for the `Shared` at this address; older ones below.
struct Frame {
    owner: *const (),
    below: *const Frame,
}

sync::thread_local! {
    /// The newest frame, which lives on this thread's stack.
    static CALLS: Cell<*const Frame> = const { Cell::new(std::ptr::null()) };
}

/// Is this thread inside a deferred function or destructor, of whatever `Shared`?
#[inline(always)]
pub(crate) fn in_any_call() -> bool {
    !CALLS.with(Cell::get).is_null()
}

/// Batches a helper reclaims at most at one go: bounds what a single retire or allocation may cost (a batch is one block, or the
/// few that had piled up on a CPU).
const HELP_BATCHES: u32 = 16;
/// So many objects before a destructor is run on one it is fetched into the cache.
const AHEAD: usize = 6;
/// A mixed batch costs about as much as so many whole-block ones.
const MIXED_COST: u32 = 8;

/// What a helper has found in the queue: a batch that it has taken, and the cookie of the oldest one that is left, wanted or not.
pub(crate) type Share = (Option<Batch>, Option<Cookie>);

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

    /// A bounded number of elapsed batches that are wanted, oldest first. Returns the cookie of the oldest batch that is
    /// left, wanted or not, elapsed or not; `None`: none is left, or somebody else has the queue.
    pub(crate) fn reclaim_some(&self, want: Want) -> Option<Cookie> {
        let mut queue = self.queue.try_lock()?;
        let share = self.share(&mut queue, want);
        drop(queue);
        self.reclaim_share(share, want)
    }

    /// Takes the first of these batches, for a helper that has the queue and lets it go now.
    #[inline]
    pub(crate) fn share(&self, queue: &mut Queue, want: Want) -> Share {
        let batch = queue.take(&self.running, want, |c| self.gp.poll(c));
        self.counters.helped.add_queued(u64::from(batch.is_some()));
        (batch, queue.oldest())
    }

    /// [`reclaim_some`](Self::reclaim_some), the first look at the queue done. Looks again only while something that has elapsed is left.
    #[inline]
    pub(crate) fn reclaim_share(&self, (mut batch, mut oldest): Share, want: Want) -> Option<Cookie> {
        let mut budget = HELP_BATCHES;
        while let Some(taken) = batch {
            budget = budget.saturating_sub(if Kind::of(taken.first) == Kind::Same { 1 } else { MIXED_COST });
            self.reclaim(taken);
            if budget == 0 || !oldest.is_some_and(|cookie| self.gp.poll(cookie)) {
                break;
            }
            (batch, oldest) = self.share(&mut *self.queue.try_lock()?, want);
        }
        oldest
    }

    /// Every elapsed batch up to the one that is the youngest now, calls included: others may go on queueing faster than this
    /// thread reclaims. Stops between two batches once `until` has passed.
    pub(crate) fn reclaim_all(&self, until: Option<Instant>) {
        let last = self.lock_queue().last();
        self.reclaim_up_to(Want::All, last, until);
    }

    /// Elapsed batches that are wanted, until those up to `number` are off the queue and finished, or nothing that is left of them has
    /// elapsed, or `until` has passed. Returns whether they are.
    pub(crate) fn reclaim_up_to(&self, want: Want, number: u64, until: Option<Instant>) -> bool {
        loop {
            if self.is_abandoned() || until.is_some_and(|end| Instant::now() >= end) {
                return false;
            }
            let mut queue = self.lock_queue();
            if queue.done(&self.running, want, number) {
                return true;
            }
            let Some(batch) = queue.take(&self.running, want, |c| self.gp.poll(c)) else { return false };
            if batch.calls {
                self.share_out(queue);
            } else {
                drop(queue);
            }
            self.reclaim(batch);
        }
    }

    /// The allocating slow path found a barn empty: hand back what has elapsed, push the grace period if enough waits for it.
    pub(crate) fn help_dry(&self) -> bool {
        let before = self.counters.helped.get();
        if let Some(oldest) = self.reclaim_some(Want::Plain) {
            let enough = self.counters.waiting_bytes() >= self.batch_bytes() / 2;
            if self.counters.helped.get() == before && enough && self.gp.advance(oldest) {
                self.reclaim_some(Want::Plain);
            }
        }
        self.counters.helped.get() != before
    }

    fn reclaim(&self, batch: Batch) {
        /// Counts the batch as done, whatever happens to it.
        struct Done<'s, G: GracePeriods> {
            shared: &'s Shared<G>,
            batch: Batch,
            size: Size,
            freed: bool,
        }
        impl<G: GracePeriods> Drop for Done<'_, G> {
            fn drop(&mut self) {
                let Done { shared, batch, size, freed } = self;
                if !*freed {
                    shared.counters.forsaken(*size);
                }
                shared.counters.finished(*size);
                shared.running.finished(batch);
            }
        }
        let size = measure(batch.first);
        let (first, cookie, calls) = (batch.first, batch.cookie, batch.calls);
        let mut done = Done { shared: self, batch, size, freed: false };
        let _calling = calls.then(|| {
            worker::count_call();
            self.calling()
        });
        if self.gp.poll(cookie) {
            let mut b = first;
            while b.is_some() {
                let next = b.block().next();
                self.free_block(b);
                b = next;
            }
            done.freed = true;
        } else {
            self.report_taken_back(cookie, size.objects);
        }
    }

    /// Says what the second look at a grace period has found.
    pub(crate) fn report_taken_back(&self, cookie: Cookie, objects: u64) {
        eprintln!(
            "quietus: grace period {} of {objects} retired objects was taken back after it had ended; leaking them",
            cookie.0
        );
    }

    /// Frees what a block holds, now.
    fn free_block(&self, b: BlockNo) {
        if b.block().filled() == 0 {
            return self.reserve.put(b);
        }
        let kind = Kind::of(b);
        if kind != Kind::Call && check::is_active() {
            // SAFETY: the block is ours.
            unsafe { b.block().retired() }.iter().for_each(|&p| check::freed(p));
        }
        match kind {
            Kind::Same if !self.drop_values(b) => {}
            // SAFETY: the block is ours, its objects are of one cache, their values are gone, and their grace period is over.
            Kind::Same => unsafe { raw::recycle(b) },
            Kind::Mixed | Kind::Large => {
                // SAFETY: the objects' grace period is over; retire's contract says that each is there once. The block is ours
                // until it goes back.
                unsafe { quietus_slab::free_bulk(b.block().retired()) };
                self.reserve.put(b);
            }
            Kind::Call => {
                // SAFETY: the block is ours until it goes back to the reserve.
                let words = unsafe { b.block().retired() };
                let pairs = words.len() / 2;
                let done = self.run_each(pairs, |i| {
                    if let Some(&soon) = words.get(2 * (i + AHEAD)) {
                        raw::prefetch(soon);
                    }
                    // SAFETY: pairs are made from a `Function`; both have the size of a pointer.
                    let function = unsafe { std::mem::transmute::<*mut u8, Function>(words[2 * i + 1]) };
                    // SAFETY: the contract of `Kvfree::call`: it may be called once on the pointer, after a grace period.
                    unsafe { function(words[2 * i]) }
                });
                self.note_unrun((pairs - done) as u64);
                self.reserve.put(b);
            }
        }
    }

    /// One pass over a block of one cache that drops its objects' values, if their type asks for it. False: a destructor has ended
    /// the handle; what is left is leaked.
    fn drop_values(&self, b: BlockNo) -> bool {
        // SAFETY: the block is ours, and holds something.
        let objects = unsafe { b.block().retired() };
        // SAFETY: it is an object of the allocator that is not free.
        let dropper = unsafe { raw::slab(objects[0]) }.dropper();
        if dropper.is_null() {
            return true;
        }
        // SAFETY: a slab's dropper is a `drop_value`; both have the size of a pointer.
        let drop = unsafe { std::mem::transmute::<*mut (), Function>(dropper) };
        // SAFETY: the lane of a cache with a dropper takes objects of its type that are to be dropped, each once.
        let done = self.run_each(objects.len(), |i| unsafe { drop(objects[i]) });
        self.note_unrun((objects.len() - done) as u64);
        done == objects.len()
    }

    /// So many of a block's values were given up.
    fn note_unrun(&self, n: u64) {
        if n > 0 {
            self.counters.leaked.add(n);
        }
    }

    /// Runs one deferred function or destructor, as [`run_each`](Self::run_each) does. False: it was not run.
    pub(crate) fn run(&self, f: impl FnOnce()) -> bool {
        let mut f = Some(f);
        self.run_each(1, |_| f.take().into_iter().for_each(|f| f())) == 1
    }

    /// Runs `n` deferred functions or destructors. A panic is counted (the panic hook has reported it) and stops nothing but the one. Returns
    /// how many were run: fewer if one of them has ended the handle, and with it maybe what the rest borrows.
    fn run_each(&self, n: usize, mut f: impl FnMut(usize)) -> usize {
        let frame = Frame { owner: std::ptr::from_ref(self).cast(), below: newest() };
        let mut next = 0;
        while next < n && !self.is_abandoned() {
            let _ = CALLS.try_with(|calls| calls.set(&raw const frame));
            let result = catch_unwind(AssertUnwindSafe(|| {
                while next < n && !self.is_abandoned() {
                    next += 1;
                    f(next - 1);
                }
            }));
            if let Err(payload) = result {
                self.counters.panics.add(1);
                // A payload's own destructor may panic, too; what that leaves is given up.
                if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                    std::mem::forget(again);
                }
            }
            // After the payload: its destructor is user code like any other.
            let _ = CALLS.try_with(|calls| calls.set(frame.below));
        }
        // Release: pairs with the snapshots of a barrier, which has waited for the batch: what the calls have retired.
        self.counters.calls_run.add_release(next as u64);
        next
    }
}
