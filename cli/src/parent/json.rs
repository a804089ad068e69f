//! The figures as JSON, in a file that is tried before anything is run.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use super::summary::{Figures, Summary};

/// A file that can be written.
#[derive(Debug)]
pub(super) struct Sink {
    path: PathBuf,
    file: File,
}

impl Sink {
    /// Opens it, without touching what may be in it.
    pub(super) fn open(path: &Path) -> Result<Sink, String> {
        let refused = |error| {
            format!("--json '{}' cannot be written ({error}); allowed: a file in a writable directory", path.display())
        };
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(refused)?;
        Ok(Sink { path: path.to_owned(), file })
    }

    /// Writes the figures in place of what was there.
    pub(super) fn write(self, summaries: &[Summary]) -> Result<(), String> {
        let figures: Vec<Figures> = summaries.iter().map(Summary::figures).collect();
        let mut text = serde_json::to_string_pretty(&figures).expect("numbers and strings");
        text.push('\n');
        // By its name, which truncates; a pipe or a device is only written.
        drop(self.file);
        fs::write(&self.path, text)
            .map_err(|error| format!("--json '{}' could not be written: {error}", self.path.display()))
    }
}
