//! The figures as JSON: in a file that is tried before anything is run, or on standard output.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use super::summary::{Figures, Summary};
use crate::output::{self, Trouble};

/// Where the figures go.
#[derive(Debug)]
pub(super) enum Sink {
    /// `-`: the table has to go elsewhere.
    StandardOutput,
    /// A file that can be written.
    File(PathBuf, File),
}

impl Sink {
    /// Opens it, without touching what may be in it.
    pub(super) fn open(path: &Path) -> Result<Sink, String> {
        if path == Path::new("-") {
            return Ok(Sink::StandardOutput);
        }
        let refused = |error| format!("--json '{}' cannot be written: {error}", path.display());
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(refused)?;
        Ok(Sink::File(path.to_owned(), file))
    }

    /// Writes the figures in place of what was there.
    pub(super) fn write(self, summaries: &[Summary]) -> Result<(), Trouble> {
        let figures: Vec<Figures> = summaries.iter().map(Summary::figures).collect();
        let mut text = serde_json::to_string_pretty(&figures).expect("numbers and strings");
        text.push('\n');
        match self {
            Sink::StandardOutput => output::print(&text),
            Sink::File(path, file) => {
                // By its name, which truncates; a pipe or a device is only written.
                drop(file);
                fs::write(&path, text).map_err(|error| Trouble::of(format_args!("--json '{}'", path.display()), &error))
            }
        }
    }
}
