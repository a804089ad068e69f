//! What a run of `latency` measured: as JSON, and for people.

use serde::Serialize;

use super::run::Measured;
use crate::args::FlavourName;
use crate::numbers::{grouped, time};

/// All of it, as the JSON has it.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    #[serde(rename = "flavor")]
    pub(super) flavour: FlavourName,
    pub(super) readers: usize,
    /// Calls of `synchronize`.
    pub(super) count: u64,
    pub(super) min_ns: u64,
    pub(super) p50_ns: u64,
    pub(super) p99_ns: u64,
    pub(super) p999_ns: u64,
    pub(super) max_ns: u64,
    /// Sections of all readers meanwhile.
    pub(super) sections: u64,
    pub(super) verified: bool,
}

impl Figures {
    /// Those of a run.
    pub(super) fn of(flavour: FlavourName, readers: usize, measured: &Measured) -> Figures {
        let at = |quantile| measured.times.value_at_quantile(quantile);
        Figures {
            flavour,
            readers,
            count: measured.times.len(),
            min_ns: measured.times.min(),
            p50_ns: at(0.5),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            max_ns: measured.times.max(),
            sections: measured.sections,
            verified: measured.torn == 0,
        }
    }

    /// A line for each figure, short enough for a narrow terminal, and what they mean.
    pub(super) fn text(&self) -> String {
        let lines = [
            ("flavour", self.flavour.name().to_owned()),
            ("readers", grouped(self.readers as u64)),
            ("calls", grouped(self.count)),
            ("shortest", time(self.min_ns)),
            ("p50", time(self.p50_ns)),
            ("p99", time(self.p99_ns)),
            ("p99.9", time(self.p999_ns)),
            ("longest", time(self.max_ns)),
            ("sections read", grouped(self.sections)),
            ("verified", if self.verified { "yes" } else { "FAILURE" }.to_owned()),
        ];
        let lines = lines.map(|(name, value)| format!("{name:<15}{value}\n")).concat();
        format!(
            "{lines}\n\
             One thread calls synchronize without a pause; the readers share the machine's cores with it.\n\
             Verified: no section read a value that had been taken back after a call.\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timing::nanoseconds;

    fn measured(torn: u64) -> Measured {
        let mut times = nanoseconds();
        (1..=1_000).for_each(|ns| times.saturating_record(ns));
        Measured { times, sections: 7, torn }
    }

    #[test]
    fn the_json_has_the_promised_shape() {
        let json = serde_json::to_value(Figures::of(FlavourName::Memb, 3, &measured(0))).expect("plain data");
        assert_eq!((&json["flavor"], &json["verified"]), (&"memb".into(), &true.into()));
        let promised =
            [("readers", 3), ("count", 1_000), ("p50_ns", 500), ("p99_ns", 990), ("p999_ns", 999), ("max_ns", 1_000)];
        for (key, value) in promised {
            assert_eq!(json[key], value, "{key}: {json}");
        }
    }

    #[test]
    fn a_torn_section_shows() {
        let figures = Figures::of(FlavourName::Memb, 3, &measured(1));
        assert!(!figures.verified && figures.text().contains("verified       FAILURE\n"), "{}", figures.text());
        let text = Figures::of(FlavourName::Memb, 3, &measured(0)).text();
        let (lines, _) = text.split_once("\n\n").expect("an empty line before the notes");
        assert!(text.contains("p99.9          999 ns\n") && lines.lines().all(|line| line.len() < 40), "{text}");
    }
}
