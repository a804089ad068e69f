//! What passes between the program and the process that does one run: a spec in, an outcome out, both JSON.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::reclaimer::Kind;

/// What to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// With which reclaimer.
    pub(crate) reclaimer: Kind,
    /// Threads that query.
    pub(crate) readers: usize,
    /// Threads that re-index; never more than there are files.
    pub(crate) writers: usize,
    /// How long.
    pub(crate) seconds: f64,
    /// Poison what is freed and widen the windows, instead of taking the time.
    pub(crate) verify: bool,
    /// The text.
    pub(crate) files: Vec<String>,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// What was wrong, if anything; then the rest means nothing.
    pub(crate) violation: Option<String>,
    /// Different words in the text.
    pub(crate) words: u32,
    /// Entries of all lists together.
    pub(crate) entries: u64,
    /// Queries answered.
    pub(crate) queries: u64,
    /// Lists replaced.
    pub(crate) updates: u64,
    /// Queries a second, all readers together.
    pub(crate) queries_per_s: f64,
    /// Lists replaced a second, all writers together.
    pub(crate) updates_per_s: f64,
    /// How long retiring a list took.
    pub(crate) retire_ns: Retire,
    /// How long a grace period took.
    pub(crate) grace_period_ns: GracePeriods,
    /// The most bytes retired and not freed.
    pub(crate) peak_unreclaimed_bytes: u64,
    /// The most resident memory.
    pub(crate) peak_rss_bytes: u64,
    /// From the end of the writers until everything was freed; none if nothing ever is.
    pub(crate) drain_ms: Option<f64>,
    /// Objects retired and not freed after that.
    pub(crate) left_unreclaimed: u64,
}

/// Quantiles of the time a retire takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Retire {
    /// The median.
    pub(crate) p50: u64,
    /// One in a hundred takes longer.
    pub(crate) p99: u64,
    /// One in a thousand takes longer.
    pub(crate) p999: u64,
}

/// Quantiles of the time a grace period takes; none where there are none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GracePeriods {
    /// The median.
    pub(crate) p50: Option<u64>,
    /// One in a hundred takes longer.
    pub(crate) p99: Option<u64>,
}

impl Outcome {
    /// The outcome of a run in which this was wrong.
    pub(crate) fn violated(what: String) -> Outcome {
        Outcome { violation: Some(what), ..Outcome::default() }
    }

    /// One line on standard output, for the program that started this process.
    pub(crate) fn print(&self) {
        let line = serde_json::to_string(self).expect("numbers and strings");
        let mut out = io::stdout().lock();
        // If nobody listens any more there is nobody to tell.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}
