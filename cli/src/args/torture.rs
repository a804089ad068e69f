//! The options of `torture`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::values::{half_the_processors, seconds, seed, threads};

/// The options of `torture`.
#[derive(Debug, Args)]
pub(crate) struct TortureArgs {
    /// Which flavour of grace periods
    #[arg(long, value_enum, default_value = "memb")]
    pub(crate) flavor: TortureFlavour,

    /// How long, in seconds, 0.1 to 3600
    #[arg(long, value_name = "S", value_parser = seconds, allow_negative_numbers = true, default_value = "10")]
    pub(crate) seconds: f64,

    /// Threads that read, 1 to 1024 [default: half the processors, 2 at least]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    readers: Option<usize>,

    /// Threads that replace and retire, 1 to 1024 [default: half the processors, 2 at least]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    writers: Option<usize>,

    /// What chance begins with [default: the clock]
    #[arg(long, value_name = "N", value_parser = seed, allow_negative_numbers = true)]
    pub(crate) seed: Option<u64>,

    /// What else goes wrong meanwhile, separated by commas
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',', default_value = "none")]
    faults: Vec<FaultName>,

    /// Also write the figures to this file, as JSON; `-` is standard output, and the text goes to standard error then
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl TortureArgs {
    /// Threads that read.
    pub(crate) fn readers(&self) -> usize {
        self.readers.unwrap_or_else(half_the_processors)
    }

    /// Threads that replace and retire.
    pub(crate) fn writers(&self) -> usize {
        self.writers.unwrap_or_else(half_the_processors)
    }

    /// The faults, each once, in the order of the list of all of them.
    pub(crate) fn faults(&self) -> Vec<Fault> {
        let asked = |fault: &Fault| self.faults.iter().any(|name| name.is(*fault));
        Fault::ALL.into_iter().filter(asked).collect()
    }
}

/// Which flavour of grace periods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TortureFlavour {
    /// The default: readers without a fence, membarrier where the kernel has it
    Memb,
    /// Quiescent states
    Qsbr,
    /// The grace periods of crossbeam-epoch
    Epoch,
}

impl TortureFlavour {
    /// Its name on the command line and in the JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            TortureFlavour::Memb => "memb",
            TortureFlavour::Qsbr => "qsbr",
            TortureFlavour::Epoch => "epoch",
        }
    }
}

/// What may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fault {
    Churn,
    Oversubscription,
    Affinity,
    Signals,
    Pages,
    Norseq,
    Nomembarrier,
    Fork,
}

impl Fault {
    /// All of them.
    pub(crate) const ALL: [Fault; 8] = [
        Fault::Churn,
        Fault::Oversubscription,
        Fault::Affinity,
        Fault::Signals,
        Fault::Pages,
        Fault::Norseq,
        Fault::Nomembarrier,
        Fault::Fork,
    ];

    /// Its name on the command line and in the JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Fault::Churn => "churn",
            Fault::Oversubscription => "oversubscription",
            Fault::Affinity => "affinity",
            Fault::Signals => "signals",
            Fault::Pages => "pages",
            Fault::Norseq => "norseq",
            Fault::Nomembarrier => "nomembarrier",
            Fault::Fork => "fork",
        }
    }
}

/// What may be said for faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FaultName {
    /// Threads come and go
    Churn,
    /// Four times as many threads
    Oversubscription,
    /// Threads are sent to other processors at random
    Affinity,
    /// Signals whose handler retires, and reads where the flavour allows it
    Signals,
    /// Pages that cannot be had
    Pages,
    /// A part of the time without restartable sequences
    Norseq,
    /// A part of the time without membarrier
    Nomembarrier,
    /// Forks; the child only allocates
    Fork,
    /// Each of them
    All,
    /// Nothing
    None,
}

impl FaultName {
    /// Whether this means that one.
    fn is(self, fault: Fault) -> bool {
        let meant = match self {
            FaultName::Churn => Fault::Churn,
            FaultName::Oversubscription => Fault::Oversubscription,
            FaultName::Affinity => Fault::Affinity,
            FaultName::Signals => Fault::Signals,
            FaultName::Pages => Fault::Pages,
            FaultName::Norseq => Fault::Norseq,
            FaultName::Nomembarrier => Fault::Nomembarrier,
            FaultName::Fork => Fault::Fork,
            FaultName::All => return true,
            FaultName::None => return false,
        };
        meant == fault
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn faults(list: &str) -> Vec<Fault> {
        let cli = Cli::try_parse_from(["quietus", "torture", "--faults", list]).expect("allowed");
        let Some(Command::Torture(args)) = cli.command else { panic!("not torture: {cli:?}") };
        args.faults()
    }

    #[test]
    fn faults_are_a_list() {
        assert_eq!(faults("none"), []);
        assert_eq!(faults("all"), Fault::ALL);
        assert_eq!(faults("fork,churn,fork,none"), [Fault::Churn, Fault::Fork]);
        for fault in Fault::ALL {
            assert_eq!(faults(fault.name()), [fault]);
        }
    }
}
