//! Taking the time: histograms of nanoseconds, and what reading the clock costs.

use std::time::Instant;

use hdrhistogram::Histogram;

/// Times in nanoseconds, to three digits, up to a minute.
pub(crate) fn nanoseconds() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("constant bounds that are right")
}

/// Nanoseconds since then.
pub(crate) fn since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// What two readings of the clock are apart when nothing lies between them, in the mean: a clock may go in longer steps
/// than that. The longest are left out, where something did lie between.
pub(crate) fn clock_ns() -> u64 {
    let mut apart: Vec<u64> = (0..1_000).map(|_| since(Instant::now())).collect();
    apart.sort_unstable();
    apart.truncate(900);
    (apart.iter().sum::<u64>() as f64 / apart.len() as f64).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_known_histogram() {
        let mut times = nanoseconds();
        (1..=1_000).for_each(|ns| times.saturating_record(ns));
        let at = |quantile| times.value_at_quantile(quantile);
        assert_eq!([at(0.5), at(0.99), at(0.999), at(0.9999), times.max()], [500, 990, 999, 1_000, 1_000]);
    }
}
