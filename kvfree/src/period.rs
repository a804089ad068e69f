//! [`Period`]: something is done again when so long has passed, by one of several who come by.
//!
//! Handed to by workers and ticks.
//!
//! # Ordering
//! None: a clock.

use crate::sync::{AtomicU64, Instant, Ordering::Relaxed};
use std::time::Duration;

pub(crate) struct Period {
    born: Instant,
    /// When it was done last, in nanoseconds since `born`.
    last: AtomicU64,
}

impl Period {
    pub(crate) fn new() -> Period {
        Period { born: Instant::now(), last: AtomicU64::new(0) }
    }

    fn now(&self) -> u64 {
        self.born.elapsed().as_nanos() as u64
    }

    /// Has a whole period passed since it was done last? Yes for one caller each time.
    pub(crate) fn is_due(&self, period: Duration) -> bool {
        // Relaxed: a clock; of several callers the exchange lets one.
        let (now, last) = (self.now(), self.last.load(Relaxed));
        u128::from(now.saturating_sub(last)) >= period.as_nanos()
            && self.last.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
    }

    /// It is done: the next period begins now.
    pub(crate) fn done(&self) {
        // Relaxed: a clock.
        self.last.store(self.now(), Relaxed);
    }

    /// When it is to be done again. `None`: not in the time that there is.
    pub(crate) fn due(&self, period: Duration) -> Option<Instant> {
        // Relaxed: a clock.
        (self.born + Duration::from_nanos(self.last.load(Relaxed))).checked_add(period)
    }
}
