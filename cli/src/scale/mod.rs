//! The `scale` command: threads that do nothing but allocate and retire, as the kernel's `rcuscale` does with
//! `kfree_rcu_test`, in a domain of their own. Nothing is read, so what it costs is the retiring.
//!
//! `modes` are the ways of retiring, `run` the threads and the account at the end, `sampler` watches what is not freed yet,
//! `figures` is what comes of it.

mod modes;
mod sampler;
mod figures;
mod run;

#[cfg(test)]
mod tests;

use std::process::ExitCode;

use quietus::Domain;

use crate::args::ScaleArgs;
use crate::numbers::count;
use crate::output::{self, Trouble};
use crate::sink::{self, Report, Sink};
use figures::Figures;
use modes::{Mode, Visitor};

/// Runs the command. The error is one line about what was asked for; nothing has been run then.
pub(crate) fn scale(args: &ScaleArgs) -> Result<ExitCode, Trouble> {
    let json = Sink::json(args.json.as_deref())?;
    let (figures, failures) = modes::with(args.mode, args.size(), Run(args))?;
    Ok(Report {
        text: figures.text(),
        json: json.map(|json| (json, sink::pretty(&figures))),
        plot: None,
        wrong: failures.iter().map(|failure| format!("FAILURE: {failure}")).collect(),
    }
    .tell())
}

/// Runs whatever mode it is given.
struct Run<'a>(&'a ScaleArgs);

impl Visitor for Run<'_> {
    type Output = (Figures, Vec<String>);

    fn visit<M: Mode>(self, mode: &M) -> Self::Output {
        let (threads, objects) = (self.0.threads() as u64, self.0.objects());
        let (name, each) = (self.0.mode.name(), count(self.0.allocs, "object"));
        output::remark(format_args!(
            "{name}: {}, {} of {each} each, {} altogether",
            count(threads, "thread"),
            count(self.0.loops, "loop"),
            count(objects, "object")
        ));
        run::run(mode, &Domain::new(), self.0)
    }
}
