//! The `index` command: collects the text, has it run round by round, each run in a process of its own, and reports.
//!
//! `rounds` is the order of all of them, `summary` the medians, `table` and
//! `picture` what is made of those, `progress` what is said meanwhile.

mod rounds;
mod summary;
mod table;
mod picture;
mod progress;

use std::process::ExitCode;

use crate::args::IndexArgs;
use crate::output::{self, Trouble};
use crate::sink::{self, Report, Sink};
use crate::text::Corpus;
use progress::Progress;
use summary::{Figures, Summary};

/// Runs the command. The error is one line about what was asked for; nothing has been run then.
pub(crate) fn index(args: &IndexArgs) -> Result<ExitCode, Trouble> {
    let corpus = Corpus::collect(&args.paths, args.max_files)?;
    let json = Sink::json(args.json.as_deref())?;
    let plot = Sink::plot(args.plot.as_deref())?;
    output::remark(corpus.describe());
    let plan = rounds::Plan::of(args, corpus.files);
    output::remark(plan.describe());

    let mut progress = Progress::over(plan.seconds());
    let summaries = plan.run(&mut progress);
    progress.end();

    let text = table::draw(&summaries, table::width(sink::aside(json.as_ref()))) + "\n";
    let figures: Vec<Figures> = summaries.iter().map(Summary::figures).collect();
    let violations = summaries.iter().flat_map(|summary| &summary.violations);
    Ok(Report {
        text,
        json: json.map(|json| (json, sink::pretty(&figures))),
        plot: plot.map(|plot| (plot, picture::draw(&summaries, &plan.crowd()))),
        wrong: violations.map(|violation| format!("violation: {violation}")).collect(),
    }
    .tell())
}
