//! [`Ages`]: when some of the queued batches came, so that a report can say how old the oldest one is.
//!
//! Handed to by [`queue`](crate::queue), once for each batch, under its lock; asked by [`Kvfree::stats`](crate::Kvfree::stats).
//!
//! Batches come every few microseconds, so they are noted by the system's coarse clock, which lags behind by a tick (10 ms at most) and costs
//! a fifth of the exact one. Who asks looks at the exact clock: an age may be a tick too long, and is never too short.
//!
//! # Ordering
//! None: the queue's lock.

use std::time::Duration;

/// Times about a sixteenth of the oldest one's age apart from each other.
const AGES: usize = 32;
/// Two that lie closer together than so many nanoseconds are one.
const CLOSE: u64 = 100_000;

pub(crate) struct Ages {
    /// Number of a batch, and when it was queued, in nanoseconds; the oldest first.
    noted: [(u64, u64); AGES],
    used: usize,
}

impl Ages {
    pub(crate) const fn new() -> Ages {
        Ages { noted: [(0, 0); AGES], used: 0 }
    }

    /// Batch `number` is queued now; `oldest` is the oldest that is.
    pub(crate) fn note(&mut self, number: u64, oldest: u64) {
        self.note_at(number, oldest, clock::coarse());
    }

    fn note_at(&mut self, number: u64, oldest: u64, now: u64) {
        if number == oldest {
            self.used = 0;
        }
        // Of those that are not queued any more only the youngest says something: when the oldest came at the earliest.
        let gone = self.noted[..self.used].iter().take_while(|age| age.0 <= oldest).count();
        if gone > 1 {
            self.noted.copy_within(gone - 1..self.used, 0);
            self.used -= gone - 1;
        }
        if let (Some(first), Some(last)) = (self.noted[..self.used].first(), self.noted[..self.used].last())
            && now.saturating_sub(last.1) < (now.saturating_sub(first.1) / 16).max(CLOSE)
        {
            return;
        }
        if self.used == AGES {
            // Every second one: the span has doubled since they were noted.
            (0..AGES / 2).for_each(|i| self.noted[i] = self.noted[2 * i]);
            self.used = AGES / 2;
        }
        self.noted[self.used] = (number, now);
        self.used += 1;
    }

    /// How long ago a batch was queued; or a little longer, when the one noted last before it was.
    pub(crate) fn age(&self, number: u64) -> Option<Duration> {
        Some(Duration::from_nanos(clock::exact().saturating_sub(self.since(number)?)))
    }

    fn since(&self, number: u64) -> Option<u64> {
        self.noted[..self.used].iter().rfind(|age| age.0 <= number).map(|age| age.1)
    }
}

/// Nanoseconds since some moment.
#[cfg(all(target_os = "linux", not(any(quietus_shuttle, miri))))]
mod clock {
    fn read(clock: libc::clockid_t) -> u64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: fills the structure it is given. (Linux has both clocks; should it refuse, nothing has an age.)
        unsafe { libc::clock_gettime(clock, &mut time) };
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }

    /// As of the last tick.
    pub(super) fn coarse() -> u64 {
        read(libc::CLOCK_MONOTONIC_COARSE)
    }

    pub(super) fn exact() -> u64 {
        read(libc::CLOCK_MONOTONIC)
    }
}

#[cfg(not(all(target_os = "linux", not(any(quietus_shuttle, miri)))))]
mod clock {
    use crate::sync::Instant;
    use std::sync::OnceLock;

    pub(super) fn exact() -> u64 {
        static BORN: OnceLock<Instant> = OnceLock::new();
        BORN.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }

    pub(super) fn coarse() -> u64 {
        exact()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By a clock of our own, while nothing is freed and while everything is.
    #[test]
    fn ages_are_right_to_an_eighth() {
        let mut ages = Ages::new();
        let at = |n: u64| n * 1_000_000;
        for n in 1..=100_000 {
            ages.note_at(n, 1, at(n));
        }
        assert_eq!(ages.since(1), Some(at(1)));
        for n in (1..=100_000).step_by(997) {
            let since = ages.since(n).unwrap();
            assert!(since <= at(n) && at(n) - since <= at(100_000 / 8), "{n}");
        }
        for n in 100_001..200_000 {
            ages.note_at(n, n, at(n));
            assert_eq!(ages.since(n), Some(at(n)), "the queue was empty before");
        }
    }

    /// Whatever is freed meanwhile: never younger than it is, and never older than what was noted before the oldest.
    #[test]
    fn what_is_gone_is_forgotten() {
        let mut ages = Ages::new();
        let at = |n: u64| n * 1_000_000;
        for n in 1..=10_000_u64 {
            let oldest = n.saturating_sub(100).max(1);
            ages.note_at(n, oldest, at(n));
            let since = ages.since(oldest).unwrap();
            assert!(since <= at(oldest) && at(oldest) - since <= at(14), "{n}");
        }
    }

    /// The coarse clock is behind the exact one, by a tick at most.
    #[test]
    fn the_coarse_clock_lags() {
        for _ in 0..1000 {
            let (before, coarse, after) = (clock::exact(), clock::coarse(), clock::exact());
            assert!(coarse <= after, "{coarse} {after}");
            assert!(before - before.min(coarse) <= 1_000_000_000, "another clock: {before} {coarse}");
        }
    }
}
