//! How far it is: a bar on a terminal, otherwise a plain line at the end of each run. All on standard error.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// The bar, or none.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    /// Tenths of a second that the runs so far, and this one, are expected to take.
    before: u64,
    until: u64,
    began: Instant,
}

impl Progress {
    /// A bar over so many seconds, if there is somebody to see it.
    pub(super) fn over(seconds: f64) -> Progress {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(tenths(seconds));
            let style = ProgressStyle::with_template("{bar:32} {percent:>3} %  {msg}")
                .expect("a constant template that is right");
            bar.set_style(style.progress_chars("━╸─"));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Progress { bar, before: 0, until: 0, began: Instant::now() }
    }

    /// A run begins that is expected to take so long.
    pub(super) fn begin(&mut self, label: &str, seconds: f64) {
        (self.before, self.until) = (self.until, self.until + tenths(seconds));
        self.began = Instant::now();
        if let Some(bar) = &self.bar {
            bar.set_message(label.to_owned());
        }
    }

    /// Time passes.
    pub(super) fn tick(&self) {
        if let Some(bar) = &self.bar {
            bar.set_position((self.before + tenths(self.began.elapsed().as_secs_f64())).min(self.until));
        }
    }

    /// A line to stay.
    pub(super) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => output::remark(line),
        }
    }

    /// Takes the bar away.
    pub(super) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn tenths(seconds: f64) -> u64 {
    (seconds * 10.0) as u64
}
