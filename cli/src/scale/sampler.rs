//! The sampler: looks every so often how many bytes are retired and not freed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use quietus::Domain;

/// Between two looks. A look reads two words for each processor.
const REST: Duration = Duration::from_micros(100);

/// What was seen.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Level {
    /// How often it looked.
    pub(super) looks: u64,
    /// The most that was seen.
    pub(super) peak: u64,
    /// When it looked last, and what it saw.
    last: Option<(Duration, u64)>,
    /// Bytes times seconds.
    area: f64,
    over: Duration,
}

impl Level {
    /// So much, at this time.
    fn see(&mut self, at: Duration, bytes: u64) {
        if let Some((before, there)) = self.last {
            let time = at.saturating_sub(before);
            self.area += there as f64 * time.as_secs_f64();
            self.over += time;
        }
        self.looks += 1;
        self.peak = self.peak.max(bytes);
        self.last = Some((at, bytes));
    }

    /// The mean over the time it was watched: what was seen counts until the next look.
    pub(super) fn mean(&self) -> f64 {
        if self.over.is_zero() { 0.0 } else { self.area / self.over.as_secs_f64() }
    }
}

/// Watches until it is over.
pub(super) fn watch(domain: &Domain, over: &AtomicBool) -> Level {
    let (start, mut level) = (Instant::now(), Level::default());
    loop {
        // Relaxed: it only says to stop.
        let last = over.load(Ordering::Relaxed);
        level.see(start.elapsed(), domain.stats().kvfree.pending_bytes);
        if last {
            return level;
        }
        thread::sleep(REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_over_time() {
        let mut level = Level::default();
        assert_eq!(level.mean(), 0.0);
        for (ms, bytes) in [(0, 100), (10, 400), (40, 0)] {
            level.see(Duration::from_millis(ms), bytes);
        }
        // 100 for 10 ms, then 400 for 30 ms.
        assert_eq!((level.looks, level.peak, level.mean()), (3, 400, 325.0));
    }
}
