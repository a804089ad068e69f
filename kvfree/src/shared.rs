//! What the handle, the worker and the allocator's hook share: lanes, reserve, queue, overflow, counters.
//!
//! Every later module is a verb on [`Shared`].

use crate::check;
use crate::crew::{self, Crew};
use crate::gauge::Pressure;
use crate::grace::GracePeriods;
use crate::lane::{LARGE, Lane, Lanes};
use crate::period::Period;
use crate::queue::{Queue, Running};
use crate::reserve::Reserve;
use crate::stats::Counters;
use crate::sweep::Overflow;
use crate::sync::{AtomicBool, AtomicU64, Held, Lock, Ordering::Relaxed};
use crate::throttle::OnOverflow;
use crate::worker::Worker;
use std::sync::{OnceLock, Weak};
use std::time::Duration;

/// Settings of a [`Kvfree`](crate::Kvfree).
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes that may wait for their grace period before retirers help and yield.
    pub budget: usize,
    /// What retirers do when more than that is pending.
    pub on_overflow: OnOverflow,
    /// How long one retire waits at most, with [`OnOverflow::Wait`].
    pub wait_limit: Duration,
    /// How long a retired object may lie in an open block, half-full, before the worker closes it.
    pub age: Duration,
    /// Empty blocks kept for each CPU (`rcu_min_cached_objs`); 0: none.
    pub reserve: u32,
    /// Most empty blocks kept for each CPU when the demand is high. (Not used if `reserve` is 0.)
    pub reserve_most: u32,
    /// How long refills are small after memory was said to be short ([`relieve`](crate::Kvfree::relieve)).
    pub backoff: Duration,
    /// Where workers and ticks look whether memory is short, and then do what [`relieve`](crate::Kvfree::relieve) does. `None`: they do
    /// not look.
    pub pressure: Option<Pressure>,
    /// Whether to have a worker thread. Without it the caller drives, by `tick`.
    pub workers: bool,
    /// Whether destructors and deferred functions run in calls on the handle only (`tick`, barriers, `throttle`, its drop, and retires if these help),
    /// so that what they borrow need not outlive a handle that is leaked. Then there is no worker, and whoever destroys a cache elsewhere leaves
    /// its objects here alone, which are freed later.
    pub confined: bool,
    /// Most workers there may be at a time (at most 16). More than one are there only while destructors or deferred functions pile up, or
    /// one of them takes long; deferred functions then run on several threads at a time, as they do with ticks and barriers.
    pub most_workers: usize,
    /// Whether retirers, too, run destructors and deferred functions whose grace period is over, when they close a block: faster by
    /// far where one thread retires, since what was allocated here is freed here. Not by default, because a retirer may hold a lock
    /// that a destructor takes.
    pub help_with_destructors: bool,
    /// Whether retired objects are collected in blocks. Without, each is queued by a callback of its own, allocated if the object has
    /// no head: for comparison, and to see in a debugger what becomes of one object.
    pub batching: bool,
    /// Debug mode: an object that is retired twice is reported, and freed once. Costs one atomic operation a retire and
    /// a free; switched on by default where debug assertions are.
    pub debug: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            budget: 4 << 20,
            on_overflow: OnOverflow::Help,
            wait_limit: Duration::from_secs(1),
            age: Duration::from_millis(50),
            reserve: 5,
            reserve_most: 64,
            backoff: Duration::from_secs(1),
            pressure: None,
            workers: true,
            confined: false,
            most_workers: crew::usual(),
            help_with_destructors: false,
            batching: true,
            debug: cfg!(debug_assertions),
        }
    }
}

pub(crate) struct Shared<G> {
    pub(crate) gp: G,
    pub(crate) config: Config,
    pub(crate) lanes: Lanes,
    pub(crate) reserve: Reserve,
    pub(crate) queue: Lock<Queue>,
    pub(crate) running: Running,
    /// Cookie of the batch that was queued last.
    pub(crate) youngest: AtomicU64,
    pub(crate) overflow: Overflow,
    pub(crate) counters: Counters,
    /// Blocks holding one pointer each, retired where no open block could be used.
    pub(crate) strays: quietus_slab::raw::Stack,
    /// Counts the worker's passes: the clock by which open blocks age.
    pub(crate) passes: AtomicU64,
    /// When the worker last counted a pass, and looked at the system's memory.
    pub(crate) aged: Period,
    pub(crate) looked: Period,
    /// The worker has been told that there is something (pair "bell" in `worker`).
    pub(crate) armed: AtomicBool,
    pub(crate) stopping: AtomicBool,
    abandoned: AtomicBool,
    called: Box<[AtomicBool]>,
    /// The workers' seats, and who is there beside the first.
    pub(crate) crew: Crew,
    /// The first worker, if it has been started and is not [`lost`](Self::lost).
    pub(crate) worker: Worker,
    /// The worker did not come along into a fork child.
    pub(crate) lost: AtomicBool,
    /// This value, for a worker that is started later.
    pub(crate) me: OnceLock<Weak<Shared<G>>>,
}

impl<G: GracePeriods> Shared<G> {
    pub(crate) fn new(gp: G, mut config: Config) -> Self {
        config.age = config.age.max(Duration::from_millis(1));
        config.workers &= !config.confined;
        if config.debug {
            check::activate();
        }
        Shared {
            gp,
            lanes: Lanes::new(!config.batching || config.debug && !cfg!(debug_assertions)),
            reserve: Reserve::new(config.reserve, config.reserve_most),
            crew: Crew::new(config.most_workers),
            config,
            queue: Lock::new(Queue::new()),
            running: Running::default(),
            youngest: AtomicU64::new(0),
            overflow: Overflow::new(),
            counters: Counters::default(),
            strays: quietus_slab::raw::Stack::new(),
            passes: AtomicU64::new(0),
            aged: Period::new(),
            looked: Period::new(),
            armed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            called: (0..usize::from(LARGE)).map(|_| AtomicBool::new(false)).collect(),
            worker: Worker::default(),
            lost: AtomicBool::new(false),
            me: OnceLock::new(),
        }
    }

    /// The queue. Waits for whoever has it, which is never for long: while a batch is taken or appended, or CPUs' blocks are detached.
    pub(crate) fn lock_queue(&self) -> Held<'_, Queue> {
        self.queue.lock()
    }

    /// Is the process about to fork? Then nothing is taken, and no sweep begins.
    pub(crate) fn is_still(&self) -> bool {
        self.lock_queue().still
    }

    /// Bytes queued that make a grace period worth its membarrier.
    pub(crate) fn batch_bytes(&self) -> u64 {
        (self.config.budget as u64 / 8).clamp(1, 512 << 10)
    }

    /// The handle goes without a barrier.
    pub(crate) fn abandon(&self) {
        // Relaxed: see `is_abandoned`.
        self.abandoned.store(true, Relaxed);
    }

    /// The handle is gone without a barrier: no deferred function may run any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        // Relaxed: whoever abandons is inside one of our calls or a section, and then a call that has begun, or begins just now, may
        // end later (`retire`, contract 2).
        self.abandoned.load(Relaxed)
    }

    /// An object of the cache with this id takes the call lane: a barrier on the cache cannot tell it from others' calls.
    pub(crate) fn note_called(&self, id: Lane) {
        // Relaxed: for barriers that this call happens before.
        self.called[usize::from(id)].store(true, Relaxed);
    }

    /// Has [`note_called`](Self::note_called) been called for the cache?
    pub(crate) fn was_called(&self, id: Lane) -> bool {
        // Relaxed: as above.
        self.called[usize::from(id)].load(Relaxed)
    }

    /// Bytes that are retired and not free, as far as they have left the open blocks.
    pub(crate) fn queued_bytes(&self) -> u64 {
        self.counters.waiting_bytes() + self.counters.overflow_bytes.get()
    }
}
