//! The distribution of the latencies: how long the slowest one in ten, in a hundred, in a thousand takes.

use hdrhistogram::Histogram;
use plotters::chart::ChartBuilder;
use plotters::coord::combinators::{BindKeyPoints, IntoLogRange};
use plotters::element::{Circle, EmptyElement, Text};
use plotters::series::LineSeries;
use plotters::style::Color;
use plotters::style::text_anchor::{HPos, VPos};

use super::figures::Figures;
use crate::numbers::{count, time};
use crate::picture::{DRAWN, FAINT, INK, LINE, decades, paint, text};

/// The whole picture.
pub(super) fn draw(figures: &Figures, times: &Histogram<u64>) -> String {
    let title =
        format!("synchronize, {}, beside {}", figures.flavour.name(), count(figures.readers as u64, "busy reader"));
    paint((840, 520), &title, &count(figures.count, "call"), |area| {
        let steps = steps(times);
        // One call in so many takes longer.
        let rare = decades(1.0, figures.count as f64);
        let high = decades(figures.min_ns as f64, figures.max_ns as f64);
        let most = rare[rare.len() - 1];
        let mut chart = ChartBuilder::on(area)
            .x_label_area_size(56)
            .y_label_area_size(86)
            .margin_right(24)
            .build_cartesian_2d(
                (1.0..most).log_scale().with_key_points(rare.clone()),
                (high[0]..high[high.len() - 1]).log_scale().with_key_points(high.clone()),
            )
            .expect(DRAWN);
        chart
            .configure_mesh()
            .axis_style(INK)
            .bold_line_style(FAINT)
            .light_line_style(FAINT.mix(0.0))
            .label_style(text(14, (HPos::Center, VPos::Center)))
            .axis_desc_style(text(15, (HPos::Center, VPos::Center)))
            .x_desc("share of the calls that took no longer")
            .y_desc("time of a call")
            .x_label_formatter(&|&one_in| share(one_in))
            .y_label_formatter(&|&ns| tick(ns))
            .draw()
            .expect(DRAWN);
        chart.draw_series(LineSeries::new(steps, LINE.stroke_width(2))).expect(DRAWN);

        let marks = [("p50", 2.0, figures.p50_ns), ("p99", 1e2, figures.p99_ns), ("p99.9", 1e3, figures.p999_ns)];
        // Where there were fewer calls than that, it is the longest, which is marked as such.
        let marks = marks.into_iter().filter(|&(_, one_in, _)| one_in < figures.count as f64);
        let marks: Vec<_> = marks.chain([("longest", (figures.count as f64).max(1.0), figures.max_ns)]).collect();
        // The line rises: below it to the right, and above it to the left, there is room.
        chart
            .draw_series(marks.iter().map(|&(name, x, ns)| {
                let right = x.log10() < most.log10() * 0.6;
                let (off, place) = if right { (8, (HPos::Left, VPos::Top)) } else { (-8, (HPos::Right, VPos::Bottom)) };
                let label = Text::new(format!("{name} {}", time(ns)), (off, off), text(14, place));
                EmptyElement::at((x, ns as f64)) + Circle::new((0, 0), 4, LINE.filled()) + label
            }))
            .expect(DRAWN);
    })
}

/// The distribution as a line: of each time that was met, the share that took less, then the share that took no longer, both
/// as "one in so many takes longer".
fn steps(times: &Histogram<u64>) -> Vec<(f64, f64)> {
    let (all, mut before, mut line) = (times.len(), 0, Vec::new());
    let one_in = |upto: u64| all as f64 / (all - upto).max(1) as f64;
    for bar in times.iter_recorded() {
        let ns = bar.value_iterated_to() as f64;
        line.push((one_in(before), ns));
        before += bar.count_since_last_iteration();
        line.push((one_in(before), ns));
    }
    line
}

/// "One in a thousand takes longer" as 99.9 %.
fn share(one_in: f64) -> String {
    let nines = one_in.log10().round() as usize;
    match nines {
        0..=2 => ["0 %", "90 %", "99 %"][nines].to_owned(),
        more => format!("99.{} %", "9".repeat(more - 2)),
    }
}

/// A power of ten of nanoseconds.
fn tick(ns: f64) -> String {
    match ns.round() as u64 {
        ns @ ..1_000 => format!("{ns} ns"),
        ns @ 1_000..1_000_000 => format!("{} µs", ns / 1_000),
        ns @ 1_000_000..1_000_000_000 => format!("{} ms", ns / 1_000_000),
        ns => format!("{} s", ns / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::FlavourName;
    use crate::latency::run::Measured;
    use crate::timing::nanoseconds;

    fn measured(calls: u64) -> Measured {
        let mut times = nanoseconds();
        (0..calls).for_each(|n| times.saturating_record(9_000 + n * n));
        Measured { times, sections: 1, torn: 0 }
    }

    fn drawn(calls: u64) -> String {
        let measured = measured(calls);
        draw(&Figures::of(FlavourName::Memb, 2, &measured), &measured.times)
    }

    #[test]
    fn axes_and_marks_have_labels() {
        let picture = drawn(2_000);
        for part in [
            "synchronize, memb, beside 2 busy readers",
            "2,000 calls",
            "share of the calls that took no longer",
            "time of a call",
            "99.9 %\n",
            "10 µs\n",
            "10 ms\n",
            "p50 1.0 ms",
            "p99.9 4.0 ms",
            "longest 4.0 ms",
            "<polyline",
        ] {
            assert!(picture.contains(part), "{part} is not in:\n{picture}");
        }
    }

    #[test]
    fn one_call_is_enough() {
        let picture = drawn(1);
        assert!(
            picture.contains("longest 9.0 µs") && !picture.contains("p50") && picture.contains("1 call\n"),
            "{picture}"
        );
    }

    #[test]
    fn the_line_is_the_distribution() {
        let mut times = nanoseconds();
        [10, 10, 20, 40].into_iter().for_each(|ns| times.saturating_record(ns));
        let line = [(1.0, 10.0), (2.0, 10.0), (2.0, 20.0), (4.0, 20.0), (4.0, 40.0), (4.0, 40.0)];
        assert_eq!(steps(&times), line);
    }

    #[test]
    fn ticks_are_whole() {
        assert_eq!(
            [1.0, 10.0, 100.0, 1e3, 1e4, 1e6].map(share),
            ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.9999 %"]
        );
        assert_eq!([1.0, 1e3, 1e5, 1e7, 1e9].map(tick), ["1 ns", "1 µs", "100 µs", "10 ms", "1 s"]);
    }
}
