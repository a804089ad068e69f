//! Lanes: which open block a retired pointer goes to.
//!
//! Handed to by [`collect`](crate::collect); hands to the slab crate's per-CPU words.
//!
//! | lane | its blocks hold | after the grace period |
//! | --- | --- | --- |
//! | one for each cache | objects of that cache | dropped one by one if their type needs it; the block goes to the barn whole |
//! | mixed (0) | objects of size classes up to 1 KiB; what is retired without its destructor from a cache of such types | grouped by cache |
//! | large | objects with a mapping of their own | unmapped, run by run |
//! | call | pairs (pointer, function) | the functions are called |
//!
//! # Layout
//! `words[lane]` is the per-CPU word of the lane; a lane that was never used has [`Word::NONE`], on which every push fails, so
//! the fast path tests nothing. A `Kvfree` with something to do for each object (debug mode in an optimised build, unbatched mode) hides
//! its words from the fast path by the same means: they stand in a second array.

use crate::sync::{
    AtomicU32, Held, Lock,
    Ordering::{Acquire, Relaxed, Release},
};
use quietus_slab::raw::{BlockNo, SLOTS, WEIGHT_UNIT, Word};

/// What a block holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Objects of one cache.
    Same = 1,
    /// Objects of several.
    Mixed = 2,
    /// Large objects.
    Large = 3,
    /// (pointer, function) pairs.
    Call = 4,
}

impl Kind {
    pub(crate) fn of(b: BlockNo) -> Kind {
        kind(lane_of(b))
    }
    /// Objects in so many slots.
    pub(crate) fn objects(self, slots: u32) -> u64 {
        u64::from(if self == Kind::Call { slots / 2 } else { slots })
    }
}

/// Number of a lane: a cache's id, [`MIXED`], [`LARGE`] or [`CALL`].
pub(crate) type Lane = u16;
pub(crate) const MIXED: Lane = 0;
pub(crate) const LARGE: Lane = quietus_slab::raw::LARGE_LANE;
pub(crate) const CALL: Lane = LARGE + 1;
const LANES: usize = CALL as usize + 1;

/// Bytes of retired objects a block should not exceed.
const BLOCK_TARGET: usize = 32 << 10;

/// The lane that filled a block.
pub(crate) fn lane_of(b: BlockNo) -> Lane {
    // Relaxed: the block is ours, or this is a statistic.
    b.block().lane.load(Relaxed) as Lane
}

pub(crate) fn kind(lane: Lane) -> Kind {
    match lane {
        MIXED => Kind::Mixed,
        LARGE => Kind::Large,
        CALL => Kind::Call,
        _ => Kind::Same,
    }
}

/// Slots of a block for objects of this weight in this lane.
pub(crate) fn capacity(lane: Lane, weight: u32) -> u32 {
    match kind(lane) {
        Kind::Same => ((BLOCK_TARGET / (weight.max(1) as usize * WEIGHT_UNIT)) as u32).clamp(2, SLOTS),
        Kind::Mixed => SLOTS / 2,
        Kind::Large | Kind::Call => SLOTS,
    }
}

pub(crate) struct Lanes {
    /// What the fast path sees.
    words: [AtomicU32; LANES],
    /// The mixed lane's of these.
    mixed: AtomicU32,
    /// Where the words are if it is not to see them.
    hidden: Option<Box<[AtomicU32; LANES]>>,
    /// Words in use, for drains.
    used: Lock<Vec<Word>>,
}

fn none() -> [AtomicU32; LANES] {
    [const { AtomicU32::new(Word::NONE.get()) }; LANES]
}

impl Lanes {
    pub(crate) fn new(hide: bool) -> Self {
        let lanes = Lanes {
            words: none(),
            mixed: AtomicU32::new(Word::NONE.get()),
            hidden: hide.then(|| Box::new(none())),
            used: Lock::new(Vec::with_capacity(LANES)),
        };
        for lane in [MIXED, CALL] {
            let word = Word::allocate().expect("no per-CPU words left (8,183 for all caches and domains)");
            // Relaxed: nobody else knows the lanes yet.
            lanes.slot(lane).store(word.get(), Relaxed);
            if lane == MIXED && !hide {
                // Relaxed: as above.
                lanes.mixed.store(word.get(), Relaxed);
            }
            lanes.used.lock().push(word);
        }
        lanes
    }

    fn slot(&self, lane: Lane) -> &AtomicU32 {
        &self.hidden.as_deref().unwrap_or(&self.words)[usize::from(lane)]
    }

    /// The lane's word as the fast path sees it; [`Word::NONE`] if it was never used, or is hidden.
    ///
    /// # Safety
    /// 1. `lane` is a cache's id, [`MIXED`], [`LARGE`] or [`CALL`].
    #[inline(always)]
    pub(crate) unsafe fn word(&self, lane: Lane) -> Word {
        // Relaxed: the word is a number; what it leads to is zero until a block is installed (R).
        // SAFETY: ids are below `LARGE`, so by (1) the lane exists; stored from `Word::get`.
        unsafe { Word::from_raw(self.words.get_unchecked(usize::from(lane)).load(Relaxed)) }
    }

    /// [`word`](Self::word) of the mixed lane, by a way that does not depend on the object: a processor that guesses the branch
    /// to here need not wait for the object's slab.
    #[inline(always)]
    pub(crate) fn mixed(&self) -> Word {
        // Relaxed: as in `word`.
        // SAFETY: stored from `Word::get`.
        unsafe { Word::from_raw(self.mixed.load(Relaxed)) }
    }

    /// The lane's word, made at first use; never waits, never allocates memory. `None`: all words are in use, or a drain is
    /// looking at them (the mixed or the call lane serves instead; these are there from the start).
    pub(crate) fn open(&self, lane: Lane) -> Option<Word> {
        let slot = self.slot(lane);
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

    /// The lane's word, if it was ever used.
    pub(crate) fn existing(&self, lane: Lane) -> Option<Word> {
        // Acquire: as in `open`.
        let n = self.slot(lane).load(Acquire);
        // SAFETY: stored from `Word::get`.
        (n != Word::NONE.get()).then(|| unsafe { Word::from_raw(n) })
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
    /// 1. Every word is 0 in every region, and nobody uses the lanes any more but by [`with_used`](Self::with_used).
    pub(crate) unsafe fn release(&self) {
        let mut used = self.used.lock();
        let hidden = self.hidden.iter().flat_map(|words| words.iter());
        for slot in self.words.iter().chain(hidden).chain([&self.mixed]) {
            // Relaxed: read under the lock that is held.
            slot.store(Word::NONE.get(), Relaxed);
        }
        for word in used.drain(..) {
            // SAFETY: by (1).
            unsafe { word.release() };
        }
    }
}
