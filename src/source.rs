//! [`Source`]: what a domain asks of its grace periods beyond what `kvfree` does: waiting with a deadline, reports, an end.
//!
//! Handed to by `domain` and `cookie`; one implementation for each flavour.

use crate::engine::Counts;
use crate::registry::Holdout;
use crate::wait::InsideSection;
use crate::watch::Watch;
use quietus_kvfree::{Cookie, GracePeriods};
use std::time::{Duration, Instant};

/// A flavour's grace periods. Clones are handles on the same ones.
///
/// # Safety
/// 1. As [`GracePeriods`]; `push` and `try_wait_until` answer true under the conditions of `poll`.
pub unsafe trait Source: GracePeriods + Clone {
    /// [`GracePeriods::advance`] for callers who may also allocate, and run what others have deferred.
    fn push(&self, number: u64) -> bool;

    /// Waits until `number` is elapsed or `deadline` has passed. Returns whether it is elapsed.
    fn try_wait_until(&self, number: u64, deadline: Option<Instant>) -> Result<bool, InsideSection>;

    /// Waits until `number` is elapsed. Panics inside a section.
    #[track_caller]
    fn wait_for(&self, number: u64) {
        if let Err(inside) = self.try_wait_until(number, None) {
            panic!("{inside}");
        }
    }

    /// A ticker's share of pushing grace periods on, where `advance` does not do all of it.
    fn drive(&self) {}

    /// Who keeps `number` from elapsing.
    fn holdouts(&self, number: u64) -> Vec<Holdout>;

    /// Who waits, and what is said of stalls.
    fn watch(&self) -> &Watch;

    /// The grace period that has begun and not ended, and for how long. The outer `None`: somebody is busy with it just now.
    fn running(&self) -> Option<Option<(u64, Duration)>>;

    /// Who holds up the grace period `number`, for a report; `None`: nobody any more.
    fn stalled_by(&self, number: u64) -> Option<Vec<Holdout>> {
        Some(self.holdouts(number)).filter(|readers| !readers.is_empty())
    }

    /// The statistics so far.
    fn counts(&self) -> Counts;

    /// The domain is going: its own sections that are still open do not count any more.
    ///
    /// # Safety
    /// 1. Nothing is read through sections that were opened through the domain any more.
    unsafe fn end(&self) {}
}

/// The worker's and a ticker's look: pushes the grace period on for those who wait, wakes whose has ended, reports a stall. Never waits.
/// Returns whether somebody is left.
pub(crate) fn attend<S: Source>(source: &S) -> bool {
    let watch = source.watch();
    let mut left = false;
    if let Some(wanted) = watch.wanted() {
        source.advance(Cookie(wanted));
        left = watch.wake(|number| source.poll(Cookie(number)));
    }
    look(source);
    left
}

/// Reports a stall, or the end of one. Never waits.
pub(crate) fn look<S: Source>(source: &S) {
    source.watch().look(|| source.running(), |number| source.stalled_by(number));
}
