//! What a reclaimer's runs come to: of each figure, the median over the rounds.

use serde::Serialize;

use crate::numbers::rounded;
use crate::reclaimer::Kind;
use crate::run::spec::{GracePeriods, Outcome, Retire};

/// One reclaimer: its runs, and what was wrong with them.
#[derive(Debug)]
pub(super) struct Summary {
    /// Which.
    pub(super) kind: Kind,
    timed: Vec<Outcome>,
    /// Objects left after the barrier, in any of its runs, the verify run too.
    left: u64,
    verify_run: bool,
    /// What was wrong, a line each.
    pub(super) violations: Vec<String>,
}

/// The figures of one reclaimer, as the JSON has them.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    pub(super) reclaimer: &'static str,
    pub(super) queries_per_s: f64,
    pub(super) updates_per_s: f64,
    pub(super) retire_ns: Retire,
    pub(super) grace_period_ns: GracePeriods,
    pub(super) peak_unreclaimed_bytes: u64,
    pub(super) peak_rss_bytes: u64,
    pub(super) drain_ms: Option<f64>,
    pub(super) verified: bool,
    pub(super) left_unreclaimed: u64,
}

impl Summary {
    /// No runs yet.
    pub(super) fn new(kind: Kind) -> Summary {
        Summary { kind, timed: Vec::new(), left: 0, verify_run: false, violations: Vec::new() }
    }

    /// Takes a run in.
    pub(super) fn add(&mut self, outcome: Outcome, verify: bool) {
        self.left = self.left.max(outcome.left_unreclaimed);
        match outcome.violation {
            Some(violation) => self.violations.push(violation),
            None if verify => self.verify_run = true,
            None => self.timed.push(outcome),
        }
    }

    /// Nothing was wrong so far.
    pub(super) fn verified(&self) -> bool {
        self.violations.is_empty()
    }

    /// The medians. Zero where there was no run to the end.
    pub(super) fn figures(&self) -> Figures {
        let of = |figure: fn(&Outcome) -> u64| median(self.timed.iter().map(figure).collect()).unwrap_or(0);
        let maybe = |figure: fn(&Outcome) -> Option<u64>| median(self.timed.iter().filter_map(figure).collect());
        let rate = |figure: fn(&Outcome) -> f64| rounded(self.median(figure));
        let drains = median(self.timed.iter().filter_map(|run| run.drain_ms).collect());
        Figures {
            reclaimer: self.kind.name(),
            queries_per_s: rate(|run| run.queries_per_s),
            updates_per_s: rate(|run| run.updates_per_s),
            retire_ns: Retire {
                p50: of(|run| run.retire_ns.p50),
                p99: of(|run| run.retire_ns.p99),
                p999: of(|run| run.retire_ns.p999),
            },
            grace_period_ns: GracePeriods {
                p50: maybe(|run| run.grace_period_ns.p50),
                p99: maybe(|run| run.grace_period_ns.p99),
            },
            peak_unreclaimed_bytes: of(|run| run.peak_unreclaimed_bytes),
            peak_rss_bytes: of(|run| run.peak_rss_bytes),
            drain_ms: drains.map(rounded),
            verified: self.verified() && self.verify_run,
            left_unreclaimed: self.left,
        }
    }

    /// The median of this figure. Zero where there was no run to the end.
    pub(super) fn median(&self, figure: fn(&Outcome) -> f64) -> f64 {
        median(self.timed.iter().map(figure).collect()).unwrap_or(0.0)
    }

    /// How far the rounds lie apart, in per cent of their median, for this figure.
    pub(super) fn spread(&self, figure: fn(&Outcome) -> f64) -> f64 {
        let values: Vec<f64> = self.timed.iter().map(figure).collect();
        let (low, high) =
            values.iter().fold((f64::MAX, f64::MIN), |(low, high), &value| (low.min(value), high.max(value)));
        median(values).filter(|&middle| middle > 0.0).map_or(0.0, |middle| (high - low) / 2.0 / middle * 100.0)
    }
}

/// The middle one; the upper of the two middle ones if their number is even.
fn median<T: PartialOrd>(mut values: Vec<T>) -> Option<T> {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let middle = values.len() / 2;
    (middle < values.len()).then(|| values.swap_remove(middle))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(queries_per_s: f64, drain_ms: Option<f64>) -> Outcome {
        Outcome { queries_per_s, drain_ms, ..Outcome::default() }
    }

    #[test]
    fn figures_are_medians() {
        let mut summary = Summary::new(Kind::Crossbeam);
        for (queries, drain) in [(3.0, 9.0), (1.0, 7.0), (2.0, 8.0)] {
            summary.add(run(queries, Some(drain)), false);
        }
        assert!(!summary.figures().verified, "the verify run is missing");
        summary.add(run(100.0, None), true);
        let figures = summary.figures();
        assert_eq!((figures.queries_per_s, figures.drain_ms, figures.verified), (2.0, Some(8.0), true));
        assert_eq!(summary.spread(|run| run.queries_per_s), 50.0);
    }

    #[test]
    fn a_violation_shows() {
        let mut summary = Summary::new(Kind::Leak);
        summary.add(Outcome::violated("wrong".into()), false);
        assert!(!summary.verified() && !summary.figures().verified);
        assert_eq!(summary.violations, ["wrong"]);
    }

    #[test]
    fn the_json_has_the_promised_shape() {
        let json = serde_json::to_value(Summary::new(Kind::Leak).figures()).expect("plain data");
        let object = json.as_object().expect("an object");
        let fields: Vec<&str> = object.keys().map(String::as_str).collect();
        let mut promised = [
            "reclaimer",
            "queries_per_s",
            "updates_per_s",
            "retire_ns",
            "grace_period_ns",
            "peak_unreclaimed_bytes",
            "peak_rss_bytes",
            "drain_ms",
            "verified",
            "left_unreclaimed",
        ];
        promised.sort_unstable();
        assert_eq!(fields, promised);
        assert!(json["retire_ns"]["p999"].is_u64() && json["grace_period_ns"]["p50"].is_null());
    }
}
