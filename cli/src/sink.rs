//! Where figures and pictures go: a file that is tried before anything is run, or standard output. And the end of every
//! command that measures: its text, its files, what was wrong, an exit code.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use crate::output::{self, Trouble};

/// Where something goes.
#[derive(Debug)]
pub(crate) enum Sink {
    /// `-`: the text has to go elsewhere.
    StandardOutput,
    /// A file that can be written: the option that named it, its name, and it.
    File(&'static str, PathBuf, File),
}

impl Sink {
    /// The sink of `--json`, if it was given. Does not touch what may be in the file.
    pub(crate) fn json(path: Option<&Path>) -> Result<Option<Sink>, String> {
        path.map(|path| if path == Path::new("-") { Ok(Sink::StandardOutput) } else { open("--json", path) })
            .transpose()
    }

    /// The sink of `--plot`, if it was given: always a file.
    pub(crate) fn plot(path: Option<&Path>) -> Result<Option<Sink>, String> {
        if path == Some(Path::new("-")) {
            return Err("--plot '-' is no picture's place; allowed: the name of a file".into());
        }
        path.map(|path| open("--plot", path)).transpose()
    }

    /// Writes it in place of what was there.
    fn write(self, text: &str) -> Result<(), Trouble> {
        match self {
            Sink::StandardOutput => output::print(text),
            Sink::File(option, path, file) => {
                // By its name, which truncates; a pipe or a device is only written.
                drop(file);
                fs::write(&path, text)
                    .map_err(|error| Trouble::of(format_args!("{option} '{}'", path.display()), &error))
            }
        }
    }
}

fn open(option: &'static str, path: &Path) -> Result<Sink, String> {
    let refused = |error| format!("{option} '{}' cannot be written: {error}", path.display());
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(refused)?;
    Ok(Sink::File(option, path.to_owned(), file))
}

/// Whether the text goes to standard error, because the figures go to standard output.
pub(crate) fn aside(json: Option<&Sink>) -> bool {
    matches!(json, Some(Sink::StandardOutput))
}

/// Figures as text, over several lines.
pub(crate) fn pretty(figures: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(figures).expect("numbers and strings");
    text.push('\n');
    text
}

/// All that a command has to say at its end.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// For people.
    pub(crate) text: String,
    /// The figures, and where they go.
    pub(crate) json: Option<(Sink, String)>,
    /// The picture, and where it goes.
    pub(crate) plot: Option<(Sink, String)>,
    /// What was wrong with what was measured, a line each.
    pub(crate) wrong: Vec<String>,
}

impl Report {
    /// Says it, each part whatever became of the others: what was measured is not to be lost with one of them.
    pub(crate) fn tell(self) -> ExitCode {
        let aside = aside(self.json.as_ref().map(|(sink, _)| sink));
        let told = [
            if aside { output::print_aside(&self.text) } else { output::print(&self.text) },
            self.json.map_or(Ok(()), |(sink, text)| sink.write(&text)),
            self.plot.map_or(Ok(()), |(sink, picture)| sink.write(&picture)),
        ];
        let mut code = ExitCode::SUCCESS;
        for line in self.wrong {
            output::remark(format_args!("quietus: {line}"));
            code = ExitCode::FAILURE;
        }
        for trouble in told.into_iter().filter_map(Result::err) {
            if let Trouble::Asked(line) | Trouble::Unwritten(line) = trouble {
                output::remark(format_args!("quietus: error: {line}"));
                code = ExitCode::FAILURE;
            }
        }
        code
    }
}
