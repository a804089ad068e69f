//! Which runs there are, and in which order: every round has each reclaimer once, beginning with another one each time,
//! so that what drifts on the machine falls on all of them; then each once more, poisoned and untimed.

use std::time::Duration;

use super::progress::Progress;
use super::summary::Summary;
use crate::alloc::{self, Allocator};
use crate::args::{HIDDEN_RUN, IndexArgs};
use crate::child::{self, Job};
use crate::numbers::count;
use crate::reclaimer::Kind;
use crate::run::spec::{Outcome, Spec};

/// Timed runs of each reclaimer.
const ROUNDS: usize = 3;
/// The verify run is as long as a timed one, within these, in seconds.
const VERIFY_SECONDS: (f64, f64) = (1.0, 3.0);
/// Beside its time a run takes about this, in seconds, to read the text, to end its pass and to compare.
const AROUND: f64 = 1.5;

/// All runs of one command.
pub(super) struct Plan {
    kinds: Vec<Kind>,
    readers: usize,
    writers: usize,
    seconds: f64,
    allocator: Allocator,
    files: Vec<String>,
}

impl Plan {
    /// The plan the arguments ask for.
    pub(super) fn of(args: &IndexArgs, files: Vec<String>) -> Plan {
        Plan {
            kinds: args.kinds(),
            readers: args.readers(),
            writers: args.writers().min(files.len()),
            seconds: args.seconds,
            allocator: args.alloc,
            files,
        }
    }

    /// What will be run, in a line.
    pub(super) fn describe(&self) -> String {
        format!(
            "{}; {ROUNDS} rounds of {} s each, then a verify run of {} s with freed memory poisoned",
            self.crowd(),
            self.seconds,
            self.verify_seconds(),
        )
    }

    /// Who takes part, and on which allocator.
    pub(super) fn crowd(&self) -> String {
        let (readers, writers) = (count(self.readers as u64, "reader"), count(self.writers as u64, "writer"));
        format!("{readers}, {writers}, {} underneath", self.allocator.name())
    }

    /// How long it will take, about.
    pub(super) fn seconds(&self) -> f64 {
        let each = ROUNDS as f64 * (self.seconds + AROUND) + self.verify_seconds() + AROUND;
        each * self.kinds.len() as f64
    }

    fn verify_seconds(&self) -> f64 {
        self.seconds.clamp(VERIFY_SECONDS.0, VERIFY_SECONDS.1)
    }

    /// Runs everything. A reclaimer that has violated something is not run again.
    pub(super) fn run(&self, progress: &mut Progress) -> Vec<Summary> {
        let mut summaries: Vec<Summary> = self.kinds.iter().map(|&kind| Summary::new(kind)).collect();
        for round in 0..=ROUNDS {
            let verify = round == ROUNDS;
            for turn in 0..summaries.len() {
                let at = (turn + round) % summaries.len();
                if !summaries[at].verified() {
                    continue;
                }
                self.run_one(&mut summaries[at], verify, round, progress);
            }
        }
        summaries
    }

    fn run_one(&self, summary: &mut Summary, verify: bool, round: usize, progress: &mut Progress) {
        let name = summary.kind.name();
        let label = if verify { "verify run".to_owned() } else { format!("round {} of {ROUNDS}", round + 1) };
        let seconds = if verify { self.verify_seconds() } else { self.seconds };
        progress.begin(&format!("{label}: {name}"), seconds + AROUND);
        let spec = Spec {
            reclaimer: summary.kind,
            readers: self.readers,
            writers: self.writers,
            seconds,
            verify,
            files: self.files.clone(),
        };
        let job = Job {
            command: HIDDEN_RUN,
            spec: &spec,
            variables: &[(alloc::VARIABLE, self.allocator.name())],
            // A run ends by itself after three times its time at most, and the drain.
            limit: Duration::from_secs_f64(spec.seconds * 4.0 + 60.0),
        };
        let outcome = child::run(&job, || progress.tick());
        let outcome = outcome.unwrap_or_else(|what| Outcome::violated(format!("{name}: {what}")));
        let result = match &outcome.violation {
            Some(violation) => format!("VIOLATION: {violation}"),
            None if verify => format!("{} queries and {} updates checked, verified", outcome.queries, outcome.updates),
            None => format!("{:.0} queries/s, {:.0} list updates/s", outcome.queries_per_s, outcome.updates_per_s),
        };
        progress.say(&format!("{label}: {name:<9} {result}"));
        summary.add(outcome, verify);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, TIME};
    use clap::Parser;

    #[test]
    fn the_help_says_how_long_it_takes() {
        let cli = Cli::try_parse_from(["quietus"]).expect("allowed");
        let plan = Plan::of(&cli.index, vec!["one".into()]);
        assert!((75.0..85.0).contains(&plan.seconds()) && TIME.contains("about 80 s"), "{}", plan.seconds());
        let (least, most) = VERIFY_SECONDS;
        for said in [format!("{ROUNDS} rounds"), format!("{least} to {most} s"), format!("{AROUND} s or so")] {
            assert!(TIME.contains(&said), "{said}");
        }
    }
}
