//! The `latency` command: how long `synchronize` takes while threads read without a pause.
//!
//! `flavours` are what is measured, `run` the threads, which check that it does wait, `figures` is what comes of it, and
//! `picture` draws it.

mod flavours;
mod figures;
mod picture;
mod run;

use std::process::ExitCode;

use crate::args::{FlavourName, LatencyArgs};
use crate::numbers::count;
use crate::output::{self, Trouble};
use crate::sink::{self, Report, Sink};
use figures::Figures;
use flavours::{Crossbeam, Epoch, Memb, Qsbr};

/// Runs the command. The error is one line about what was asked for; nothing has been run then.
pub(crate) fn latency(args: &LatencyArgs) -> Result<ExitCode, Trouble> {
    let json = Sink::json(args.json.as_deref())?;
    let plot = Sink::plot(args.plot.as_deref())?;
    let (name, readers) = (args.flavor.name(), count(args.readers() as u64, "busy reader"));
    output::remark(format_args!("{name}: {readers}, {} s", args.seconds));
    let measured = match args.flavor {
        FlavourName::Memb => run::run(&Memb, args.readers(), args.seconds),
        FlavourName::Qsbr => run::run(&Qsbr, args.readers(), args.seconds),
        FlavourName::Epoch => run::run(&Epoch, args.readers(), args.seconds),
        FlavourName::Crossbeam => run::run(&Crossbeam, args.readers(), args.seconds),
    };
    let figures = Figures::of(args.flavor, args.readers(), &measured);
    let failure =
        (measured.torn > 0).then(|| format!("FAILURE: {} sections read what had been taken back", measured.torn));
    Ok(Report {
        text: figures.text(),
        json: json.map(|json| (json, sink::pretty(&figures))),
        plot: plot.map(|plot| (plot, picture::draw(&figures, &measured.times))),
        wrong: failure.into_iter().collect(),
    }
    .tell())
}
