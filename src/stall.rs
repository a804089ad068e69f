//! [`Stall`]: a grace period that takes too long, as the hook of [`Builder::on_stall`](crate::Builder::on_stall) is told of it; and
//! when it is to be told.
//!
//! Whoever drives or waits (the worker, `tick`, a thread in `synchronize`) hands in how long the running grace period has taken;
//! hands to the hook.

use crate::registry::Holdout;
use crate::sync::contain;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A grace period that has not ended in the time that [`Builder::stall_after`](crate::Builder::stall_after) allows, or one that has
/// ended after such a report. `Display` gives the line that is written to the standard error if there is no hook.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stall {
    /// The number of the grace period within its domain.
    pub grace_period: u64,
    /// How long it has taken so far, or had taken when it was last seen running: each reader below has been inside its section at least that long.
    pub elapsed: Duration,
    /// The readers that hold it up. Empty for the epoch flavour, since crossbeam-epoch does not tell, and when it is over.
    pub readers: Vec<Holdout>,
    /// It has ended.
    pub over: bool,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.grace_period;
        let time = match self.elapsed.as_millis() {
            short @ ..1000 => format!("{short} ms"),
            long => format!("{:.1} s", long as f64 / 1e3),
        };
        if self.over {
            return write!(f, "quietus: grace period {number} has ended after {time}");
        }
        write!(f, "quietus: grace period {number} has been waiting for {time}")?;
        for (i, reader) in self.readers.iter().enumerate() {
            let name = reader.name.as_deref().unwrap_or("without a name");
            let exited = if reader.exited { ", has exited with a guard" } else { "" };
            let sep = if i == 0 { ", for" } else { "," };
            write!(f, "{sep} thread {} (tid {}, {name}{exited})", reader.thread, reader.tid)?;
        }
        Ok(())
    }
}

/// What is called with a [`Stall`].
#[derive(Clone)]
pub(crate) struct Hook(Arc<dyn Fn(&Stall) + Send + Sync>);

impl Hook {
    pub(crate) fn new(hook: impl Fn(&Stall) + Send + Sync + 'static) -> Hook {
        Hook(Arc::new(hook))
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// When reports are made, to whom, and what has been reported last.
#[derive(Clone, Debug)]
pub(crate) struct Reports {
    pub(crate) after: Duration,
    pub(crate) hook: Option<Hook>,
    /// The grace period that was reported, and is not over as far as we know; 0: none.
    number: u64,
    /// How long it had taken when it was last looked at.
    elapsed: Duration,
    /// The next report of it comes when it has taken so long.
    next: Duration,
}

impl Reports {
    /// The kernel's default.
    pub(crate) const AFTER: Duration = Duration::from_secs(21);

    pub(crate) const fn new() -> Reports {
        Reports { after: Reports::AFTER, hook: None, number: 0, elapsed: Duration::ZERO, next: Duration::ZERO }
    }

    /// Is a stall reported whose end is not?
    pub(crate) fn is_stalled(&self) -> bool {
        self.number != 0
    }

    /// What there is to say of the grace period that runs now, if one does: the end of a stall, or one that has begun or goes on.
    /// `readers` tells who holds a grace period up; `None`: nobody any more.
    pub(crate) fn look(
        &mut self,
        running: Option<(u64, Duration)>,
        readers: impl FnOnce(u64) -> Option<Vec<Holdout>>,
    ) -> Option<Stall> {
        if self.number != 0 && running.is_none_or(|(number, _)| number != self.number) {
            let (grace_period, elapsed) = (std::mem::take(&mut self.number), self.elapsed);
            return Some(Stall { grace_period, elapsed, readers: Vec::new(), over: true });
        }
        let (grace_period, elapsed) = running?;
        if self.number == grace_period {
            self.elapsed = elapsed;
        }
        if elapsed < self.after || self.number == grace_period && elapsed < self.next {
            return None;
        }
        let readers = readers(grace_period)?;
        // Each time twice as long.
        (self.number, self.elapsed, self.next) = (grace_period, elapsed, elapsed.saturating_mul(2));
        Some(Stall { grace_period, elapsed, readers, over: false })
    }

    /// Tells the hook, or the standard error. A hook's panic ends the call, and nothing else.
    pub(crate) fn tell(&self, stall: &Stall) {
        #[cfg(feature = "tracing")]
        contain(|| {
            if stall.over {
                tracing::info!(target: "quietus", number = stall.grace_period, "stall over");
            } else {
                tracing::warn!(target: "quietus", number = stall.grace_period, elapsed = ?stall.elapsed, readers = ?stall.readers, "stall");
            }
        });
        contain(|| match &self.hook {
            Some(hook) => (hook.0)(stall),
            None => eprintln!("{stall}"),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// By a clock of our own: once, then at growing intervals, then its end; nothing for what is no stall.
    #[test]
    fn r_5_reports_come_at_growing_intervals() {
        let mut reports = Reports::new();
        let mut told = Vec::new();
        for second in 0..200 {
            if reports.look(Some((7, seconds(second))), |_| Some(Vec::new())).is_some() {
                told.push(second);
            }
        }
        assert_eq!(told, [21, 42, 84, 168]);
        assert!(reports.is_stalled());
        let end = reports.look(None, |_| None).unwrap();
        assert!(end.over && end.grace_period == 7);
        assert_eq!(end.elapsed, seconds(199), "not only until the last report");
        assert!(!reports.is_stalled());
        assert!(reports.look(None, |_| None).is_none());
        // Long, but not because of a reader.
        assert!(reports.look(Some((8, seconds(100))), |_| None).is_none());
        // The next one stalls before anybody has seen the end of this one.
        assert!(reports.look(Some((9, seconds(30))), |_| Some(Vec::new())).is_some());
        assert!(reports.look(Some((10, seconds(30))), |_| Some(Vec::new())).unwrap().over);
        assert!(!reports.look(Some((10, seconds(30))), |_| Some(Vec::new())).unwrap().over);
    }

    #[test]
    fn r_5_a_stall_never_ends_the_time_that_there_is() {
        let mut reports = Reports { after: Duration::MAX, ..Reports::new() };
        assert!(reports.look(Some((1, seconds(1 << 40))), |_| Some(Vec::new())).is_none());
    }
}
