//! [`Global`]: what the participants of one collector share: a private quietus domain without workers.
//!
//! Handed to by `local`; hands to quietus. Nobody but the participants themselves frees anything, in *turns* (a bounded share each,
//! before a section) and flushes; so no thread is started, and functions run where crossbeam-epoch runs them.

use crate::deferred::Deferred;
use quietus::{Domain, Qsbr, embed::Participant};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Bytes that may wait (what closures let go of is guessed) before those who defer push the grace period, and give way to readers.
/// Twice as many cost as much memory again with large objects, and were not faster.
const BUDGET: usize = 1 << 20;
/// Blocks that are not full are emptied so often, as long as anybody takes turns.
const AGE: Duration = Duration::from_millis(50);

pub(crate) struct Global {
    domain: Domain<Qsbr>,
    made: Instant,
    /// When blocks were last emptied by age, in milliseconds since `made`.
    emptied: AtomicU64,
}

impl Global {
    pub(crate) fn new() -> Global {
        let domain = Domain::<quietus::Memb>::builder().workers(false).debug(false).budget(BUDGET).build_qsbr();
        Global { domain, made: Instant::now(), emptied: AtomicU64::new(0) }
    }

    /// Registers the calling thread.
    pub(crate) fn participant(&self, name: Option<&str>) -> Participant {
        self.domain.participant(name)
    }

    /// Makes a call after a grace period.
    ///
    /// # Safety
    /// 1. The call is valid once, on any thread, at any time from the end of the sections that are open now.
    #[inline]
    pub(crate) unsafe fn defer(&self, d: Deferred) {
        // SAFETY: by (1); the domain goes with its last participant, that is, outside its sections, and no function runs in it then
        // (whoever runs one has a participant).
        unsafe { self.domain.call(d.word, d.function, d.bytes) }
    }

    /// A bounded share of what has to be done. To be called outside sections.
    pub(crate) fn turn(&self) {
        self.domain.turn();
    }

    /// Empties blocks that are not full, if that was long ago.
    pub(crate) fn age(&self) {
        let now = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
        // Relaxed: a clock; of those who come at the same time one is enough.
        let then = self.emptied.load(Relaxed);
        let due = now.saturating_sub(then) >= AGE.as_millis() as u64;
        if due && self.emptied.compare_exchange(then, now, Relaxed, Relaxed).is_ok() {
            self.settle();
        }
    }

    /// Closes what is open, pushes the grace period on, frees what has elapsed.
    pub(crate) fn settle(&self) {
        self.domain.settle();
    }
}
