//! What a run of `scale` measured: as JSON, and for people.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::run::SAMPLED;
use crate::args::ModeName;
use crate::numbers::{count, grouped, rounded, size, time};

/// All of it, as the JSON has it.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    pub(super) mode: ModeName,
    /// None: mixed.
    pub(super) size: Option<usize>,
    pub(super) threads: usize,
    pub(super) allocs: u64,
    pub(super) loops: u64,
    pub(super) objects: u64,
    /// From the first thread's start to the last one's end, for each object of all threads.
    pub(super) submit_ns_per_op: f64,
    /// The same to the end of the barrier.
    pub(super) total_ns_per_op: f64,
    pub(super) drain_ms: f64,
    pub(super) grace_periods: u64,
    pub(super) peak_unreclaimed_bytes: u64,
    pub(super) mean_unreclaimed_bytes: u64,
    /// Looks that the mean is made of.
    pub(super) looks: u64,
    pub(super) retire_ns: Retire,
    /// What has been subtracted from each of these.
    pub(super) clock_ns: u64,
    /// None where the system does not say.
    pub(super) worker_cpu_ms: Option<f64>,
    pub(super) batches: u64,
    /// Objects that found no open block.
    pub(super) fallbacks: u64,
    pub(super) helped: u64,
    pub(super) yields: u64,
    pub(super) fresh_blocks: u64,
    pub(super) verified: bool,
}

/// Quantiles of the time a retire takes, and of how many that is.
#[derive(Debug, Serialize)]
pub(super) struct Retire {
    pub(super) p50: u64,
    pub(super) p99: u64,
    pub(super) p999: u64,
    pub(super) p9999: u64,
    pub(super) max: u64,
    pub(super) samples: u64,
}

impl Retire {
    /// Those of a histogram.
    pub(super) fn of(times: &Histogram<u64>) -> Retire {
        let at = |quantile| times.value_at_quantile(quantile);
        Retire {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: times.max(),
            samples: times.len(),
        }
    }
}

impl Figures {
    /// A line for each figure, short enough for a narrow terminal, and what they leave out.
    pub(super) fn text(&self) -> String {
        let retire = &self.retire_ns;
        let rate = |ns: f64| format!("{ns:.1} ns, {:.1} million/s", 1e3 / ns.max(f64::MIN_POSITIVE));
        let worker = self.worker_cpu_ms.map_or_else(
            || "not known".to_owned(),
            |ms| format!("{ms:.1} ms, {:.1} ns per object", rounded(ms * 1e6 / self.objects as f64)),
        );
        let lines = [
            ("submit, per object", rate(self.submit_ns_per_op)),
            ("total, per object", rate(self.total_ns_per_op)),
            ("drain", time((self.drain_ms * 1e6) as u64)),
            ("grace periods", grouped(self.grace_periods)),
            ("peak unreclaimed", size(self.peak_unreclaimed_bytes)),
            ("mean unreclaimed", size(self.mean_unreclaimed_bytes)),
            ("retire p50, p99", format!("{}, {}", time(retire.p50), time(retire.p99))),
            ("retire p99.9, p99.99", format!("{}, {}", time(retire.p999), time(retire.p9999))),
            ("retire longest", time(retire.max)),
            ("worker's processor", worker),
            ("fallbacks", grouped(self.fallbacks)),
            ("batches", format!("{}, {} by retirers", grouped(self.batches), grouped(self.helped))),
            ("verified", if self.verified { "yes: all freed" } else { "FAILURE" }.to_owned()),
        ];
        let lines = lines.map(|(name, value)| format!("{name:<22}{value}\n")).concat();
        let few = match retire.samples {
            ..10_000 => format!(", too few for a p99.99: {}", count(retire.samples, "sample")),
            enough => format!(": {}", count(enough, "sample")),
        };
        format!(
            "{lines}\n\
             Times per object are wall time over all threads' objects, allocation and page faults of\n\
             fresh memory included; the total runs to the end of the barrier.\n\
             One retire in {SAMPLED} is timed{few}.\n\
             Reading the clock takes {} ns, which has been subtracted from each sample, but not from the\n\
             times per object.\n\
             The mean is over {} until the end of the barrier.\n",
            self.clock_ns,
            count(self.looks, "look"),
        )
    }
}
