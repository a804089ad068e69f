//! How long grace periods take: a small histogram that anybody may write to without a lock.
//!
//! The engine's driver records each grace period here; the statistics read quantiles. Buckets are a quarter of a power
//! of two wide, so a quantile is right to within about 20 %.

use crate::sync::stat::{AtomicU64, Relaxed};
use std::time::Duration;

const SUB: usize = 4;
const BUCKETS: usize = 40 * SUB;

/// Durations that fall into one bucket of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Bucket {
    /// The longest that falls into it; the shortest is above the bucket below, at least four fifths of this.
    pub at_most: Duration,
    /// How many there were.
    pub count: u64,
}

/// Counts of durations, by logarithmic bucket.
pub(crate) struct Latency {
    buckets: [AtomicU64; BUCKETS],
}

impl Latency {
    /// An empty histogram.
    pub(crate) const fn new() -> Latency {
        Latency { buckets: [const { AtomicU64::new(0) }; BUCKETS] }
    }

    /// Counts one duration.
    pub(crate) fn record(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanos)].fetch_add(1, Relaxed);
    }

    /// The buckets that are not empty, shortest first.
    pub(crate) fn buckets(&self) -> Vec<Bucket> {
        let counts = self.buckets.iter().map(|count| count.load(Relaxed)).enumerate();
        let bucket = |(index, count)| Bucket { at_most: Duration::from_nanos(upper(index)), count };
        counts.map(bucket).filter(|bucket| bucket.count != 0).collect()
    }

    /// The duration that a share `q` (0 to 1) of all recorded ones did not exceed, rounded up to its bucket's end.
    pub(crate) fn quantile(&self, q: f64) -> Option<Duration> {
        let counts: Vec<u64> = self.buckets.iter().map(|count| count.load(Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let rank = ((total as f64 * q).ceil() as u64).clamp(1, total.max(1));
        let mut below = 0;
        for (index, count) in counts.iter().enumerate() {
            below += count;
            if *count != 0 && below >= rank {
                return Some(Duration::from_nanos(upper(index)));
            }
        }
        None
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < SUB as u64 {
        return nanos as usize;
    }
    let log = 63 - nanos.leading_zeros() as usize;
    let sub = (nanos >> (log - 2)) as usize & (SUB - 1);
    ((log - 1) * SUB + sub).min(BUCKETS - 1)
}

/// The largest number that falls into the bucket.
fn upper(index: usize) -> u64 {
    if index < SUB {
        return index as u64;
    }
    let (log, sub) = (index / SUB + 1, (index % SUB) as u64);
    ((SUB as u64 + sub + 1) << (log - 2)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_within_its_bucket() {
        for nanos in (0..10_000).chain([1 << 20, (1 << 20) + 1, 1 << 39, (1 << 40) - 1]) {
            let index = bucket(nanos);
            assert!(nanos <= upper(index), "{nanos} above {}", upper(index));
            assert!(index == 0 || nanos > upper(index - 1), "{nanos} not above {}", upper(index - 1));
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_close() {
        let latency = Latency::new();
        assert_eq!(latency.quantile(0.5), None);
        for micros in 1..=1000 {
            latency.record(Duration::from_micros(micros));
        }
        let median = latency.quantile(0.5).unwrap().as_micros();
        assert!((500..=625).contains(&median), "{median}");
        let last = latency.quantile(1.0).unwrap().as_micros();
        assert!((1000..=1250).contains(&last), "{last}");
    }
}
