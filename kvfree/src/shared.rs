//! What the handle, the worker and the allocator's hook share: lanes, reserve, queue, counters.
//!
//! Every later module is a verb on [`Shared`].

use crate::grace::GracePeriods;
use crate::lane::Lanes;
use crate::queue::{Queue, Running};
use crate::reserve::Reserve;
use crate::stats::Counters;
use quietus_slab::raw::Lock;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread::Thread;
use std::time::Duration;

/// Settings of a [`Kvfree`](crate::Kvfree).
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes that may wait for their grace period before retirers help and yield.
    pub budget: usize,
    /// How long a retired object may lie in an open block, half-full, before the worker closes it.
    pub age: Duration,
    /// Empty blocks kept for each CPU; 0: none.
    pub reserve: u32,
    /// Whether to have a worker thread. Without it the caller drives, by `tick`.
    pub workers: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config { budget: 4 << 20, age: Duration::from_millis(50), reserve: 5, workers: true }
    }
}

pub(crate) struct Shared<G> {
    pub(crate) gp: G,
    pub(crate) config: Config,
    pub(crate) lanes: Lanes,
    pub(crate) reserve: Reserve,
    pub(crate) queue: Lock<Queue>,
    pub(crate) running: Running,
    pub(crate) counters: Counters,
    /// Blocks holding one pointer each, retired where no open block could be used.
    pub(crate) strays: quietus_slab::raw::Stack,
    /// Counts the worker's passes: the clock by which open blocks age.
    pub(crate) passes: AtomicU64,
    /// The worker has been told that there is something (pair "bell" in `worker`).
    pub(crate) armed: AtomicBool,
    pub(crate) stopping: AtomicBool,
    /// The handle is gone without a barrier: no deferred function may run any more.
    pub(crate) abandoned: AtomicBool,
    pub(crate) worker: OnceLock<Thread>,
}

impl<G: GracePeriods> Shared<G> {
    pub(crate) fn new(gp: G, mut config: Config) -> Self {
        config.age = config.age.max(Duration::from_millis(1));
        Shared {
            gp,
            lanes: Lanes::new(),
            reserve: Reserve::new(config.reserve),
            config,
            queue: Lock::new(Queue::new()),
            running: Running::default(),
            counters: Counters::default(),
            strays: quietus_slab::raw::Stack::new(),
            passes: AtomicU64::new(0),
            armed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            worker: OnceLock::new(),
        }
    }

    /// Bytes queued that make a grace period worth its membarrier.
    pub(crate) fn batch_bytes(&self) -> u64 {
        (self.config.budget as u64 / 8).clamp(1, 512 << 10)
    }
}
