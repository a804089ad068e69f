//! Who allocated or freed an object: thread and backtrace.
//!
//! Made by [`check`](super::check), kept in [`sheet`](super::sheet), shown by [`fault`](super::fault).

use std::backtrace::Backtrace;
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::thread::{self, ThreadId};

/// Who did something to an object.
pub struct Owner {
    thread: ThreadId,
    name: Option<String>,
    trace: Backtrace,
}

thread_local! {
    /// Is this thread just being noted? What that allocates is not noted in turn.
    static NOTING: Cell<bool> = const { Cell::new(false) };
}

impl Owner {
    /// This thread, here. `None`: it is being noted already. Costs some microseconds; names are looked up when it is shown.
    pub(super) fn here() -> Option<Arc<Owner>> {
        if NOTING.try_with(|noting| noting.replace(true)) != Ok(false) {
            return None;
        }
        let thread = thread::current();
        let name = thread.name().map(str::to_owned);
        let owner = Arc::new(Owner { thread: thread.id(), name, trace: Backtrace::force_capture() });
        let _ = NOTING.try_with(|noting| noting.set(false));
        Some(owner)
    }

    /// The thread.
    pub fn thread(&self) -> ThreadId {
        self.thread
    }
    /// The thread's name, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
    /// Where it was.
    pub fn backtrace(&self) -> &Backtrace {
        &self.trace
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread '{}' ({:?})", self.name.as_deref().unwrap_or("without a name"), self.thread)
    }
}

impl fmt::Display for Owner {
    /// The thread, and the backtrace from the next line on, each line indented.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)?;
        self.trace.to_string().lines().try_for_each(|line| write!(f, "\n      {line}"))
    }
}
