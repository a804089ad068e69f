//! The options of `top`.

use clap::Args;

use super::values::{half_the_processors, seconds};

/// The options of `top`.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// How often the view is drawn on a terminal, in seconds, 0.1 to 3600
    #[arg(long, value_name = "S", value_parser = seconds, allow_negative_numbers = true, default_value = "1")]
    pub(crate) interval: f64,

    /// How long the workload runs, in seconds, 0.1 to 3600
    #[arg(long, value_name = "S", value_parser = seconds, allow_negative_numbers = true, default_value = "10")]
    pub(crate) seconds: f64,
}

impl TopArgs {
    /// Threads that read, and as many that replace.
    pub(crate) fn threads(&self) -> usize {
        half_the_processors()
    }
}
