//! Litmus tests of a grace period: what a section has written or missed, and what those who wait see of it.
//!
//! *Message passing.* The writer stores x, waits, stores y; a section loads x, then y. A section that missed this x began before the
//! wait, so it has ended before y was stored: it must not see this y.
//!
//! *Store buffering.* The writer stores y, waits, loads x; a section stores x, then loads y. A section that missed this y began before
//! the wait, so the writer must see its x. This is the one that needs the fences on both sides.
//!
//! `leg` runs it by itself, before the crowd comes: two threads that have the processors for themselves meet more often.
//!
//! # Ordering
//! Relaxed, all of it: whatever order there is comes from the grace periods. The log is Release and Acquire.

use std::hint;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use super::flavours::{Flavour, Shape};
use super::random::Random;
use super::tally::{self, Count, Wrong};
use super::watch::Beat;
use super::world::World;

/// Sections that the log holds.
const LOG: usize = 1 << 12;

/// A variable with a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Variable(AtomicU64);

/// What the two threads share.
pub(super) struct Litmus {
    /// Message passing: the writer's.
    passed: [Variable; 2],
    /// Store buffering: the reader's, then the writer's.
    buffered: [Variable; 2],
    /// Of each section its number, and what it saw of the writer's variable.
    log: Box<[[AtomicU64; 2]]>,
}

impl Litmus {
    pub(super) fn new() -> Litmus {
        Litmus {
            passed: Default::default(),
            buffered: Default::default(),
            log: (0..LOG).map(|_| Default::default()).collect(),
        }
    }

    /// A section of the reader, its `number`th.
    fn section(&self, dawdle: impl FnOnce()) -> (u64, u64) {
        let x = self.passed[0].0.load(Relaxed);
        dawdle();
        (x, self.passed[1].0.load(Relaxed))
    }

    fn note(&self, number: u64, saw: u64) {
        let [is, seen] = &self.log[number as usize % LOG];
        seen.store(saw, Relaxed);
        // Release: with the Acquire below: what it saw.
        is.store(number, Release);
    }

    /// What the section of this number saw, once it is known; none if it is not yet, or not any more.
    fn noted(&self, number: u64) -> Option<u64> {
        let [is, seen] = &self.log[number as usize % LOG];
        // Acquire: with the Release above.
        let before = is.load(Acquire);
        // Acquire: so that it is not overtaken by the second look at the number.
        let saw = seen.load(Acquire);
        (before == number && is.load(Relaxed) == number).then_some(saw)
    }

    /// The reader's thread.
    pub(super) fn read<F: Flavour>(&self, world: &World<'_, F>, beat: &Beat, mut random: Random) {
        let mut reader = F::reader(world.domain);
        for number in 1.. {
            let spins = random.below(64);
            let ((x, y), saw) = F::section(&mut reader, Shape::Simple, || {
                // First of all: nothing in the section may help the store along.
                self.buffered[0].0.store(number, Relaxed);
                let saw = self.buffered[1].0.load(Relaxed);
                (self.section(|| (0..spins).for_each(|_| hint::spin_loop())), saw)
            });
            if y > x {
                tally::fail(Wrong::Order, format_args!("message passing: a section saw {x}, then {y}"));
            }
            self.note(number, saw);
            beat.beat();
            if world.stopped() {
                return;
            }
        }
    }

    /// The writer's thread.
    pub(super) fn write<F: Flavour>(&self, world: &World<'_, F>, beat: &Beat) {
        let mut open = None;
        for round in 1.. {
            self.passed[0].0.store(round, Relaxed);
            self.buffered[1].0.store(round, Relaxed);
            beat.begin("a grace period of the litmus tests");
            world.domain.synchronize();
            let seen = self.buffered[0].0.load(Relaxed);
            self.passed[1].0.store(round, Relaxed);
            // The first section whose store was not seen has to have seen ours. It may not be through yet.
            open = self.judge(open.unwrap_or((round, seen + 1)));
            tally::add(Count::Litmus, 1);
            if world.stopped() {
                return;
            }
        }
    }

    /// The first section after those whose stores a round has seen: has it seen the round's? Returned if it is not known yet.
    fn judge(&self, (round, section): (u64, u64)) -> Option<(u64, u64)> {
        match self.noted(section) {
            Some(saw) => {
                if saw < round {
                    let line = "store buffering: a section and a writer that waited for it have both missed a store";
                    tally::fail(Wrong::Order, format_args!("{line} ({section} saw {saw} of {round})"));
                }
                None
            }
            // Relaxed: a hint. Overwritten: it is too late to know.
            None if self.log[section as usize % LOG][0].load(Relaxed) > section => None,
            None => Some((round, section)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_judged_when_they_are_known() {
        let litmus = Litmus::new();
        assert_eq!(litmus.judge((5, 9)), Some((5, 9)), "not through yet");
        litmus.note(9, 5);
        assert_eq!(litmus.judge((5, 9)), None);
        assert_eq!(litmus.noted(9), Some(5));
        litmus.note(9 + LOG as u64, 6);
        assert_eq!((litmus.judge((5, 9)), litmus.noted(9)), (None, None), "overwritten");
    }

    #[test]
    fn a_section_reads_in_order() {
        let litmus = Litmus::new();
        let between = || litmus.passed.iter().for_each(|variable| variable.0.store(3, Relaxed));
        assert_eq!(litmus.section(between), (0, 3), "what a missing wait looks like");
    }
}
