//! The watchdog: every thread beats; one that does not for half a minute hangs, and the run ends with its name.
//!
//! Threads beat through a [`Beat`] of their own; `leg` starts [`watch`], which ends the process if it has to: threads that hang cannot be
//! joined.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// How long a thread may take for one step.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks.
const REST: Duration = Duration::from_millis(20);

/// One thread's sign of life. Its words are statistics.
#[derive(Debug)]
pub(super) struct Beat {
    name: String,
    beats: AtomicU64,
    ended: AtomicBool,
    doing: Mutex<&'static str>,
}

impl Beat {
    /// Alive.
    pub(super) fn beat(&self) {
        self.beats.fetch_add(1, Relaxed);
    }

    /// Alive, and about to do this, which may take some time.
    pub(super) fn begin(&self, what: &'static str) {
        *self.doing() = what;
        self.beat();
    }

    /// The thread is done.
    pub(super) fn end(&self) {
        self.ended.store(true, Relaxed);
    }

    /// How often it has beaten.
    pub(super) fn count(&self) -> u64 {
        self.beats.load(Relaxed)
    }

    /// Whether the thread still has to do something.
    pub(super) fn lives(&self) -> bool {
        !self.ended.load(Relaxed)
    }

    /// Who it is.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn doing(&self) -> MutexGuard<'_, &'static str> {
        self.doing.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Those of a world.
#[derive(Debug, Default)]
pub(super) struct Beats(Mutex<Vec<Arc<Beat>>>);

impl Beats {
    /// One more thread.
    pub(super) fn add(&self, name: &str) -> Arc<Beat> {
        let beat = Arc::new(Beat {
            name: name.to_owned(),
            beats: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            doing: Mutex::new("its work"),
        });
        let mut all = self.all();
        // Threads that come and go would make it long.
        all.retain(|beat| beat.lives());
        all.push(Arc::clone(&beat));
        beat
    }

    /// Those that live, now.
    pub(super) fn living(&self) -> Vec<Arc<Beat>> {
        self.all().iter().filter(|beat| beat.lives()).map(Arc::clone).collect()
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Beat>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// When each thread was last seen to do something.
#[derive(Debug, Default)]
struct Seen(Vec<(Arc<Beat>, u64, Instant)>);

impl Seen {
    /// Looks at all of them; which have done nothing for too long?
    fn look(&mut self, living: Vec<Arc<Beat>>, now: Instant) -> Vec<Arc<Beat>> {
        let before = std::mem::take(&mut self.0);
        self.0 = living
            .into_iter()
            .map(|beat| {
                let count = beat.count();
                let known = before.iter().find(|(other, then, _)| Arc::ptr_eq(other, &beat) && *then == count);
                let since = known.map_or(now, |&(_, _, since)| since);
                (beat, count, since)
            })
            .collect();
        let late = |since: Instant| now.saturating_duration_since(since) >= PATIENCE;
        self.0.iter().filter(|(_, _, since)| late(*since)).map(|(beat, _, _)| Arc::clone(beat)).collect()
    }
}

/// Watches until it is over. `hang` is told what hangs, and does not return to a program that goes on.
pub(super) fn watch(beats: &Beats, over: &AtomicBool, hang: impl FnOnce(String)) {
    let mut seen = Seen::default();
    // Relaxed: it only says to stop.
    while !over.load(Relaxed) {
        let late = seen.look(beats.living(), Instant::now());
        if !late.is_empty() {
            let each = late.iter().map(|beat| format!("{} at {}", beat.name(), beat.doing()));
            return hang(each.collect::<Vec<_>>().join(", "));
        }
        thread::sleep(REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_beat_hangs() {
        let (beats, start) = (Beats::default(), Instant::now());
        let (busy, idle, gone) = (beats.add("busy"), beats.add("idle"), beats.add("gone"));
        gone.end();
        let mut seen = Seen::default();
        let mut at = |seconds| {
            let late = seen.look(beats.living(), start + Duration::from_secs(seconds));
            late.iter().map(|beat| beat.name().to_owned()).collect::<Vec<_>>()
        };
        assert!(at(0).is_empty());
        busy.beat();
        assert!(at(29).is_empty());
        busy.begin("something");
        assert_eq!(at(30), ["idle"]);
        idle.beat();
        assert!(at(40).is_empty());
        assert_eq!(at(60), ["busy"], "silent since 30");
        assert_eq!(at(75), ["busy", "idle"]);
    }

    #[test]
    fn it_is_said_what_hangs() {
        let beats = Beats::default();
        beats.add("reader").begin("a section");
        let late = beats.living();
        assert_eq!((late[0].name(), *late[0].doing(), late[0].count()), ("reader", "a section", 1));
        watch(&beats, &AtomicBool::new(true), |what| panic!("nothing hangs: {what}"));
    }
}
