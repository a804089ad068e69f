//! The command `quietus`: live code search over a lock-free map, and what was detected on this machine.
//!
//! In the order things happen: `alloc` (before `main`), `args` and `complaint` (what was asked for), `text` (what is
//! indexed), then `parent`, which starts a process per `run`, each with an `index` over one `reclaimer`; `environment`
//! is the other command.

mod alloc;
mod args;
mod complaint;
mod environment;
mod index;
mod parent;
mod reclaimer;
mod run;
mod text;

use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;
use clap::error::ErrorKind;

fn main() -> ExitCode {
    match obey() {
        Ok(code) => code,
        Err(line) => {
            eprintln!("quietus: error: {line}");
            ExitCode::from(2)
        }
    }
}

fn obey() -> Result<ExitCode, String> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            // If nobody reads the help there is nobody to tell.
            let _ = error.print();
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => return Err(complaint::one_line(&error)),
    };
    complaint::check_environment()?;
    match cli.command {
        None => parent::index(&cli.index),
        Some(Command::Index(args)) => parent::index(&args),
        Some(Command::Env) => {
            environment::print();
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Run) => run::child().map(|()| ExitCode::SUCCESS),
    }
}
