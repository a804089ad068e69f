//! The `slabinfo` command: caches of every kind in use, as the kernel would show them in `/proc/slabinfo`.
//!
//! `workload` are the caches, the threads and the account of what they hold, `figures` is the picture with its totals.

mod figures;
mod workload;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use quietus::{Domain, slab};

use crate::args::SlabinfoArgs;
use crate::crew;
use crate::numbers::count;
use crate::output::{self, Trouble};
use crate::sink::{self, Report, Sink};
use figures::Figures;
use workload::{Caches, Held};

/// Runs the command. The error is one line about what was asked for; nothing has been run then.
pub(crate) fn slabinfo(args: &SlabinfoArgs) -> Result<ExitCode, Trouble> {
    let json = Sink::json(args.json.as_deref())?;
    let threads = args.threads();
    output::remark(format_args!(
        "{} that allocate, free and retire, {} s",
        count(threads as u64, "thread"),
        args.seconds
    ));
    let (figures, wrong) = run(threads, Duration::from_secs_f64(args.seconds));
    Ok(Report {
        text: figures.text(),
        json: json.map(|json| (json, sink::pretty(&figures))),
        plot: None,
        wrong: wrong.iter().map(|line| format!("FAILURE: {line}")).collect(),
    }
    .tell())
}

/// Looks while the threads' last objects are held, and again when they are not. Returns what was seen at first, and what was wrong.
fn run(threads: usize, time: Duration) -> (Figures, Vec<String>) {
    let (caches, start) = (Caches::new(), Instant::now());
    let (until, mut wrong) = (start + time, Vec::new());
    let held: Vec<Held> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| crew::start(scope, "worker", || caches.work(until))).collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).collect()
    });
    let seconds = start.elapsed().as_secs_f64();
    if held.len() < threads {
        wrong.push(format!("{} of {threads} threads panicked", threads - held.len()));
    }
    // What is retired is not free before; nobody uses the caches from here on, so that the picture is exact.
    Domain::global().barrier();
    let info = slab::slabinfo();
    let tally = Held::tally(&held);
    wrong.extend(caches.account(&info, &held));
    wrong.extend(held.iter().filter_map(Held::spoilt));
    drop(held);
    let remarks = caches.remarks();
    wrong.extend(caches.end());
    (Figures::new(&info, threads, seconds, tally, remarks, wrong.is_empty()), wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test: caches are told apart by their names.
    #[test]
    fn every_object_is_accounted_for() {
        let (figures, wrong) = run(3, Duration::from_millis(50));
        assert_eq!(wrong, Vec::<String>::new());
        assert!(figures.verified && figures.tally.retired > 0 && figures.tally.made > figures.tally.held);

        let caches = Caches::new();
        let held = [caches.work(Instant::now())];
        Domain::global().barrier();
        let mut info = slab::slabinfo();
        assert_eq!(caches.account(&info, &held), Vec::<String>::new());
        // An allocator that says something else is told.
        let row = info.caches.iter_mut().find(|row| row.stats.name == "whole").expect("shown");
        row.stats.live += 1;
        info.caches.retain(|row| row.stats.name != "points");
        let told = ["whole: 700 objects are held, 701 are active", "5 of 6 caches are shown"];
        assert_eq!(caches.account(&info, &held), told);
        drop(held);
        assert_eq!(caches.end(), Vec::<String>::new());
    }
}
