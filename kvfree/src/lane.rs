//! Lanes: which open block a retired pointer goes to.
//!
//! Handed to by [`collect`](crate::collect); hands to the slab crate's per-CPU words.
//!
//! | lane | its blocks hold | after the grace period |
//! | --- | --- | --- |
//! | one for each cache | objects of that cache | the block goes to the barn whole |
//! | mixed (0) | objects of size classes up to 1 KiB, large objects | grouped by cache |
//! | call | pairs (pointer, function) | the functions are called |
//!
//! # Layout
//! `words[lane]` is the per-CPU word of the lane; a lane that was never used has [`Word::NONE`], on which every push fails, so
//! the fast path tests nothing.

use quietus_slab::raw::{BlockNo, Held, Lock, SLOTS, WEIGHT_UNIT, Word};
use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

/// What a block holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Objects of one cache.
    Same = 1,
    /// Objects of several.
    Mixed = 2,
    /// (pointer, function) pairs.
    Call = 3,
}

impl Kind {
    pub(crate) fn of(b: BlockNo) -> Kind {
        // Relaxed: the block is ours, or this is a statistic.
        match b.block().kind.load(Relaxed) {
            1 => Kind::Same,
            2 => Kind::Mixed,
            _ => Kind::Call,
        }
    }
    /// Objects in so many slots.
    pub(crate) fn objects(self, slots: u32) -> u64 {
        u64::from(if self == Kind::Call { slots / 2 } else { slots })
    }
}

/// Number of a lane: a cache's id, [`MIXED`] or [`CALL`].
pub(crate) type Lane = u16;
pub(crate) const MIXED: Lane = 0;
pub(crate) const CALL: Lane = 4096;
const LANES: usize = 4097;

/// Bytes of retired objects a block should not exceed.
const BLOCK_TARGET: usize = 32 << 10;

pub(crate) fn kind(lane: Lane) -> Kind {
    match lane {
        MIXED => Kind::Mixed,
        CALL => Kind::Call,
        _ => Kind::Same,
    }
}

/// Slots of a block for objects of this weight in this lane.
pub(crate) fn capacity(lane: Lane, weight: u32) -> u32 {
    match kind(lane) {
        Kind::Same => ((BLOCK_TARGET / (weight.max(1) as usize * WEIGHT_UNIT)) as u32).clamp(2, SLOTS),
        Kind::Mixed | Kind::Call => SLOTS,
    }
}

pub(crate) struct Lanes {
    words: [AtomicU32; LANES],
    /// Words in use, for drains.
    used: Lock<Vec<Word>>,
}

impl Lanes {
    pub(crate) fn new() -> Self {
        let lanes = Lanes {
            words: [const { AtomicU32::new(Word::NONE.get()) }; LANES],
            used: Lock::new(Vec::with_capacity(LANES)),
        };
        for lane in [MIXED, CALL] {
            let word = Word::allocate().expect("no per-CPU words left (8,183 for all caches and domains)");
            // Relaxed: nobody else knows the lanes yet.
            lanes.words[usize::from(lane)].store(word.get(), Relaxed);
            lanes.used.lock().push(word);
        }
        lanes
    }

    /// The lane's word; [`Word::NONE`] if it was never used.
    ///
    /// # Safety
    /// 1. `lane` is a cache's id, [`MIXED`] or [`CALL`].
    #[inline(always)]
    pub(crate) unsafe fn word(&self, lane: Lane) -> Word {
        // Relaxed: the word is a number; what it leads to is zero until a block is installed (R).
        // SAFETY: ids are below `CALL`, so by (1) the lane exists; stored from `Word::get`.
        unsafe { Word::from_raw(self.words.get_unchecked(usize::from(lane)).load(Relaxed)) }
    }

    /// The lane's word, made at first use; never waits, never allocates memory. `None`: all words are in use, or a drain is
    /// looking at them (the mixed lane serves instead; it and the call lane are there from the start).
    pub(crate) fn open(&self, lane: Lane) -> Option<Word> {
        let slot = &self.words[usize::from(lane)];
        // Acquire: pairs with the Release below.
        let n = slot.load(Acquire);
        if n != Word::NONE.get() {
            // SAFETY: stored from `Word::get`.
            return Some(unsafe { Word::from_raw(n) });
        }
        let mut used = self.used.try_lock()?;
        // Relaxed: stored under the lock that is held.
        let n = slot.load(Relaxed);
        if n != Word::NONE.get() {
            // SAFETY: stored from `Word::get`.
            return Some(unsafe { Word::from_raw(n) });
        }
        let word = Word::try_allocate()?;
        used.push(word);
        // Release: pairs with the Acquire above.
        slot.store(word.get(), Release);
        Some(word)
    }

    /// The words in use, unless somebody else is looking at them.
    pub(crate) fn try_used(&self) -> Option<Held<'_, Vec<Word>>> {
        self.used.try_lock()
    }

    /// Runs `f` with the words in use. New lanes wait meanwhile.
    pub(crate) fn with_used<R>(&self, f: impl FnOnce(&[Word]) -> R) -> R {
        f(&self.used.lock())
    }

    /// Gives the words back.
    ///
    /// # Safety
    /// 1. Every word is 0 in every region, and nobody uses the lanes any more.
    pub(crate) unsafe fn release(&self) {
        for word in self.used.lock().drain(..) {
            // SAFETY: by (1).
            unsafe { word.release() };
        }
    }
}
