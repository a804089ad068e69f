//! The options of `slabinfo`.

use std::path::PathBuf;

use clap::Args;

use super::values::{half_the_processors, seconds, threads};

/// The options of `slabinfo`.
#[derive(Debug, Args)]
pub(crate) struct SlabinfoArgs {
    /// Threads that allocate, free and retire, 1 to 1024 [default: half the processors, 2 at least]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    threads: Option<usize>,

    /// How long they do, in seconds, 0.1 to 3600
    #[arg(long, value_name = "S", value_parser = seconds, allow_negative_numbers = true, default_value = "1")]
    pub(crate) seconds: f64,

    /// Also write the figures to this file, as JSON; `-` is standard output, and the text goes to standard error then
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl SlabinfoArgs {
    /// Threads that allocate, free and retire.
    pub(crate) fn threads(&self) -> usize {
        self.threads.unwrap_or_else(half_the_processors)
    }
}
