//! The threads: readers that follow a pointer in one short section after another, and one thread that moves the pointer,
//! waits, and takes back what it led to, again and again.
//!
//! What has been taken back is overwritten: a section that reads that has been overlooked by the wait before.
//!
//! # Ordering
//! The index of the current cell is stored with Release by the thread that waits and loaded with Acquire by readers. What the
//! cells hold is Relaxed: between a reader's last look at a cell and its overwriting lies the grace period.

use std::hint;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::flavours::Flavour;
use crate::crew;
use crate::timing::{nanoseconds, since};

/// What stands in a cell that has been taken back.
const TAKEN: u64 = u64::MAX;
/// How often a reader looks whether it is over.
const GLANCE: u64 = 64;

/// What was measured.
pub(super) struct Measured {
    /// How long each call took.
    pub(super) times: Histogram<u64>,
    /// Sections of all readers.
    pub(super) sections: u64,
    /// Of these, how many read what had been taken back.
    pub(super) torn: u64,
}

/// Two values, of which one is current.
struct Cells {
    values: [AtomicU64; 2],
    current: AtomicUsize,
}

impl Cells {
    /// Follows the pointer. `pause` is called on the way.
    #[inline]
    fn follow(&self, pause: impl FnOnce()) -> u64 {
        // Acquire: with the Release in `turn`.
        let at = self.current.load(Ordering::Acquire);
        pause();
        // Relaxed: see the module.
        self.values[at].load(Ordering::Relaxed)
    }

    /// Puts a value into the other cell, makes that current, waits, and takes the first one back.
    fn turn(&self, value: u64, wait: impl FnOnce()) {
        // Relaxed: only this thread changes it.
        let old = self.current.load(Ordering::Relaxed);
        // Relaxed: handed on by the store below.
        self.values[1 - old].store(value, Ordering::Relaxed);
        // Release: with the Acquire in `follow`.
        self.current.store(1 - old, Ordering::Release);
        wait();
        // Relaxed: see the module.
        self.values[old].store(TAKEN, Ordering::Relaxed);
    }
}

/// Measures for so many seconds.
pub(super) fn run<F: Flavour>(flavour: &F, readers: usize, seconds: f64) -> Measured {
    let cells = Cells { values: [AtomicU64::new(0), AtomicU64::new(TAKEN)], current: AtomicUsize::new(0) };
    let over = AtomicBool::new(false);
    let begin = Barrier::new(readers + 1);
    let mut times = nanoseconds();
    thread::scope(|scope| {
        let read = || {
            let mut reader = flavour.reader();
            // With the first section a thread becomes known; before that there is nobody to wait for.
            F::section(&mut reader, || ());
            begin.wait();
            read::<F>(&mut reader, &cells, &over)
        };
        let reading: Vec<_> = (0..readers).map(|_| crew::start(scope, "reader", read)).collect();
        begin.wait();
        let (start, time) = (Instant::now(), Duration::from_secs_f64(seconds));
        for value in 1.. {
            cells.turn(value, || {
                let call = Instant::now();
                flavour.synchronize();
                times.saturating_record(since(call));
            });
            if start.elapsed() >= time {
                break;
            }
        }
        // Relaxed: it only says to stop.
        over.store(true, Ordering::Relaxed);
        let mut measured = Measured { times, sections: 0, torn: 0 };
        for reader in reading {
            let (sections, torn) = reader.join().expect("readers do not panic");
            measured.sections += sections;
            measured.torn += torn;
        }
        measured
    })
}

/// Reads until it is over. Returns the number of sections, and of those that read what had been taken back.
fn read<F: Flavour>(reader: &mut F::Reader<'_>, cells: &Cells, over: &AtomicBool) -> (u64, u64) {
    let (mut sections, mut torn) = (0, 0);
    loop {
        let value = F::section(reader, || hint::black_box(cells.follow(|| ())));
        torn += u64::from(value == TAKEN);
        sections += 1;
        // Relaxed: it only says to stop.
        if sections % GLANCE == 0 && over.load(Ordering::Relaxed) {
            break;
        }
    }
    (sections, torn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::flavours::{Crossbeam, Memb};

    #[test]
    fn nothing_is_taken_back_too_early() {
        fn holds<F: Flavour>(flavour: &F) {
            let measured = run(flavour, 2, 0.2);
            assert_eq!(measured.torn, 0);
            assert!(measured.sections > 0 && !measured.times.is_empty());
        }
        holds(&Memb);
        holds(&Crossbeam);
    }

    #[test]
    fn a_section_that_is_overlooked_is_seen() {
        let cells = Cells { values: [AtomicU64::new(0), AtomicU64::new(TAKEN)], current: AtomicUsize::new(0) };
        assert_eq!(cells.follow(|| ()), 0);
        cells.turn(1, || assert_eq!(cells.follow(|| ()), 1, "the pointer moves before the wait"));
        // Somebody takes the cell back without waiting for this reader, who is on the way to it.
        assert_eq!(cells.follow(|| cells.turn(2, || ())), TAKEN);
        assert_eq!(cells.follow(|| ()), 2);
    }
}
