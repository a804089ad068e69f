//! The options of `latency`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::values::{processors, seconds, threads};

/// The options of `latency`.
#[derive(Debug, Args)]
pub(crate) struct LatencyArgs {
    /// Which flavour of grace periods
    #[arg(long, alias = "flavour", value_enum, default_value = "memb")]
    pub(crate) flavor: FlavourName,

    /// Threads that read without a pause, 1 to 1024 [default: the processors but one, 1 at least]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    readers: Option<usize>,

    /// How long it is measured, in seconds, 0.1 to 3600
    #[arg(long, value_name = "S", value_parser = seconds, allow_negative_numbers = true, default_value = "3")]
    pub(crate) seconds: f64,

    /// Also write the figures to this file, as JSON; `-` is standard output, and the text goes to standard error then
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Also draw the distribution into this file, as SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
}

impl LatencyArgs {
    /// Threads that read.
    pub(crate) fn readers(&self) -> usize {
        self.readers.unwrap_or_else(|| (processors() - 1).max(1))
    }
}

/// Which flavour of grace periods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FlavourName {
    /// This library's default: readers without a fence, membarrier where the kernel has it
    Memb,
    /// Quiescent states: readers that cost nothing, and say when they hold nothing
    Qsbr,
    /// The grace periods of crossbeam-epoch's default collector, waited for by us
    Epoch,
    /// crossbeam-epoch, for comparison: flushes until a deferred function has run
    Crossbeam,
}

impl FlavourName {
    /// Its name on the command line and in the JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            FlavourName::Memb => "memb",
            FlavourName::Qsbr => "qsbr",
            FlavourName::Epoch => "epoch",
            FlavourName::Crossbeam => "crossbeam",
        }
    }
}
