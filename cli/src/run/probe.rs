//! The probe: waits for one grace period every few milliseconds and notes how long it took.

use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Stage;
use crate::reclaimer::Reclaimer;
use crate::timing::{nanoseconds, since};

/// Between two waits. Waiting costs the others something, with a peer that has to be pushed more than with one that wakes
/// its waiters; this keeps it small.
const REST: Duration = Duration::from_millis(10);

/// Probes until the run ends; none if the reclaimer has no grace periods.
pub(super) fn probe<R: Reclaimer>(stage: &Stage<'_, R>) -> Option<Histogram<u64>> {
    let mut took = nanoseconds();
    while !stage.is_over() {
        let start = Instant::now();
        if !stage.map.reclaimer().grace_period() {
            return None;
        }
        took.saturating_record(since(start));
        thread::sleep(REST);
    }
    Some(took)
}
