//! Threads for a measurement, which either all start or none measures anything.

use std::process;
use std::thread::{Builder, Scope, ScopedJoinHandle};

use crate::output;

/// Starts a thread of this name. One that cannot be started ends the program, with a line and exit code 1: the others already
/// wait for it to begin.
pub(crate) fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> ScopedJoinHandle<'scope, T> {
    Builder::new().name(name.into()).spawn_scoped(scope, work).unwrap_or_else(|error| {
        output::remark(format_args!("quietus: error: a thread could not be started: {error}"));
        process::exit(1)
    })
}
