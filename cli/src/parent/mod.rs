//! The `index` command: collects the text, has it run round by round, each run in a process of its own, and reports.
//!
//! `child` starts one run and waits for it, `rounds` is the order of all of them, `summary` the medians, `table` and
//! `json` what is made of those, `progress` what is said meanwhile.

mod child;
mod rounds;
mod summary;
mod table;
mod json;
mod progress;

use std::process::ExitCode;

use crate::args::IndexArgs;
use crate::output::{self, Trouble};
use crate::text::Corpus;
use json::Sink;
use progress::Progress;

/// Runs the command. The error is one line about what was asked for; nothing has been run then.
pub(crate) fn index(args: &IndexArgs) -> Result<ExitCode, Trouble> {
    let corpus = Corpus::collect(&args.paths, args.max_files)?;
    let json = args.json.as_deref().map(Sink::open).transpose()?;
    output::remark(corpus.describe());
    let plan = rounds::Plan::of(args, corpus.files);
    output::remark(plan.describe());

    let mut progress = Progress::over(plan.seconds());
    let summaries = plan.run(&mut progress);
    progress.end();

    let aside = matches!(json, Some(Sink::StandardOutput));
    let table = table::draw(&summaries, table::width(aside)) + "\n";
    // Each whatever became of the other: what was measured is not to be lost with one of them.
    let told = [
        if aside { output::print_aside(&table) } else { output::print(&table) },
        json.map_or(Ok(()), |json| json.write(&summaries)),
    ];
    let mut code = ExitCode::SUCCESS;
    for violation in summaries.iter().flat_map(|summary| &summary.violations) {
        output::remark(format_args!("quietus: violation: {violation}"));
        code = ExitCode::FAILURE;
    }
    for trouble in told.into_iter().filter_map(Result::err) {
        if let Trouble::Asked(line) | Trouble::Unwritten(line) = trouble {
            output::remark(format_args!("quietus: error: {line}"));
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}
