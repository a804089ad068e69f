//! The `torture` command: the kernel's rcutorture for this library, and every door of `kvfree`, which rcutorture never goes through.
//!
//! A `leg` is a process: one as the machine is, and one each without restartable sequences and without membarrier, if that was asked
//! for. In it a `world` (links to `object`s, a domain) is worked on by a `crowd` that reads, replaces, and retires through `doors`; by
//! the checks `pipe`, `cookies`, `litmus`, `barriers`, `stall`; and by `faults`. The `ledger` knows what has become of each object,
//! the `tally` what was counted and what was wrong, `watch` who hangs. `figures` is what comes of it.

mod random;
mod tally;
mod watch;
mod flavours;
mod ledger;
mod object;
mod doors;
mod world;
mod pipe;
mod faults;
mod crowd;
mod cookies;
mod litmus;
mod barriers;
mod stall;
mod leg;
mod figures;

pub(crate) use leg::child;

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use crate::args::{Fault, HIDDEN_LEG, TortureArgs};
use crate::child::{self, Job};
use crate::numbers::count;
use crate::output::{self, Trouble};
use crate::sink::{Report, Sink};
use figures::Figures;
use leg::{Outcome, Spec};

/// The variables of a leg.
type Variables = &'static [(&'static str, &'static str)];

/// The legs these faults ask for: what each is called, and its variables.
fn legs(faults: &[Fault]) -> Vec<(&'static str, Variables)> {
    let mut legs: Vec<(&'static str, Variables)> = vec![("as it is", &[])];
    if faults.contains(&Fault::Norseq) {
        legs.push(("without rseq", &[("GLIBC_TUNABLES", "glibc.pthread.rseq=0")]));
    }
    if faults.contains(&Fault::Nomembarrier) {
        legs.push(("without membarrier", &[("QUIETUS_MEMBARRIER", "off")]));
    }
    legs
}

/// Runs the command. The error is one line about what was asked for; nothing has been run then.
pub(crate) fn torture(args: &TortureArgs) -> Result<ExitCode, Trouble> {
    let faults = args.faults();
    if let Some(line) = faults::refused(&faults) {
        return Err(Trouble::Asked(line));
    }
    let json = Sink::json(args.json.as_deref())?;
    let legs = legs(&faults);
    let spec = Spec {
        flavour: args.flavor,
        readers: args.readers(),
        writers: args.writers(),
        seconds: args.seconds / legs.len() as f64,
        seed: args.seed.unwrap_or_else(by_the_clock),
        faults,
    };
    let names: Vec<&str> = spec.faults.iter().map(|fault| fault.name()).collect();
    output::remark(format_args!(
        "{}: {}, {}, {} s, seed {}, faults: {}",
        args.flavor.name(),
        count(spec.readers as u64, "reader"),
        count(spec.writers as u64, "writer"),
        args.seconds,
        spec.seed,
        if names.is_empty() { "none".to_owned() } else { names.join(", ") },
    ));
    let mut whole = Outcome::default();
    for (name, variables) in legs {
        if !whole.failures.is_empty() {
            break;
        }
        output::remark(format_args!("{name}: {:.1} s", spec.seconds));
        whole.add(name, run(&spec, variables));
    }
    let figures = Figures { args: &spec, seconds: args.seconds, outcome: &whole };
    let wrong = if whole.failures.is_empty() { Vec::new() } else { vec![figures.failures()] };
    Ok(Report { text: figures.text(), json: json.map(|json| (json, figures.json())), plot: None, wrong }.tell())
}

/// One leg. That its process died is an outcome, too.
fn run(spec: &Spec, variables: Variables) -> Outcome {
    let job = Job {
        command: HIDDEN_LEG,
        spec,
        variables,
        // The watchdog inside sees before that what hangs.
        limit: Duration::from_secs_f64(spec.seconds * 2.0) + watch::PATIENCE * 4,
    };
    child::run(&job, || ()).unwrap_or_else(|what| Outcome {
        failures: [("process".to_owned(), 1)].into(),
        descriptions: vec![format!("process: {what}")],
        ..Outcome::default()
    })
}

/// A seed that nobody chose.
fn by_the_clock() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leg_for_each_way_to_be_without() {
        let names = |faults: &[Fault]| legs(faults).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(&[]), ["as it is"]);
        assert_eq!(names(&[Fault::Churn, Fault::Nomembarrier]), ["as it is", "without membarrier"]);
        assert_eq!(names(&Fault::ALL).len(), 3);
    }
}
