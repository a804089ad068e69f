//! What can be asked for on the command line, with the values allowed. `complaint` says what was wrong with it.
//!
//! Each command's options are in a file of its own; `values` holds what several of them take.

mod values;
mod index;
mod scale;
mod latency;
mod torture;
mod top;
mod slabinfo;

pub(crate) use index::IndexArgs;
pub(crate) use latency::{FlavourName, LatencyArgs};
pub(crate) use scale::{ModeName, ScaleArgs};
pub(crate) use slabinfo::SlabinfoArgs;
pub(crate) use top::TopArgs;
pub(crate) use torture::{Fault, TortureArgs, TortureFlavour};
pub(crate) use values::allowed;

use clap::{Parser, Subcommand};

/// The command by which the program starts itself for one run.
pub(crate) const HIDDEN_RUN: &str = "__run";
/// The same for a leg of `torture`.
pub(crate) const HIDDEN_LEG: &str = "__leg";

const ABOUT: &str = "Live code search over a lock-free map, to see what reclamation costs";

const LONG_ABOUT: &str = "\
Live code search over a lock-free map, to see what reclamation costs.

`quietus index`, or no command at all, builds an inverted index over real text (each word with the sorted list of the
files it stands in) and re-indexes it, file by file, while other threads query it. Every list that is replaced has to be
freed while somebody may still be reading it: by quietus, by crossbeam-epoch, seize or sdd, or not at all. Every query
checks what it reads; the index is compared at the end with one that a single thread built.

`quietus scale` measures retiring alone, `quietus latency` waiting alone; `quietus torture` tries to break both.
`quietus slabinfo` shows the allocator beneath at work, as the kernel shows its own.";

/// How long `index` takes; `parent::rounds` checks these numbers.
pub(crate) const TIME: &str = "\
Time: 3 rounds × reclaimers × --seconds, then a verify run of each (1 to 3 s), and 1.5 s or so around every run:
about 80 s unless told otherwise.";

const AFTER: &str = "\
Exit code: 0 if nothing was wrong, 1 if a check failed or the result could not be written, 2 if what was asked for makes
no sense. A reader of the output that stops early is no mistake.
Environment: QUIETUS_RSEQ and QUIETUS_MEMBARRIER (on, off, auto) choose what the library may use of the kernel,
QUIETUS_SLAB_WORKERS (the same) whether the allocator has threads of its own; QUIETUS_SLAB_DEBUG has caches checked, as
the kernel's slab_debug does.";

fn after_index() -> String {
    format!("{TIME}\n{AFTER}")
}

const TORTURE: &str = "\
The last line is 'End of test: SUCCESS' or 'End of test: FAILURE'; what failed stands above it. --seed makes the same choices
again, not the same schedule. norseq and nomembarrier run in processes of their own, which share the time.";

fn after_torture() -> String {
    format!("{TORTURE}\n{AFTER}")
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
    /// Allocate and retire as fast as it goes, and report what that costs: the kernel's kfree_rcu_test
    #[command(after_help = AFTER)]
    Scale(ScaleArgs),
    /// Measure how long synchronize takes beside busy readers
    #[command(after_help = AFTER)]
    Latency(LatencyArgs),
    /// Try to break it: the kernel's rcutorture, and every way of retiring, with faults
    #[command(after_help = after_torture())]
    Torture(TortureArgs),
    /// Watch a domain at work: what is pending, rates, reserve, fallbacks, grace periods, memory
    #[command(after_help = AFTER)]
    Top(TopArgs),
    /// Use caches of every kind for a while, and show them as the kernel does in /proc/slabinfo
    #[command(after_help = AFTER)]
    Slabinfo(SlabinfoArgs),
    /// Show what was detected on this machine: rseq, membarrier, processors, nodes, sizes, limits
    #[command(after_help = AFTER)]
    Env,
    /// One run, as told on standard input.
    #[command(name = HIDDEN_RUN, hide = true)]
    Run,
    /// One leg of `torture`, as told on standard input.
    #[command(name = HIDDEN_LEG, hide = true)]
    Leg,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reclaimer::Kind;
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_is_index() {
        let bare = Cli::try_parse_from(["quietus", "--seconds", "2"]).expect("allowed");
        assert!(bare.command.is_none() && bare.index.seconds == 2.0);
        assert_eq!(bare.index.kinds(), [Kind::Quietus, Kind::Crossbeam, Kind::Leak]);
        let named = Cli::try_parse_from(["quietus", "index", ".", "--reclaimer", "leak"]).expect("allowed");
        let Some(Command::Index(args)) = named.command else { panic!("not index: {named:?}") };
        assert_eq!((args.paths.len(), args.kinds()), (1, vec![Kind::Leak]));
        let kinds = |which| Cli::try_parse_from(["quietus", "--reclaimer", which]).expect("allowed").index.kinds();
        assert_eq!(
            (kinds("sdd,quietus,sdd"), kinds("seize,all")),
            (vec![Kind::Quietus, Kind::Sdd], Kind::ALL.to_vec())
        );
        assert!(args.readers() >= 2 && args.writers() >= 2);
    }
}
