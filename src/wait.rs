//! Waiting for a grace period on the calling thread, which drives it meanwhile.
//!
//! Callers hand in a cookie, or nothing (then one is taken here, after whatever they have unlinked). The wait itself is
//! [`Engine::advance`] again and again: at first at once, because one membarrier and a look at the slots is usually all
//! there is to it, then after a few pauses, then after giving up the processor, then after sleeps of up to a
//! millisecond. Waiters that come together share grace periods: one drives, the others find their number completed.
//!
//! A thread must not wait inside a section of the same engine, since it would wait for itself; that is refused in every
//! build.

use crate::engine::Engine;
use std::fmt;
use std::time::{Duration, Instant};

/// The calling thread is inside a read-side section, and would wait for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InsideSection;

impl fmt::Display for InsideSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "quietus: waiting for a grace period inside one's own read-side section would never end: drop the guard, or take the reader offline, first",
        )
    }
}

impl std::error::Error for InsideSection {}

impl Engine {
    /// Waits until every section that is open now has ended.
    ///
    /// # Panics
    ///
    /// If the calling thread is inside one of them.
    pub(crate) fn synchronize(&self) {
        self.wait_for(self.start());
    }

    /// Waits until `cookie` is elapsed.
    ///
    /// # Panics
    ///
    /// If the calling thread is inside a section of this engine, even if the cookie is elapsed.
    pub(crate) fn wait_for(&self, cookie: u64) {
        if let Err(inside) = self.try_wait_until(cookie, None) {
            panic!("{inside}");
        }
    }

    /// Waits until `cookie` is elapsed or `deadline` has passed. Returns whether it is elapsed.
    pub(crate) fn try_wait_until(&self, cookie: u64, deadline: Option<Instant>) -> Result<bool, InsideSection> {
        self.try_wait(cookie, deadline, || {})
    }

    /// [`try_wait_until`](Self::try_wait_until), with something to do after each sleep.
    pub(crate) fn try_wait(
        &self,
        cookie: u64,
        deadline: Option<Instant>,
        meanwhile: impl FnMut(),
    ) -> Result<bool, InsideSection> {
        if self.is_inside() {
            return Err(InsideSection);
        }
        Ok(wait(deadline, || self.advance(cookie), meanwhile))
    }
}

/// Asks `done` again and again, until it is, or `deadline` has passed; does `meanwhile` after each sleep, and once more at the end of
/// a wait that has slept. Returns whether it is done.
pub(crate) fn wait(deadline: Option<Instant>, mut done: impl FnMut() -> bool, mut meanwhile: impl FnMut()) -> bool {
    let mut backoff = Backoff::new();
    while !done() {
        if backoff.has_slept() {
            meanwhile();
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return false;
        }
        backoff.snooze(left.unwrap_or(Duration::MAX));
    }
    if backoff.has_slept() {
        meanwhile();
    }
    true
}

/// How long to leave the others alone before the next look.
struct Backoff {
    step: u32,
}

impl Backoff {
    /// Up to 2⁵ pauses at once, 63 in all: about a microsecond, more than a usual section takes.
    const SPINS: u32 = 6;
    /// After those: times that the processor is offered to whoever holds things up.
    const YIELDS: u32 = 16;
    const SHORTEST: Duration = Duration::from_micros(50);
    const LONGEST: Duration = Duration::from_millis(1);

    fn new() -> Backoff {
        Backoff { step: 0 }
    }

    fn has_slept(&self) -> bool {
        self.step > Self::SPINS + Self::YIELDS
    }

    fn snooze(&mut self, limit: Duration) {
        if self.step < Self::SPINS {
            for _ in 0..1 << self.step {
                std::hint::spin_loop();
            }
        } else if self.step < Self::SPINS + Self::YIELDS {
            crate::sync::yield_now();
        } else {
            let doublings = (self.step - Self::SPINS - Self::YIELDS).min(5);
            std::thread::sleep((Self::SHORTEST * (1 << doublings)).min(Self::LONGEST).min(limit));
        }
        self.step = self.step.saturating_add(1);
    }
}
