//! What a leg counts, and what it found wrong. Statics, because destructors and signal handlers count, too, and have nothing else at
//! hand; a leg has its process to itself.
//!
//! Everybody hands in; `leg` makes an outcome of it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::output;

/// An enumeration whose values have names, and a place each in an array.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($variant:ident => $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum $name { $($variant,)* }

        impl $name {
            /// Each of them.
            pub(super) const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// What it is called in the report and in the JSON.
            pub(super) fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}
pub(super) use named;

named! {
    /// What was done. Those up to `Forks` have to be done by every run with the fault that asks for them.
    Count {
        Sections => "sections",
        Nested => "nested sections",
        Repinned => "sections repinned",
        Replaced => "objects replaced",
        Bursts => "bursts of retires",
        Freed => "destructors run",
        Aged => "pipe stages",
        Cookies => "cookies elapsed",
        Timeouts => "waits that timed out",
        Refused => "waits refused inside a section",
        Barriers => "barriers",
        CacheBarriers => "barriers on a cache",
        Litmus => "litmus rounds",
        Stalls => "stalls",
        Floods => "floods",
        Flooded => "objects flooded",
        Threads => "threads come and gone",
        Moves => "moves to other processors",
        Signals => "signals",
        HandlerSections => "sections in handlers",
        HandlerRetires => "retires in handlers",
        Shortages => "shortages of pages",
        NoMemory => "allocations refused",
        Forks => "forks",
    }
}

named! {
    /// What can be wrong.
    Wrong {
        Early => "freed early",
        Twice => "freed twice",
        Lost => "never freed",
        Pipe => "pipe count",
        Cookie => "cookie",
        Order => "ordering",
        Barrier => "barrier",
        Inside => "wait inside a section",
        Stall => "stall",
        Flood => "no forward progress",
        Fork => "fork",
        Books => "statistics",
        Panic => "panic",
        Hang => "hang",
    }
}

/// Of each kind of failure so many are described; more are only counted.
const DESCRIBED: u64 = 3;
/// So many failures end the run.
const ENOUGH: u64 = 50;

static COUNTS: [AtomicU64; Count::ALL.len()] = [const { AtomicU64::new(0) }; Count::ALL.len()];
static FAILURES: [AtomicU64; Wrong::ALL.len()] = [const { AtomicU64::new(0) }; Wrong::ALL.len()];
static ALL_FAILURES: AtomicU64 = AtomicU64::new(0);
static DESCRIPTIONS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// So many more.
pub(super) fn add(what: Count, n: u64) {
    COUNTS[what as usize].fetch_add(n, Relaxed);
}

/// How many so far.
pub(super) fn count(what: Count) -> u64 {
    COUNTS[what as usize].load(Relaxed)
}

/// Something is wrong. Allocates and locks: not for handlers.
#[cold]
pub(super) fn fail(what: Wrong, line: impl Display) {
    if fail_quietly(what) >= DESCRIBED {
        return;
    }
    let line = format!("{}: {line}", what.name());
    output::remark(format_args!("torture: {line}"));
    DESCRIPTIONS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(line);
}

/// The same without a word, for signal handlers. How many there were before.
#[cold]
pub(super) fn fail_quietly(what: Wrong) -> u64 {
    ALL_FAILURES.fetch_add(1, Relaxed);
    FAILURES[what as usize].fetch_add(1, Relaxed)
}

/// Whether there is anything wrong.
pub(super) fn failed() -> bool {
    ALL_FAILURES.load(Relaxed) != 0
}

/// Whether so much is wrong that the rest would tell nothing new.
pub(super) fn hopeless() -> bool {
    ALL_FAILURES.load(Relaxed) >= ENOUGH
}

/// All counts that are not 0.
pub(super) fn counts() -> BTreeMap<String, u64> {
    let counts = Count::ALL.iter().map(|&what| (what.name().to_owned(), count(what)));
    counts.filter(|&(_, n)| n != 0).collect()
}

/// What was wrong, how often; and the descriptions.
pub(super) fn failures() -> (BTreeMap<String, u64>, Vec<String>) {
    let failures = Wrong::ALL.iter().map(|&what| (what.name().to_owned(), FAILURES[what as usize].load(Relaxed)));
    let descriptions = DESCRIPTIONS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
    (failures.filter(|&(_, n)| n != 0).collect(), descriptions)
}
