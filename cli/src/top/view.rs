//! A look at the global domain, and two of them as text: what there is, and what has happened between them.

use std::time::Duration;

use quietus::{Domain, Stats};

use super::workload::Workload;
use crate::cpu;
use crate::numbers::{grouped, size, time};
use crate::run::resident;

/// What is seen at one time.
#[derive(Debug, Clone, Default)]
pub(super) struct Look {
    at: Duration,
    reads: u64,
    writes: u64,
    stats: Stats,
    /// None where the system does not say.
    worker_ms: Option<f64>,
    resident: u64,
}

impl Look {
    /// Now, this long after the begin.
    pub(super) fn at(workload: &Workload, at: Duration) -> Look {
        let (reads, writes) = workload.done();
        let stats = Domain::global().stats();
        Look { at, reads, writes, stats, worker_ms: cpu::workers_ms(), resident: resident::now() }
    }
}

/// A line for each figure; rates are those between the two looks.
pub(super) fn show(before: &Look, now: &Look) -> String {
    let seconds = (now.at - before.at).as_secs_f64().max(f64::MIN_POSITIVE);
    let (is, was) = (&now.stats.kvfree, &before.stats.kvfree);
    let rate = |now: u64, before: u64| {
        format!("{} a second", grouped((now.saturating_sub(before) as f64 / seconds).round() as u64))
    };
    let total = |now: u64, before: u64| format!("{}, {}", grouped(now), rate(now, before));
    let latency = |time_of: Option<Duration>| {
        time_of.map_or_else(|| "none yet".to_owned(), |latency| time(latency.as_nanos() as u64))
    };
    let worker = now.worker_ms.zip(before.worker_ms).map_or_else(
        || "not known".to_owned(),
        |(ms, then)| format!("{:.1} % of a processor", (ms - then) / seconds / 10.0),
    );
    let steps = [
        ("neighbour", is.from_neighbour),
        ("fresh", is.from_fresh),
        ("bitmap", is.deferred),
        ("heads", is.linked),
        ("allocated heads", is.links),
        ("waits", is.inline_waits),
        ("given up", is.leaked),
    ];
    let steps: Vec<String> = steps.iter().map(|(name, n)| format!("{name} {}", grouped(*n))).collect();
    let lines = [
        ("time", format!("{:.1} s", now.at.as_secs_f64())),
        ("sections", total(now.reads, before.reads)),
        ("retired", total(now.writes, before.writes)),
        ("freed", total(is.reclaimed_objects, was.reclaimed_objects)),
        ("pending", format!("{} objects, {}", grouped(is.pending_objects), size(is.pending_bytes))),
        ("peak pending", size(is.peak_pending_bytes)),
        ("batches", format!("{}, {} by retirers", total(is.batches, was.batches), grouped(is.helped))),
        ("yields", total(is.yields, was.yields)),
        ("reserve", format!("{} blocks, deepest {}", grouped(is.reserve_blocks.into()), is.reserve_depth)),
        ("refills", grouped(is.refills)),
        ("fallbacks", format!("{}: {}", grouped(is.fallbacks()), steps[..3].join(", "))),
        ("", steps[3..].join(", ")),
        ("grace periods", total(now.stats.grace_periods, before.stats.grace_periods)),
        ("their p50, p99", format!("{}, {}", latency(now.stats.grace_period_p50), latency(now.stats.grace_period_p99))),
        ("membarriers", total(now.stats.membarriers, before.stats.membarriers)),
        ("worker", worker),
        ("resident", size(now.resident)),
    ];
    lines.map(|(name, value)| format!("{name:<16}{value}\n")).concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at: u64, reads: u64, worker_ms: Option<f64>) -> Look {
        let mut stats = Stats::default();
        stats.kvfree.pending_objects = 1_500;
        stats.kvfree.pending_bytes = 3 << 20;
        stats.kvfree.from_fresh = 4;
        stats.grace_periods = at * 100;
        stats.grace_period_p50 = Some(Duration::from_micros(7));
        Look { at: Duration::from_secs(at), reads, writes: 0, stats, worker_ms, resident: 10 << 20 }
    }

    #[test]
    fn rates_are_between_two_looks() {
        let text = show(&look(1, 1_000, Some(10.0)), &look(3, 5_000, Some(510.0)));
        for line in [
            "time            3.0 s",
            "sections        5,000, 2,000 a second",
            "pending         1,500 objects, 3.0 MiB",
            "fallbacks       4: neighbour 0, fresh 4, bitmap 0",
            "grace periods   300, 100 a second",
            "their p50, p99  7.0 µs, none yet",
            "worker          25.0 % of a processor",
            "resident        10.0 MiB",
        ] {
            assert!(text.lines().any(|is| is == line), "{line} is not in:\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() < 80), "{text}");
    }

    #[test]
    fn what_is_not_known_is_said() {
        let text = show(&look(1, 0, None), &look(1, 0, None));
        assert!(
            text.contains("worker          not known\n") && !text.contains("inf") && !text.contains("NaN"),
            "{text}"
        );
    }
}
