//! [`Stats`]: what a domain has to say about itself.

use crate::engine::Counts;
use std::time::Duration;

/// A domain's numbers, at the time of the call. Latencies are rounded up to within 25 %.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Stats {
    /// What is retired, queued, reclaimed.
    pub kvfree: quietus_kvfree::Stats,
    /// Grace periods completed.
    pub grace_periods: u64,
    /// Heavy fences issued for them; fewer where no other thread was registered.
    pub membarriers: u64,
    /// Heavy fences that the kernel refused.
    pub refused_membarriers: u64,
    /// Reader slots, of live threads and of those whose slot waits to be used again.
    pub reader_slots: u64,
    /// Half of all grace periods took no longer than this, from before the fence to completion. Those for which there was no other
    /// thread to wait for are not in it.
    pub grace_period_p50: Option<Duration>,
    /// 99 of 100 took no longer than this.
    pub grace_period_p99: Option<Duration>,
}

impl Stats {
    pub(crate) fn of(kvfree: quietus_kvfree::Stats, engine: Counts) -> Stats {
        Stats {
            kvfree,
            grace_periods: engine.grace_periods,
            membarriers: engine.membarriers,
            refused_membarriers: engine.refusals,
            reader_slots: engine.slots,
            grace_period_p50: engine.p50,
            grace_period_p99: engine.p99,
        }
    }
}
