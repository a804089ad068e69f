//! What can be asked for on the command line, with the values allowed. `complaint` says what was wrong with it.

use std::path::PathBuf;
use std::str::FromStr;
use std::thread;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::alloc::Allocator;
use crate::reclaimer::Kind;

/// The command by which the program starts itself for one run.
pub(crate) const HIDDEN_RUN: &str = "__run";

const ABOUT: &str = "Live code search over a lock-free map, to see what reclamation costs";

const LONG_ABOUT: &str = "\
Live code search over a lock-free map, to see what reclamation costs.

`quietus index`, or no command at all, builds an inverted index over real text (each word with the sorted list of the
files it stands in) and re-indexes it, file by file, while other threads query it. Every list that is replaced has to be
freed while somebody may still be reading it: by quietus, by crossbeam-epoch, or not at all. Every query checks what it
reads; the index is compared at the end with one that a single thread built.";

/// How long `index` takes; `parent::rounds` checks these numbers.
pub(crate) const TIME: &str = "\
Time: 3 rounds × reclaimers × --seconds, then a verify run of each (1 to 3 s), and 1.5 s or so around every run:
about 80 s unless told otherwise.";

const AFTER: &str = "\
Exit code: 0 if nothing was wrong, 1 if a check failed or the result could not be written, 2 if what was asked for makes
no sense. A reader of the output that stops early is no mistake.
Environment: QUIETUS_RSEQ and QUIETUS_MEMBARRIER (on, off, auto) choose what the library may use of the kernel.";

fn after_index() -> String {
    format!("{TIME}\n{AFTER}")
}

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "quietus", version, about = ABOUT, long_about = LONG_ABOUT, after_help = after_index())]
#[command(args_conflicts_with_subcommands = true, propagate_version = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// What `index` takes, without saying so.
    #[command(flatten)]
    pub(crate) index: IndexArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Search text while it is being re-indexed, and report what each reclaimer costs
    #[command(after_help = after_index())]
    Index(IndexArgs),
    /// Show what was detected on this machine: rseq, membarrier, processors, nodes, sizes, limits
    #[command(after_help = AFTER)]
    Env,
    /// One run, as told on standard input.
    #[command(name = HIDDEN_RUN, hide = true)]
    Run,
}

/// The options of `index`.
#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    /// Files and directories to index [default: the .rs files of Cargo's registry, else those here]
    #[arg(value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,

    /// Which reclaimer
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) reclaimer: Which,

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

    /// Take no more files than this, evenly chosen, 1 to 100000
    #[arg(long, value_name = "N", value_parser = files, allow_negative_numbers = true, default_value = "2000")]
    pub(crate) max_files: usize,
}

impl IndexArgs {
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
pub(crate) enum Which {
    /// This library
    Quietus,
    /// crossbeam-epoch, its default collector
    Crossbeam,
    /// No reclamation at all; stops at 2 GiB
    Leak,
    /// Each of them, in turns
    All,
}

impl Which {
    /// In the order of the table.
    pub(crate) fn kinds(self) -> Vec<Kind> {
        match self {
            Which::Quietus => vec![Kind::Quietus],
            Which::Crossbeam => vec![Kind::Crossbeam],
            Which::Leak => vec![Kind::Leak],
            Which::All => Kind::ALL.to_vec(),
        }
    }
}

/// Readers and writers together are more than the processors on a small machine: what a section costs whose thread is
/// not running has to show.
fn half_the_processors() -> usize {
    thread::available_parallelism().map_or(2, |processors| (processors.get() / 2).max(2))
}

const THREADS: &str = "1 to 1024";
const SECONDS: &str = "0.1 to 3600";
const FILES: &str = "1 to 100000";

/// What an option of `index` takes, for whoever gave it something else. Where the values have names, clap lists them.
pub(crate) fn allowed(option: &str) -> Option<&'static str> {
    match option {
        "--readers" | "--writers" => Some(THREADS),
        "--seconds" => Some(SECONDS),
        "--max-files" => Some(FILES),
        "--json" => Some("the name of a file, or -"),
        _ => None,
    }
}

fn threads(value: &str) -> Result<usize, &'static str> {
    between(value, 1, 1024)
}

fn files(value: &str) -> Result<usize, &'static str> {
    between(value, 1, 100_000)
}

fn seconds(value: &str) -> Result<f64, &'static str> {
    between(value, 0.1, 3600.0)
}

/// The number, or what is wrong with it; negative ones are numbers too, wherever they are not allowed.
fn between<T: FromStr + PartialOrd>(value: &str, least: T, most: T) -> Result<T, &'static str> {
    match value.parse::<T>() {
        Ok(number) if least <= number && number <= most => Ok(number),
        Err(_) if value.parse::<f64>().is_err() => Err("is not a number"),
        Err(_) if value.contains(['.', 'e', 'E']) => Err("is not a whole number"),
        _ => Err("is out of range"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_is_index() {
        let bare = Cli::try_parse_from(["quietus", "--seconds", "2"]).expect("allowed");
        assert!(bare.command.is_none() && bare.index.seconds == 2.0);
        let named = Cli::try_parse_from(["quietus", "index", ".", "--reclaimer", "leak"]).expect("allowed");
        let Some(Command::Index(args)) = named.command else { panic!("not index: {named:?}") };
        assert_eq!((args.paths.len(), args.reclaimer.kinds()), (1, vec![Kind::Leak]));
        assert!(args.readers() >= 2 && args.writers() >= 2);
    }

    #[test]
    fn numbers_have_bounds() {
        assert_eq!((threads("1"), threads("1024")), (Ok(1), Ok(1024)));
        for bad in ["0", "1025", "x", "-1", "1.5", ""] {
            assert!(threads(bad).is_err(), "{bad}");
        }
        for bad in ["0", "x", "NaN", "inf", "1e9"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
