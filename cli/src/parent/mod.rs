//! The `index` command: collects the text, has it run round by round, each run in a process of its own, and reports.
//!
//! `child` starts one run and waits for it, `rounds` is the order of all of them, `summary` the medians, `table` and
//! `json` what is made of those, `progress` what is said meanwhile.

mod child;
mod json;
mod progress;
mod rounds;
mod summary;
mod table;

use std::process::ExitCode;

use crate::args::IndexArgs;
use crate::text::Corpus;
use progress::Progress;

/// Runs the command. The error is one line about what was asked for; nothing has been run then.
pub(crate) fn index(args: &IndexArgs) -> Result<ExitCode, String> {
    let corpus = Corpus::collect(&args.paths, args.max_files)?;
    let json = args.json.as_deref().map(json::Sink::open).transpose()?;
    eprintln!("{}", corpus.describe());
    let plan = rounds::Plan::of(args, corpus.files);
    eprintln!("{}", plan.describe());

    let mut progress = Progress::over(plan.seconds());
    let summaries = plan.run(&mut progress);
    progress.end();

    println!("{}", table::draw(&summaries));
    if let Some(json) = json {
        json.write(&summaries)?;
    }
    let mut code = ExitCode::SUCCESS;
    for violation in summaries.iter().flat_map(|summary| &summary.violations) {
        eprintln!("quietus: violation: {violation}");
        code = ExitCode::FAILURE;
    }
    Ok(code)
}
