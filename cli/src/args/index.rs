//! The options of `index`.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use super::values::{files, half_the_processors, seconds, threads};
use crate::alloc::Allocator;
use crate::reclaimer::Kind;

/// The options of `index`.
#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    /// Files and directories to index [default: the .rs files of Cargo's registry, else those here]
    #[arg(value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,

    /// Which reclaimers, with commas in between
    #[arg(long, value_enum, value_delimiter = ',', action = ArgAction::Set, default_value = "quietus,crossbeam,leak")]
    reclaimer: Vec<Which>,

    /// Threads that query, 1 to 1024 [default: half the processors, 2 at least]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    readers: Option<usize>,

    /// Threads that re-index, 1 to 1024 [default: half the processors, 2 at least]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    writers: Option<usize>,

    /// How long each timed run takes, in seconds, 0.1 to 3600
    #[arg(long, value_name = "S", value_parser = seconds, allow_negative_numbers = true, default_value = "6")]
    pub(crate) seconds: f64,

    /// The allocator under all that is not quietus's own
    #[arg(long, value_enum, default_value = "mimalloc")]
    pub(crate) alloc: Allocator,

    /// Also write the figures to this file, as JSON; `-` is standard output, and the table goes to standard error then
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Also draw the figures into this file, as SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,

    /// Take no more files than this, evenly chosen, 1 to 100000
    #[arg(long, value_name = "N", value_parser = files, allow_negative_numbers = true, default_value = "2000")]
    pub(crate) max_files: usize,
}

impl IndexArgs {
    /// The reclaimers, in the order of the table.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        Kind::ALL.into_iter().filter(|&kind| self.reclaimer.iter().any(|which| which.is(kind))).collect()
    }

    /// Threads that query.
    pub(crate) fn readers(&self) -> usize {
        self.readers.unwrap_or_else(half_the_processors)
    }

    /// Threads that re-index.
    pub(crate) fn writers(&self) -> usize {
        self.writers.unwrap_or_else(half_the_processors)
    }
}

/// Which reclaimers to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// This library
    Quietus,
    /// crossbeam-epoch, its default collector
    Crossbeam,
    /// seize, a collector with its default batches
    Seize,
    /// sdd; each retire allocates a closure, as its own owners cannot hold a list
    Sdd,
    /// No reclamation at all; stops at 2 GiB
    Leak,
    /// Each of them, in turns
    All,
}

impl Which {
    /// Whether this means that one.
    fn is(self, kind: Kind) -> bool {
        match self {
            Which::Quietus => kind == Kind::Quietus,
            Which::Crossbeam => kind == Kind::Crossbeam,
            Which::Seize => kind == Kind::Seize,
            Which::Sdd => kind == Kind::Sdd,
            Which::Leak => kind == Kind::Leak,
            Which::All => true,
        }
    }
}
