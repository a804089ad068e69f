//! What the pictures have in common: SVG in memory, a title, colours, the ends and ticks of a logarithmic axis.
//!
//! `latency` and `parent` draw into it; `sink` writes what comes of it.

use plotters::backend::SVGBackend;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontDesc, FontFamily, FontStyle, RGBColor, TextStyle, WHITE};

/// Where it is drawn.
pub(crate) type Area<'s> = DrawingArea<SVGBackend<'s>, Shift>;
/// Into a string nothing fails.
pub(crate) const DRAWN: &str = "drawn into a string";

/// Text and axes.
pub(crate) const INK: RGBColor = RGBColor(40, 40, 40);
/// Lines to measure by.
pub(crate) const FAINT: RGBColor = RGBColor(222, 222, 222);
/// What was measured.
pub(crate) const LINE: RGBColor = RGBColor(0, 95, 175);
/// The same of others.
pub(crate) const OTHER: RGBColor = RGBColor(140, 140, 140);

/// Text of this size; at a point, it lies where `at` says.
pub(crate) fn text(size: u32, at: (HPos, VPos)) -> TextStyle<'static> {
    let font = FontDesc::new(FontFamily::SansSerif, f64::from(size), FontStyle::Normal);
    TextStyle::from(font).color(&INK).pos(Pos::new(at.0, at.1))
}

/// A picture of this size in pixels, on white, with a title and a line below it.
pub(crate) fn paint(size: (u32, u32), title: &str, below: &str, draw: impl FnOnce(&Area<'_>)) -> String {
    let mut picture = String::new();
    {
        let whole = SVGBackend::with_string(&mut picture, size).into_drawing_area();
        whole.fill(&WHITE).expect(DRAWN);
        let middle = size.0 as i32 / 2;
        whole.draw_text(title, &text(22, (HPos::Center, VPos::Top)), (middle, 14)).expect(DRAWN);
        whole.draw_text(below, &text(14, (HPos::Center, VPos::Top)), (middle, 44)).expect(DRAWN);
        draw(&whole.margin(66, 10, 10, 24));
        whole.present().expect(DRAWN);
    }
    picture
}

/// The powers of ten around these, one of them at least below and one above.
pub(crate) fn decades(least: f64, most: f64) -> Vec<f64> {
    let from = least.max(f64::MIN_POSITIVE).log10().floor() as i32;
    let to = (most.max(f64::MIN_POSITIVE).log10().ceil() as i32).max(from + 1);
    (from..=to).map(|power| 10_f64.powi(power)).collect()
}

/// Round numbers from 0 to this and a little beyond, four steps or so.
pub(crate) fn steps(most: f64) -> Vec<f64> {
    let rough = most.max(f64::MIN_POSITIVE) / 4.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|&step| step >= rough);
    let step = step.unwrap_or(rough);
    (0..=(most / step).ceil() as u32).map(|n| f64::from(n) * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        assert_eq!(steps(700_000.0), [0.0, 2e5, 4e5, 6e5, 8e5]);
        assert_eq!(steps(40.0), [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!(steps(1.0).len(), 3);
    }

    #[test]
    fn decades_go_around() {
        assert_eq!(decades(150.0, 20_000.0), [100.0, 1_000.0, 10_000.0, 100_000.0]);
        assert_eq!(decades(10.0, 10.0), [10.0, 100.0]);
        assert_eq!(decades(1.0, 100.0), [1.0, 10.0, 100.0]);
    }

    #[test]
    fn a_picture_has_its_title() {
        let picture = paint((300, 200), "one & two", "three", |_| ());
        assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"), "{picture}");
        assert!(picture.contains("one &amp; two") && picture.contains("three"), "{picture}");
    }
}
