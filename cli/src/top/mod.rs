//! The `top` command: a domain at work, looked at from outside. On a terminal the view is drawn again and again in its place;
//! elsewhere there is one report at the end.
//!
//! `workload` are the threads that give it something to do, `view` is what a look consists of and how it is shown.

mod view;
mod workload;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use quietus::Domain;

use crate::args::TopArgs;
use crate::cpu;
use crate::crew;
use crate::numbers::count;
use crate::output::{self, Trouble};
use view::Look;
use workload::Workload;

/// Runs the command.
pub(crate) fn top(args: &TopArgs) -> Result<ExitCode, Trouble> {
    let (threads, workload) = (args.threads(), Workload::new());
    output::remark(format_args!(
        "{} and {} on the global domain, {} s",
        count(threads as u64, "reader"),
        count(threads as u64, "writer"),
        args.seconds
    ));
    thread::scope(|scope| {
        // However this ends, the threads do.
        let _stop = workload.stop_at_the_end();
        for _ in 0..threads {
            crew::start(scope, "reader", || workload.read());
            crew::start(scope, "writer", || workload.write());
        }
        watch(args, &workload)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Looks until the time is over.
fn watch(args: &TopArgs, workload: &Workload) -> Result<(), Trouble> {
    let (time, interval) = (Duration::from_secs_f64(args.seconds), Duration::from_secs_f64(args.interval));
    // The worker is there from the first look on.
    Domain::global();
    cpu::workers_ms_at_first();
    let (terminal, start) = (io::stdout().is_terminal(), Instant::now());
    let first = Look::at(workload, Duration::ZERO);
    let (mut before, mut drawn) = (first.clone(), 0);
    loop {
        let left = time.saturating_sub(start.elapsed());
        thread::sleep(if terminal { interval.min(left) } else { left });
        let look = Look::at(workload, start.elapsed());
        let over = start.elapsed() >= time;
        if terminal && !over {
            let text = view::show(&before, &look);
            // Up to where the one before begins, and nothing below.
            let up = if drawn > 0 { format!("\x1b[{drawn}A\x1b[J") } else { String::new() };
            output::print(&format!("{up}{text}"))?;
            (before, drawn) = (look, text.lines().count());
        } else if over {
            let up = if drawn > 0 { format!("\x1b[{drawn}A\x1b[J") } else { String::new() };
            return output::print(&format!("{up}{}", view::show(&first, &look)));
        }
    }
}
