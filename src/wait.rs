//! Waiting for a grace period on the calling thread, which drives it meanwhile.
//!
//! Callers hand in a cookie, or nothing (then one is taken here, after whatever they have unlinked). The wait itself is
//! [`Engine::advance`] again and again: at first at once, because one membarrier and a look at the slots is usually all
//! there is to it, then after a few pauses, then after naps, from 10 µs up to a millisecond. Waiters that come together share
//! grace periods: one drives, the others find their number completed.
//!
//! The processor is not merely offered to others (`sched_yield`): whoever yields has to wait until the others' time is over, some
//! milliseconds, while the reader that is awaited has usually been out of the way after its first microsecond; whoever sleeps comes
//! back before those that run. No reader wakes a waiter, since for that it would have to look whether there is one.
//!
//! A thread must not wait inside a section of the same engine, since it would wait for itself; that is refused in every
//! build.
//!
//! Unsafe for one system call, which sets the calling thread's timer slack for the time of a short nap.

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
    /// Up to 2⁶ pauses at once, 127 in all: a few microseconds, more than a usual section takes.
    const SPINS: u32 = 7;
    const SHORTEST: Duration = Duration::from_micros(10);
    const LONGEST: Duration = Duration::from_millis(1);

    fn new() -> Backoff {
        Backoff { step: 0 }
    }

    fn has_slept(&self) -> bool {
        self.step > Self::SPINS
    }

    fn snooze(&mut self, limit: Duration) {
        if self.step < Self::SPINS {
            for _ in 0..1 << self.step {
                std::hint::spin_loop();
            }
        } else {
            let doublings = (self.step - Self::SPINS).min(7);
            nap((Self::SHORTEST * (1 << doublings)).min(Self::LONGEST).min(limit));
        }
        self.step = self.step.saturating_add(1);
    }
}

/// Sleeps for `time`. What the kernel may add so as to wake several threads at once, the thread's *timer slack*, 50 µs unless
/// somebody has changed it, is cut for a nap that is shorter than that, and then put back.
#[cold]
#[cfg(all(target_os = "linux", not(miri)))]
fn nap(time: Duration) {
    /// The slack is asked for by the system call itself: the C function returns an `int`, and it may be longer than that.
    fn prctl(option: libc::c_int, argument: libc::c_long) -> libc::c_long {
        // SAFETY: both options touch no memory of ours, and change at most the calling thread's timers.
        unsafe { libc::syscall(libc::SYS_prctl, libc::c_long::from(option), argument, 0, 0, 0) }
    }
    // -1 where it is not allowed; 0 for a thread of a real-time class, which has none.
    let slack = prctl(libc::PR_GET_TIMERSLACK, 0);
    let cut = u128::try_from(slack).is_ok_and(|slack| time.as_nanos() < slack);
    if cut {
        prctl(libc::PR_SET_TIMERSLACK, 1);
    }
    std::thread::sleep(time);
    if cut {
        prctl(libc::PR_SET_TIMERSLACK, slack);
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn nap(time: Duration) {
    std::thread::sleep(time);
}
