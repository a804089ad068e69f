//! The options of `scale`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::values::{processors, repeats, size, threads};

/// The options of `scale`.
#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// How objects are retired
    #[arg(long, value_enum, default_value = "cache")]
    pub(crate) mode: ModeName,

    /// Threads that retire, 1 to 1024 [default: the processors]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    threads: Option<usize>,

    /// Objects that each thread allocates and retires in a loop, 1 to 1000000
    #[arg(long, value_name = "N", value_parser = repeats, allow_negative_numbers = true, default_value = "8000")]
    pub(crate) allocs: u64,

    /// Loops of each thread, 1 to 1000000
    #[arg(long, value_name = "N", value_parser = repeats, allow_negative_numbers = true, default_value = "10")]
    pub(crate) loops: u64,

    /// Bytes of an object, a power of two, 16 to 4096 [default: 64; for kvfree, mixed from 16 to 2048]
    #[arg(long, value_name = "BYTES", value_parser = size, allow_negative_numbers = true)]
    size: Option<usize>,

    /// Also write the figures to this file, as JSON; `-` is standard output, and the text goes to standard error then
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl ScaleArgs {
    /// Threads that retire.
    pub(crate) fn threads(&self) -> usize {
        self.threads.unwrap_or_else(processors)
    }

    /// Bytes of an object; none: mixed.
    pub(crate) fn size(&self) -> Option<usize> {
        self.size.or((self.mode != ModeName::Kvfree).then_some(64))
    }

    /// Objects of all threads together.
    pub(crate) fn objects(&self) -> u64 {
        self.threads() as u64 * self.allocs * self.loops
    }
}

/// How objects are retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ModeName {
    /// Objects of one cache, no destructor: whole blocks go back
    Cache,
    /// Memory of the size classes by its address alone, no destructor
    Kvfree,
    /// Boxes of the global allocator with a destructor
    Box,
    /// Slab objects with a destructor
    Linked,
    /// A callback for each object
    Call,
}

impl ModeName {
    /// Its name on the command line and in the JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            ModeName::Cache => "cache",
            ModeName::Kvfree => "kvfree",
            ModeName::Box => "box",
            ModeName::Linked => "linked",
            ModeName::Call => "call",
        }
    }
}
