//! The numbers: one sequence that only grows, and how far of it is known to be over.
//!
//! Whoever has unlinked something takes a cookie here ([`Sequence::start`]); a reader copies the current number into its
//! slot; the driver of a grace period reads the number it is going to complete, and says so when it has. A cookie is
//! elapsed when a grace period with that number or a later one has completed.
//!
//! # Ordering
//!
//! A: a reader that sees a number sees every unlink that came before it. E and F: so does a driver. G: whoever sees that
//! a number is completed sees the end of every section that the grace period waited for. All writes to `now` are
//! read-modify-writes with a Release half, so each of them continues the release sequences of all earlier ones: seeing
//! number `n` means seeing the unlinks of all numbers up to `n`.

use crate::sync::{AtomicU64, Line, Ordering, const_unless_loom};

/// The current number and the last completed one.
pub(crate) struct Sequence {
    now: Line<AtomicU64>,
    completed: Line<AtomicU64>,
}

impl Sequence {
    const_unless_loom! {
        /// Starts at 1: in a slot, 0 means "outside".
        pub(crate) fn new() -> Sequence {
            Sequence { now: Line(AtomicU64::new(1)), completed: Line(AtomicU64::new(0)) }
        }
    }

    /// The number a reader stores into its slot.
    #[inline(always)]
    pub(crate) fn enter(&self) -> u64 {
        // Acquire: pairs with the ticket's fetch_add in start (A).
        self.now.0.load(Ordering::Acquire)
    }

    /// Takes a cookie. What the calling thread has unlinked before is covered by the grace period that elapses it.
    ///
    /// It has to be a read-modify-write: a plain load, even a SeqCst one, may overtake the unlink.
    #[inline]
    pub(crate) fn start(&self) -> u64 {
        // AcqRel: pairs with the reader's load in enter (A) and with the driver's in begin (E, F).
        self.now.0.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The number that a grace period which starts now will complete: at least `want`. To be called **before** the
    /// heavy fence.
    pub(crate) fn begin(&self, want: u64) -> u64 {
        // Acquire: pairs with the tickets' fetch_add in start: our heavy fence covers their unlinks (E, F).
        let now = self.now.0.load(Ordering::Acquire);
        if now >= want {
            return now;
        }
        // AcqRel: a cookie that reached us without synchronisation; the newest number is at least that (E, F).
        self.now.0.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Every section that `n` has to wait for has ended.
    pub(crate) fn complete(&self, n: u64) {
        // Release: pairs with the load in elapsed (G).
        self.completed.0.fetch_max(n, Ordering::Release);
    }

    /// A number for the grace period after the last that has completed.
    #[cfg(feature = "epoch")]
    pub(crate) fn running(&self) -> u64 {
        // Relaxed: a report.
        self.completed.0.load(Ordering::Relaxed) + 1
    }

    /// Whether a cookie's grace period is over.
    #[inline]
    pub(crate) fn elapsed(&self, cookie: u64) -> bool {
        // THE PLANTED BUG. This is the one place where `--cfg quietus_no_grace_periods` breaks the library: every
        // cookie is elapsed at once. The torture tests are run on such a build to show that they would notice.
        if cfg!(quietus_no_grace_periods) {
            return true;
        }
        // Acquire: pairs with the fetch_max in complete (G).
        self.completed.0.load(Ordering::Acquire) >= cookie
    }
}
