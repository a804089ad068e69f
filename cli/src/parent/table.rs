//! The figures as a table for people: a row per reclaimer, or on a narrow terminal a block, and below it what the
//! columns leave out.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use quietus::kvfree;

use super::summary::Summary;
use crate::numbers::{grouped, mebibytes, time};
use crate::reclaimer::Kind;

const HEAD: [&str; 10] = [
    "reclaimer",
    "queries/s",
    "list updates/s",
    "retire ns\np50 / p99 / p99.9",
    "grace period\np50 / p99",
    "peak\nunreclaimed",
    "peak RSS",
    "drain",
    "left",
    "verified",
];

/// A terminal with fewer columns than this gets no table, nor one with fewer than the table has: the lines would break.
const NARROW: u16 = 120;

/// The columns of the terminal that is written to, standard error's if `aside`; none if it is not one.
pub(super) fn width(aside: bool) -> Option<u16> {
    let mut table = Table::new();
    if aside {
        table.use_stderr();
    }
    // A terminal that does not know its size says 0.
    table.width().filter(|&columns| columns > 0)
}

/// The table and its notes, for a terminal of so many columns.
pub(super) fn draw(summaries: &[Summary], width: Option<u16>) -> String {
    let table = table(summaries);
    let widest = table.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    let narrow = width.is_some_and(|columns| columns < NARROW || usize::from(columns) < widest);
    let figures = if narrow { stacked(summaries) } else { table };
    format!("{figures}\n{}", notes(summaries))
}

/// A block per reclaimer, a line per column.
fn stacked(summaries: &[Summary]) -> String {
    let line = |(head, value): (&str, String)| format!("{}: {value}\n", head.replace('\n', " "));
    summaries
        .iter()
        .map(|summary| HEAD.into_iter().zip(row(summary)).map(line).collect())
        .collect::<Vec<String>>()
        .join("\n")
}

fn table(summaries: &[Summary]) -> String {
    let mut table = Table::new();
    // As wide as it needs to be, also in a file.
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(HEAD.map(Cell::new));
    for summary in summaries {
        table.add_row(row(summary).map(Cell::new));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

fn row(summary: &Summary) -> [String; 10] {
    let figures = summary.figures();
    let none = || "–".to_owned();
    let (retire, grace) = (figures.retire_ns, figures.grace_period_ns);
    let leaks = summary.kind == Kind::Leak;
    [
        figures.reclaimer.to_owned(),
        format!("{} ±{:.0} %", grouped(figures.queries_per_s as u64), summary.spread(|run| run.queries_per_s)),
        format!("{} ±{:.0} %", grouped(figures.updates_per_s as u64), summary.spread(|run| run.updates_per_s)),
        format!("{} / {} / {}", grouped(retire.p50), grouped(retire.p99), grouped(retire.p999)),
        grace.p50.zip(grace.p99).map_or_else(none, |(p50, p99)| format!("{} / {}", time(p50), time(p99))),
        format!("{}{}", mebibytes(figures.peak_unreclaimed_bytes), if summary.kind.counts() { "" } else { "*" }),
        mebibytes(figures.peak_rss_bytes),
        figures.drain_ms.map_or_else(none, |ms| time((ms * 1e6) as u64)),
        if leaks { "all".to_owned() } else { figures.left_unreclaimed.to_string() },
        if figures.verified { "yes" } else { "NO" }.to_owned(),
    ]
}

fn notes(summaries: &[Summary]) -> String {
    let mut notes = "Medians of the rounds; ± is half their range. One retire in 1,024 is timed, \
                     with the end of its section, less what reading the clock takes.\n\
                     Peak RSS is that of the run's own process, from its start on the finished index.\n\
                     Readers and writers share the machine's cores, so queries and updates trade against each other"
        .to_owned();
    if summaries.iter().any(|summary| summary.kind == Kind::Quietus) {
        let budget = kvfree::Config::default().budget >> 20;
        notes += &format!("; quietus' budget is a target: {budget} MiB unreclaimed before retirers help");
    }
    notes += ".";
    if summaries.iter().any(|summary| !summary.kind.counts()) {
        notes += "\n* keeps no count: peak RSS less what was resident with the finished index before the first update.";
    }
    if summaries.iter().any(|summary| summary.kind == Kind::Sdd) {
        notes += "\nsdd's own owners hold values of fixed size: here each retire allocates a closure that frees.";
    }
    if summaries.iter().any(|summary| summary.kind == Kind::Leak) {
        notes += "\nleak frees nothing: every list costs fresh memory instead, page faults included, and a run stops at 2 GiB.";
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_for_each_and_a_note_for_the_peer() {
        let summaries = Kind::ALL.map(Summary::new);
        let drawn = draw(&summaries, None);
        for name in ["quietus", "crossbeam", "leak", "seize", "sdd's own owners", "* keeps no count"] {
            assert!(drawn.contains(name), "{drawn}");
        }
        assert!(drawn.contains("target: 4 MiB unreclaimed"), "{drawn}");
        let widest = drawn.lines().next().expect("a line").chars().count() as u16;
        assert_eq!(draw(&summaries, Some(widest.max(NARROW))), drawn);
        assert!(draw(&summaries, Some(widest - 1)).starts_with("reclaimer: quietus\n"), "{drawn}");
    }

    #[test]
    fn a_narrow_terminal_gets_a_block_for_each() {
        let summaries = Kind::ALL.map(Summary::new);
        let drawn = draw(&summaries, Some(NARROW - 1));
        let (blocks, notes) = drawn.rsplit_once("\n\n").expect("an empty line before the notes");
        let blocks: Vec<&str> = blocks.split("\n\n").collect();
        assert_eq!(blocks.len(), Kind::ALL.len(), "{drawn}");
        for (block, kind) in blocks.iter().zip(Kind::ALL) {
            assert!(block.starts_with(&format!("reclaimer: {}\nqueries/s: 0 ±0 %\n", kind.name())), "{block}");
            assert!(block.contains("\nretire ns p50 / p99 / p99.9: 0 / 0 / 0\n"), "{block}");
            assert_eq!(block.lines().count(), HEAD.len());
            assert!(block.lines().all(|line| line.contains(": ") && line.chars().count() < 60), "{block}");
        }
        assert!(notes.starts_with("Medians"), "{notes}");
    }
}
