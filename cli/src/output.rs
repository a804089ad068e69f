//! What the program says, to readers that may be gone: a pipe closed early, a full device. Nothing here panics.
//!
//! `main` makes an exit code of a [`Trouble`]; `parent` and `environment` say things.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Why the program ends early or with less said than it had to say.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// What was asked for makes no sense, in one line: exit code 2.
    Asked(String),
    /// Something could not be written, in one line: exit code 1.
    Unwritten(String),
    /// Whoever read has stopped: there is nobody to tell, and no mistake.
    Unread,
}

impl From<String> for Trouble {
    fn from(line: String) -> Trouble {
        Trouble::Asked(line)
    }
}

impl Trouble {
    /// What a failed write comes to.
    pub(crate) fn of(what: impl Display, error: &io::Error) -> Trouble {
        match error.kind() {
            ErrorKind::BrokenPipe => Trouble::Unread,
            _ => Trouble::Unwritten(format!("{what} could not be written: {error}")),
        }
    }
}

/// A result, on standard output.
pub(crate) fn print(text: &str) -> Result<(), Trouble> {
    write(io::stdout().lock(), text).map_err(|error| Trouble::of("standard output", &error))
}

/// A result, on standard error because standard output holds another.
pub(crate) fn print_aside(text: &str) -> Result<(), Trouble> {
    write(io::stderr().lock(), text).map_err(|error| Trouble::of("standard error", &error))
}

/// A line that may get lost, on standard error: how far it is, and what was wrong, which the exit code says too.
pub(crate) fn remark(line: impl Display) {
    let _ = write(io::stderr().lock(), &format!("{line}\n"));
}

/// In one piece, so that a reader gets all of it or the writer learns that it did not.
fn write(mut to: impl Write, text: &str) -> io::Result<()> {
    to.write_all(text.as_bytes())?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_is_gone_is_no_mistake() {
        assert!(matches!(Trouble::of("it", &ErrorKind::BrokenPipe.into()), Trouble::Unread));
        let full = Trouble::of("it", &ErrorKind::StorageFull.into());
        assert!(matches!(full, Trouble::Unwritten(line) if line.starts_with("it could not be written: ")));
    }
}
