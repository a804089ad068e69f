//! The figures as a picture: four panels with a row for each reclaimer. Rates are bars from zero; times and memory, which lie
//! orders of magnitude apart, are dots on a logarithmic axis.

use std::ops::Range;

use plotters::chart::ChartBuilder;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::element::{Circle, EmptyElement, PathElement, Rectangle, Text};
use plotters::style::Color;
use plotters::style::text_anchor::{HPos, VPos};

use super::summary::Summary;
use crate::numbers::grouped;
use crate::picture::{Area, DRAWN, FAINT, INK, LINE, OTHER, decades, paint, steps, text};
use crate::reclaimer::Kind;
use crate::run::spec::Outcome;

/// One reclaimer in one panel.
struct Row {
    kind: Kind,
    marks: Marks,
    /// What is written behind it.
    label: String,
}

/// How it is drawn, in the units of the panel.
enum Marks {
    /// From zero, with a line from the second to the third.
    Bar([f64; 3]),
    /// At each of these.
    Dots(Vec<f64>),
}

/// The axis below a panel: where on it a value lies, and what is written at its ticks.
struct Axis {
    logarithmic: bool,
    ticks: Vec<f64>,
    title: &'static str,
}

impl Axis {
    fn place(&self, value: f64) -> f64 {
        if self.logarithmic { value.log10() } else { value }
    }
}

/// Numbers along an axis whose ticks are given: plotters' own puts them elsewhere.
struct Ticked {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Ticked {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<H: KeyPointHint>(&self, _: H) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// The whole picture; `crowd` says who took part.
pub(super) fn draw(summaries: &[Summary], crowd: &str) -> String {
    let below = format!("{crowd}; medians of the rounds, thin lines are half their range either way");
    let height = 110 + 2 * (90 + 34 * summaries.len() as u32);
    paint((1080, height), "Live code search while the index is being rewritten", &below, |area| {
        let panels = area.split_evenly((2, 2));
        rates(&panels[0], "queries per second: more is better", summaries, |run| run.queries_per_s);
        rates(&panels[1], "list updates per second: more is better", summaries, |run| run.updates_per_s);
        times(&panels[2], summaries);
        memory(&panels[3], summaries);
    })
}

fn rates(area: &Area<'_>, title: &'static str, summaries: &[Summary], figure: fn(&Outcome) -> f64) {
    let row = |summary: &Summary| {
        let (rate, spread) = (summary.median(figure), summary.spread(figure));
        let apart = rate * spread / 100.0;
        let label = format!("{} ±{spread:.0} %", grouped(rate as u64));
        Row { kind: summary.kind, marks: Marks::Bar([rate, (rate - apart).max(0.0), rate + apart]), label }
    };
    let most = |summary: &Summary| summary.median(figure) * (1.0 + summary.spread(figure) / 100.0);
    let most = summaries.iter().map(most).fold(1.0, f64::max);
    panel(area, &Axis { logarithmic: false, ticks: steps(most), title }, summaries.iter().map(row).collect());
}

fn times(area: &Area<'_>, summaries: &[Summary]) {
    let row = |summary: &Summary| {
        let retire = summary.figures().retire_ns;
        let times = [retire.p50, retire.p99, retire.p999];
        // Less than the clock can tell is drawn as 1 ns, and written as it is.
        let dots = times.map(|ns| ns.max(1) as f64).to_vec();
        Row { kind: summary.kind, marks: Marks::Dots(dots), label: format!("{} ns", times.map(grouped).join(" / ")) }
    };
    let most = summaries.iter().map(|summary| summary.figures().retire_ns.p999).max().unwrap_or(1);
    let title = "ns that a retire takes, p50 / p99 / p99.9: less is better";
    panel(
        area,
        &Axis { logarithmic: true, ticks: decades(1.0, most as f64), title },
        summaries.iter().map(row).collect(),
    );
}

fn memory(area: &Area<'_>, summaries: &[Summary]) {
    let peak = |summary: &Summary| summary.figures().peak_unreclaimed_bytes as f64 / f64::from(1 << 20);
    let row = |summary: &Summary| {
        let about = if summary.kind.counts() { "" } else { " (by RSS)" };
        let label = format!("{:.1} MiB{about}", peak(summary));
        Row { kind: summary.kind, marks: Marks::Dots(vec![peak(summary).max(0.1)]), label }
    };
    let most = summaries.iter().map(peak).fold(1.0, f64::max);
    let title = "MiB retired and not freed, at the peak: less is better";
    panel(area, &Axis { logarithmic: true, ticks: decades(0.1, most), title }, summaries.iter().map(row).collect());
}

/// Draws a panel: the reclaimers on the left, the axis below, behind each mark its label.
fn panel(area: &Area<'_>, axis: &Axis, rows: Vec<Row>) {
    let ticks: Vec<f64> = axis.ticks.iter().map(|&tick| axis.place(tick)).collect();
    let (from, to) = (ticks[0], ticks[ticks.len() - 1]);
    let middle = |row: usize| (rows.len() - row) as f64 - 0.5;
    let middles: Vec<f64> = (0..rows.len()).rev().map(middle).collect();
    let name = |&y: &f64| rows.get((rows.len() as f64 - y) as usize).map_or("", |row| row.kind.name()).to_owned();
    let mut chart = ChartBuilder::on(area)
        .x_label_area_size(52)
        .y_label_area_size(84)
        .margin(10)
        // Beyond the last tick there is room for a label.
        .build_cartesian_2d(
            Ticked { range: from..from + (to - from) * 1.4, ticks },
            Ticked { range: 0.0..rows.len() as f64, ticks: middles },
        )
        .expect(DRAWN);
    chart
        .configure_mesh()
        .disable_y_mesh()
        .axis_style(INK)
        .bold_line_style(FAINT)
        .light_line_style(FAINT.mix(0.0))
        .label_style(text(14, (HPos::Center, VPos::Center)))
        .axis_desc_style(text(14, (HPos::Center, VPos::Center)))
        .x_desc(axis.title)
        .x_label_formatter(&|&at| if axis.logarithmic { tick(10_f64.powf(at)) } else { tick(at) })
        .y_label_formatter(&name)
        .draw()
        .expect(DRAWN);
    for (at, row) in rows.iter().enumerate() {
        let y = middle(at);
        let colour = if row.kind == Kind::Quietus { LINE } else { OTHER };
        let end = match &row.marks {
            Marks::Bar([value, least, most]) => {
                let bar = Rectangle::new([(from, y - 0.3), (*value, y + 0.3)], colour.filled());
                chart.draw_series([bar]).expect(DRAWN);
                chart.draw_series([PathElement::new([(*least, y), (*most, y)], INK)]).expect(DRAWN);
                value.max(*most)
            }
            Marks::Dots(values) => {
                let places: Vec<f64> = values.iter().map(|&value| axis.place(value)).collect();
                let dots = places.iter().map(|&x| Circle::new((x, y), 5, colour.filled()));
                chart.draw_series(dots).expect(DRAWN);
                let line = PathElement::new(places.iter().map(|&x| (x, y)).collect::<Vec<_>>(), colour);
                chart.draw_series([line]).expect(DRAWN);
                places.into_iter().fold(from, f64::max)
            }
        };
        let label = Text::new(row.label.clone(), (10, 0), text(13, (HPos::Left, VPos::Center)));
        chart.draw_series([EmptyElement::at((end, y)) + label]).expect(DRAWN);
    }
}

/// A tick's number: whole, or a tenth.
fn tick(value: f64) -> String {
    if value < 0.95 && value > 0.0 { format!("{value:.1}") } else { grouped(value.round() as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::spec::Retire;

    #[test]
    fn panels_have_labels() {
        let mut summaries = Kind::ALL.map(Summary::new);
        for summary in &mut summaries {
            for queries_per_s in [380_000.0, 400_000.0, 420_000.0] {
                let retire_ns = Retire { p50: 0, p99: 350, p999: 12_345 };
                let peak_unreclaimed_bytes = 5 << 20;
                let run = Outcome { queries_per_s, retire_ns, peak_unreclaimed_bytes, ..Outcome::default() };
                summary.add(run, false);
            }
        }
        let picture = draw(&summaries, "2 readers");
        let names = Kind::ALL.map(|kind| format!("\n{}\n", kind.name()));
        let labels = [
            "2 readers; medians of the rounds",
            "queries per second",
            "list updates per second",
            "ns that a retire takes",
            "MiB retired and not freed",
            "\n400,000 ±5 %\n",
            "\n100,000\n",
            "\n0 / 350 / 12,345 ns\n",
            "\n5.0 MiB\n",
            "\n5.0 MiB (by RSS)\n",
            "\n0.1\n",
        ];
        for part in labels.map(str::to_owned).into_iter().chain(names) {
            assert!(picture.contains(&part), "{part} is not in:\n{picture}");
        }
    }

    #[test]
    fn a_reclaimer_without_runs_has_a_row() {
        let picture = draw(&[Summary::new(Kind::Leak)], "nobody");
        assert!(picture.contains("\nleak\n") && picture.contains("\n0 ±0 %\n"), "{picture}");
    }

    #[test]
    fn ticks_are_short() {
        assert_eq!([0.0, 0.1, 1.0, 1_000.0, 500_000.0].map(tick), ["0", "0.1", "1", "1,000", "500,000"]);
    }
}
