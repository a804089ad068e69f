//! The command `quietus`: live code search over a lock-free map, measurements, and what was detected on this machine.
//!
//! In the order things happen: `alloc` (before `main`), `args` and `complaint` (what was asked for), `text` (what is
//! indexed), then `parent`, which starts a process per `run`, each with an `index` over one `reclaimer`. `scale` measures
//! retiring, `latency` waiting, and `torture` tries to break either; `top`, `slabinfo` and `environment` only look. Who has threads has a `crew`, who has
//! processes a `child`. What any of it says goes through `numbers`, `picture`, `sink` and `output`.

mod alloc;
mod args;
mod complaint;
mod text;
mod child;
mod parent;
mod run;
mod index;
mod reclaimer;
mod scale;
mod latency;
mod torture;
mod top;
mod slabinfo;
mod environment;
mod crew;
mod cpu;
mod timing;
mod numbers;
mod picture;
mod sink;
mod output;

use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;
use clap::error::ErrorKind;
use output::Trouble;

fn main() -> ExitCode {
    let (line, code) = match obey() {
        Ok(code) => return code,
        Err(Trouble::Unread) => return ExitCode::SUCCESS,
        Err(Trouble::Unwritten(line)) => (line, 1),
        Err(Trouble::Asked(line)) => (line, 2),
    };
    output::remark(format_args!("quietus: error: {line}"));
    ExitCode::from(code)
}

fn obey() -> Result<ExitCode, Trouble> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            error.print().map_err(|error| Trouble::of("standard output", &error))?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => return Err(Trouble::Asked(complaint::one_line(&error))),
    };
    complaint::check_environment()?;
    match cli.command {
        None => parent::index(&cli.index),
        Some(Command::Index(args)) => parent::index(&args),
        Some(Command::Scale(args)) => scale::scale(&args),
        Some(Command::Latency(args)) => latency::latency(&args),
        Some(Command::Torture(args)) => torture::torture(&args),
        Some(Command::Top(args)) => top::top(&args),
        Some(Command::Slabinfo(args)) => slabinfo::slabinfo(&args),
        Some(Command::Env) => output::print(&environment::describe()).map(|()| ExitCode::SUCCESS),
        Some(Command::Run) => Ok(run::child().map(|()| ExitCode::SUCCESS)?),
        Some(Command::Leg) => Ok(torture::child().map(|()| ExitCode::SUCCESS)?),
    }
}
