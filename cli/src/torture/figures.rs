//! What a run of `torture` came to: as JSON, and for people, in the manner of rcutorture, with the verdict in the last line.

use std::collections::BTreeMap;

use serde::Serialize;

use super::doors::Door;
use super::leg::{Outcome, Spec};
use super::tally::Count;
use crate::numbers::grouped;
use crate::sink;

impl Outcome {
    /// One leg more.
    pub(super) fn add(&mut self, leg: &str, other: Outcome) {
        fn sum(into: &mut BTreeMap<String, u64>, from: BTreeMap<String, u64>) {
            from.into_iter().for_each(|(name, n)| *into.entry(name).or_default() += n);
        }
        fn row(into: &mut Vec<u64>, from: &[u64]) {
            into.resize(into.len().max(from.len()), 0);
            into.iter_mut().zip(from).for_each(|(sum, n)| *sum += n);
        }
        sum(&mut self.counts, other.counts);
        sum(&mut self.doors, other.doors);
        sum(&mut self.failures, other.failures);
        row(&mut self.pipe, &other.pipe);
        row(&mut self.circulation, &other.circulation);
        self.descriptions.extend(other.descriptions.into_iter().map(|line| format!("{line} ({leg})")));
    }
}

/// All of it.
pub(super) struct Figures<'a> {
    pub(super) args: &'a Spec,
    /// Of all legs together.
    pub(super) seconds: f64,
    pub(super) outcome: &'a Outcome,
}

/// As the JSON has it.
#[derive(Serialize)]
struct Json<'a> {
    flavor: &'static str,
    readers: usize,
    writers: usize,
    seconds: f64,
    seed: u64,
    faults: Vec<&'static str>,
    #[serde(flatten)]
    outcome: &'a Outcome,
    verdict: &'static str,
}

impl Figures<'_> {
    fn verdict(&self) -> &'static str {
        if self.outcome.failures.is_empty() { "SUCCESS" } else { "FAILURE" }
    }

    /// The JSON.
    pub(super) fn json(&self) -> String {
        sink::pretty(&Json {
            flavor: self.args.flavour.name(),
            readers: self.args.readers,
            writers: self.args.writers,
            seconds: self.seconds,
            seed: self.args.seed,
            faults: self.args.faults.iter().map(|fault| fault.name()).collect(),
            outcome: self.outcome,
            verdict: self.verdict(),
        })
    }

    /// What was wrong and how often, in a line.
    pub(super) fn failures(&self) -> String {
        let each = self.outcome.failures.iter().map(|(what, n)| format!("{what} {}", grouped(*n)));
        format!("FAILURE: {}", each.collect::<Vec<_>>().join(", "))
    }

    /// The counts, both rows of the pipe, what was wrong, and the verdict.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, n: u64| text.push_str(&format!("{name:<32}{:>14}\n", grouped(n)));
        let outcome = self.outcome;
        let of = |from: &BTreeMap<String, u64>, name: &str| from.get(name).copied().unwrap_or(0);
        for what in Count::ALL {
            line(what.name(), of(&outcome.counts, what.name()));
        }
        for door in Door::ALL {
            line(door.name(), of(&outcome.doors, door.name()));
        }
        let row = |row: &[u64]| row.iter().map(|n| format!(" {n}")).collect::<String>();
        text.push_str(&format!("Reader Pipe:{}\n", row(&outcome.pipe)));
        text.push_str(&format!("Free-Block Circulation:{}\n", row(&outcome.circulation)));
        text.push_str(&format!("seed {}: the same choices again, not the same schedule\n", self.args.seed));
        if !outcome.failures.is_empty() {
            outcome.descriptions.iter().for_each(|line| text.push_str(&format!("{line}\n")));
            text.push_str(&format!("{}\n", self.failures()));
        }
        text + &format!("End of test: {}\n", self.verdict())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Fault, TortureFlavour};

    fn spec() -> Spec {
        let faults = vec![Fault::Churn];
        Spec { flavour: TortureFlavour::Qsbr, readers: 2, writers: 3, seconds: 1.0, seed: 7, faults }
    }

    fn outcome(failures: &[(&str, u64)]) -> Outcome {
        let map = |pairs: &[(&str, u64)]| pairs.iter().map(|&(name, n)| (name.to_owned(), n)).collect();
        Outcome {
            counts: map(&[("sections", 1_000), ("barriers", 2)]),
            doors: map(&[("retire", 5)]),
            pipe: vec![10, 1, 0],
            circulation: vec![3, 2, 1],
            failures: map(failures),
            descriptions: failures.iter().map(|(name, _)| format!("{name}: how")).collect(),
        }
    }

    #[test]
    fn the_verdict_is_the_last_line() {
        let (spec, good, bad) = (spec(), outcome(&[]), outcome(&[("freed early", 1_200), ("pipe count", 3)]));
        let of = |outcome| Figures { args: &spec, seconds: 2.0, outcome };
        let text = of(&good).text();
        assert!(text.ends_with("\nEnd of test: SUCCESS\n") && !text.contains("FAILURE"), "{text}");
        assert!(text.contains("Reader Pipe: 10 1 0\n") && text.contains("1,000\n"), "{text}");
        let text = of(&bad).text();
        assert!(text.ends_with("\nFAILURE: freed early 1,200, pipe count 3\nEnd of test: FAILURE\n"), "{text}");
        assert!(text.contains("pipe count: how\n"), "{text}");
    }

    #[test]
    fn legs_add_up() {
        let mut whole = outcome(&[]);
        whole.add("second", outcome(&[("hang", 1)]));
        assert_eq!((whole.counts["sections"], whole.doors["retire"], &whole.pipe[..]), (2_000, 10, &[20, 2, 0][..]));
        assert_eq!((whole.failures["hang"], &whole.descriptions[..]), (1, &["hang: how (second)".to_owned()][..]));
    }

    #[test]
    fn the_json_has_the_promised_shape() {
        let (spec, outcome) = (spec(), outcome(&[("hang", 1)]));
        let json = Figures { args: &spec, seconds: 2.0, outcome: &outcome }.json();
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!((&json["flavor"], &json["verdict"], &json["seed"]), (&"qsbr".into(), &"FAILURE".into(), &7.into()));
        assert_eq!((&json["faults"][0], &json["counts"]["barriers"]), (&"churn".into(), &2.into()));
        assert_eq!(json["failures"]["hang"], 1);
    }
}
