//! [`Stats`]: what a domain has to say about itself.

use crate::latency::Bucket;
use crate::source::Source;
use std::time::Duration;

/// A domain's numbers, at the time of the call. Latencies are rounded up to within 25 %.
#[derive(Debug, Clone, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
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
    /// How long all of them took, as a histogram: the buckets that are not empty, shortest first.
    pub grace_period_latency: Vec<Bucket>,
    /// How long the oldest open section has lasted at the least, as far as a grace period that has begun has met it. `None`: no
    /// reader is in the way of one just now, or the flavour cannot tell (epoch).
    pub longest_reader: Option<Duration>,
    /// Stalls reported, each counted once.
    pub stalls: u64,
}

impl Stats {
    pub(crate) fn of(kvfree: quietus_kvfree::Stats, source: &impl Source) -> Stats {
        let engine = source.counts();
        let running = source.running().flatten();
        Stats {
            longest_reader: running.filter(|&(n, _)| !source.holdouts(n).is_empty()).map(|(_, time)| time),
            stalls: source.watch().stalls(),
            kvfree,
            grace_periods: engine.grace_periods,
            membarriers: engine.membarriers,
            refused_membarriers: engine.refusals,
            reader_slots: engine.slots,
            grace_period_p50: engine.p50,
            grace_period_p99: engine.p99,
            grace_period_latency: engine.latency,
        }
    }
}
