//! Statistics. Counted block by block, never on the fast path.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::Duration;

/// A statistic: no ordering, no meaning beyond its value.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }
    /// [`add`](Self::add) to a count that changes only under the queue's lock, which the caller holds: no locked addition.
    pub(crate) fn add_queued(&self, n: u64) {
        self.0.store(self.0.load(Relaxed) + n, Relaxed);
    }
    /// Of the few counts that order something: see `barrier`, and [`Counters::waiting_objects`].
    pub(crate) fn add_release(&self, n: u64) {
        // Release: pairs with `get_acquire`.
        self.0.fetch_add(n, Release);
    }
    pub(crate) fn get_acquire(&self) -> u64 {
        // Acquire: pairs with `add_release`.
        self.0.load(Acquire)
    }
    pub(crate) fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Relaxed);
    }
    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
    pub(crate) fn max(&self, n: u64) {
        if n > self.get() {
            self.0.fetch_max(n, Relaxed);
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// What was ever queued. Under the queue's lock; so is `batches`, and `helped`.
    pub(crate) queued_objects: Count,
    pub(crate) queued_bytes: Count,
    /// Of these, what is dealt with, one way or another.
    pub(crate) finished_objects: Count,
    pub(crate) finished_bytes: Count,
    /// Of these, what was given up whole.
    pub(crate) forsaken_objects: Count,
    pub(crate) forsaken_bytes: Count,
    /// What was freed without ever having been in a block.
    pub(crate) swept_objects: Count,
    pub(crate) swept_bytes: Count,
    /// Objects without a block: bits and lists.
    pub(crate) overflow_objects: Count,
    pub(crate) overflow_bytes: Count,
    /// Strays that are not queued yet.
    pub(crate) stray_objects: Count,
    pub(crate) stray_bytes: Count,
    pub(crate) peak_bytes: Count,
    pub(crate) batches: Count,
    pub(crate) drains: Count,
    pub(crate) strays: Count,
    pub(crate) deferred: Count,
    pub(crate) linked: Count,
    pub(crate) links: Count,
    pub(crate) callbacks: Count,
    pub(crate) twice: Count,
    pub(crate) leaked: Count,
    /// Of these, those that an event has told of.
    pub(crate) leaks_told: Count,
    pub(crate) inline_waits: Count,
    pub(crate) helped: Count,
    pub(crate) yields: Count,
    pub(crate) waits: Count,
    pub(crate) over_readers: Count,
    pub(crate) over_inside: Count,
    pub(crate) over_worker: Count,
    pub(crate) calls_run: Count,
    /// Calls retired by calls.
    pub(crate) chained: Count,
    pub(crate) panics: Count,
    pub(crate) wakes: Count,
    pub(crate) further_workers: Count,
    pub(crate) pressure_looks: Count,
    pub(crate) pressure_reliefs: Count,
    pub(crate) pressure_errors: Count,
}

impl Counters {
    /// A chain is queued.
    pub(crate) fn queued(&self, size: Size) {
        self.batches.add_queued(1);
        self.queued_objects.add_queued(size.objects);
        self.queued_bytes.add_queued(size.bytes);
    }
    /// It is dealt with.
    pub(crate) fn finished(&self, size: Size) {
        self.finished_objects.add_release(size.objects);
        self.finished_bytes.add_release(size.bytes);
    }
    /// It was not freed, and will not be.
    pub(crate) fn forsaken(&self, size: Size) {
        self.forsaken_objects.add(size.objects);
        self.forsaken_bytes.add(size.bytes);
        self.leaked.add(size.objects);
    }
    /// Queued, and not dealt with yet. Never less than it is: what was finished is looked at first, and was queued before. (A child that forked in a
    /// page source or an account may have finished its batch twice.)
    pub(crate) fn waiting_objects(&self) -> u64 {
        let finished = self.finished_objects.get_acquire();
        self.queued_objects.get().saturating_sub(finished)
    }
    /// The bytes of that.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        let finished = self.finished_bytes.get_acquire();
        self.queued_bytes.get().saturating_sub(finished)
    }
    /// Freed, with a block or without.
    pub(crate) fn reclaimed(&self) -> Size {
        let less = |all: &Count, less: &Count| all.get().saturating_sub(less.get());
        Size {
            objects: less(&self.finished_objects, &self.forsaken_objects) + self.swept_objects.get(),
            bytes: less(&self.finished_bytes, &self.forsaken_bytes) + self.swept_bytes.get(),
        }
    }
}

/// Size of a chain.
#[derive(Default, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
}

/// What is pending, and what has happened.
#[derive(Debug, Default, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// Objects retired and not yet free: in open blocks, and queued for their grace period.
    pub pending_objects: u64,
    /// Their bytes (what the objects occupy themselves; at most 64 MiB counted for each).
    pub pending_bytes: u64,
    /// How long the oldest batch has been waiting for its grace period, or for the worker, at the most: right to a sixteenth and a tick of
    /// the system's coarse clock (10 ms at most) while nothing is freed. `None`: none is queued, or somebody is busy with the queue.
    pub oldest: Option<Duration>,
    /// Most bytes that were pending at any time a batch was queued, open blocks included.
    pub peak_pending_bytes: u64,
    /// Objects that have been queued for a grace period.
    pub queued_objects: u64,
    /// Objects that have been freed after theirs.
    pub reclaimed_objects: u64,
    /// Bytes that have been freed.
    pub reclaimed_bytes: u64,
    /// Batches queued (one cookie each).
    pub batches: u64,
    /// Times that CPUs' open blocks were taken back (by age, barrier or tick).
    pub drains: u64,
    /// Objects that found no open block and took a block of their own.
    pub strays: u64,
    /// Objects that found no block and were noted in the deferred bitmap.
    pub deferred: u64,
    /// Objects that found no block and were queued by the head they have.
    pub linked: u64,
    /// Objects that found no block and for which a head was allocated.
    pub links: u64,
    /// Objects queued by a callback of their own, as was asked for (`call_head`, unbatched mode).
    pub callbacks: u64,
    /// Second retires of an object, which debug mode has caught and ignored.
    pub retired_twice: u64,
    /// Objects given up because a second look said that their grace period was not over, or because no block and no way to wait
    /// was left.
    pub leaked: u64,
    /// Retires that waited for a grace period because no block was left.
    pub inline_waits: u64,
    /// Batches reclaimed by retiring or allocating threads.
    pub helped: u64,
    /// Times a retirer gave up the processor because more than the budget was pending.
    pub yields: u64,
    /// Times a retirer waited for room, as was asked for ([`OnOverflow::Wait`](crate::OnOverflow::Wait)).
    pub waits: u64,
    /// Blocks closed after which more than the budget was pending because readers held up the grace period. (Not
    /// counted while somebody else is busy with the queue; so for the next two.)
    pub over_budget_readers: u64,
    /// The same because their retirer was inside a section itself, and so could not wait.
    pub over_budget_inside: u64,
    /// The same because grace periods had ended, and destructors or the worker were behind.
    pub over_budget_worker: u64,
    /// Functions called (`defer`, destructors).
    pub calls_run: u64,
    /// Of these, how many panicked.
    pub panics: u64,
    /// Times the worker was woken.
    pub worker_wakes: u64,
    /// Workers there are now.
    pub workers: u32,
    /// Times that one more was started, because user code had piled up or kept those that were there.
    pub further_workers: u64,
    /// Times the system was asked whether memory is short ([`Pressure`](crate::Pressure)).
    pub pressure_looks: u64,
    /// Times that it was, and what could be was given back.
    pub pressure_reliefs: u64,
    /// Files that could not be read or understood when asking.
    pub pressure_errors: u64,
    /// Empty blocks in reserves.
    pub reserve_blocks: u32,
    /// Depth of the deepest reserve: it follows the demand.
    pub reserve_depth: u32,
    /// Refills are small, because memory was said to be short.
    pub backing_off: bool,
    /// Blocks that came from the page supply because the CPU's reserve was empty.
    pub from_supply: u64,
    /// Blocks that came from another CPU's reserve.
    pub from_neighbour: u64,
    /// Blocks that had never been used before (a page fault each).
    pub from_fresh: u64,
    /// Runs of the refill work.
    pub refills: u64,
    /// Times that a CPU found both its reserve and the supply empty, up to the end of the refill: the windows in which retirers
    /// had to go elsewhere.
    pub windows: u64,
    /// Length of all these windows together.
    pub windows_total: Duration,
    /// The longest of them.
    pub window_longest: Duration,
}

/// What is pending in one lane: [`Kvfree::lanes`](crate::Kvfree::lanes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LaneStats {
    /// What its blocks hold.
    pub lane: LaneName,
    /// Objects in open blocks, and queued.
    pub pending_objects: u64,
    /// Their bytes.
    pub pending_bytes: u64,
}

/// Where a retired pointer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum LaneName {
    /// Objects of small size classes together.
    Mixed,
    /// Objects of the cache with this id.
    Cache(u16),
    /// Objects with a mapping of their own.
    Large,
    /// Boxes, deferred functions, and values that their slab does not know how to drop.
    Calls,
}

impl Stats {
    /// Retires that found neither their CPU's reserve nor the page supply of any help: all the later steps of resort together.
    pub fn fallbacks(&self) -> u64 {
        self.from_neighbour
            + self.from_fresh
            + self.deferred
            + self.linked
            + self.links
            + self.inline_waits
            + self.leaked
    }
}
