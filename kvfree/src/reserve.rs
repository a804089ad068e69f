//! The reserve: a few empty blocks for each CPU, so that closing a block needs no allocation, and the flag that asks the worker
//! for more (the page cache and refill worker of the kernel's `kvfree_rcu`).
//!
//! Handed to by [`collect`](crate::collect), which opens blocks, and [`reclaim`](crate::reclaim), which brings them back; hands to
//! the slab crate's page supply.
//!
//! Each CPU's reserve is as deep as the demand of the last round was (blocks taken from it, and misses), between the configured
//! depth and the greatest one; a quieter round makes it half as deep at most. Under memory pressure a refill brings one block, and when
//! nothing is pending any more everything goes back to the page supply.
//!
//! # Ordering
//! The stacks are pair N of the page supply. The refill flag: a miss swaps it to true (AcqRel), the worker clears it last
//! (Release), so N simultaneous misses give one run, and a miss after the clearing gives the next.

use crate::event::event;
use crate::stats::Count;
use crate::sync::{
    AtomicBool, AtomicU32, AtomicU64, Instant,
    Ordering::{AcqRel, Relaxed, Release},
};
use quietus_slab::raw::{self, BlockNo, Site, Stack};
use std::time::Duration;

/// One CPU's reserve.
#[repr(align(64))]
#[derive(Default)]
struct Shelf {
    blocks: Stack,
    count: AtomicU32,
    /// Blocks that it may hold.
    depth: AtomicU32,
    /// Blocks wanted from it since the last round.
    demand: AtomicU32,
    /// Refill work is on its way (`work_in_progress`).
    refilling: AtomicBool,
    /// When it was asked for, in nanoseconds since `born`.
    missed: AtomicU64,
}

/// The time from a miss to the end of the refill: the seed's extra latency window.
#[derive(Default)]
pub(crate) struct Windows {
    pub(crate) count: Count,
    pub(crate) nanoseconds: Count,
    pub(crate) longest: Count,
}

pub(crate) struct Reserve {
    shelves: Box<[Shelf]>,
    least: u32,
    most: u32,
    born: Instant,
    /// Refills are small until then, in nanoseconds since `born`.
    backoff: AtomicU64,
    /// A miss on a constrained path has asked without waking the worker.
    owed: AtomicBool,
    /// Blocks that had to come from elsewhere, by step.
    pub(crate) supply: Count,
    pub(crate) neighbour: Count,
    pub(crate) fresh: Count,
    pub(crate) refills: Count,
    pub(crate) windows: Windows,
}

impl Reserve {
    pub(crate) fn new(least: u32, most: u32) -> Self {
        let shelf = |_| Shelf { depth: AtomicU32::new(least), ..Shelf::default() };
        Reserve {
            shelves: (0..raw::regions()).map(shelf).collect(),
            least,
            most: if least == 0 { 0 } else { most.max(least) },
            born: Instant::now(),
            backoff: AtomicU64::new(0),
            owed: AtomicBool::new(false),
            supply: Count::default(),
            neighbour: Count::default(),
            fresh: Count::default(),
            refills: Count::default(),
            windows: Windows::default(),
        }
    }

    fn now(&self) -> u64 {
        self.born.elapsed().as_nanos() as u64
    }

    /// An empty block for `site`, and whether the worker should be kicked to refill. In order: this CPU's reserve, the lock-free
    /// page supply, a neighbour's reserve, a page never used before (which costs a page fault). `None`: all blocks there can be
    /// are in use. A miss is a reserve and a supply that are both empty: the supply is as good as the reserve while it lasts, and
    /// blocks that went to a barn whole come back through it. On a constrained path the worker is not kicked; the thread's next ordinary
    /// call does it.
    pub(crate) fn get(&self, site: Site, constrained: bool) -> (Option<BlockNo>, bool) {
        let shelf = &self.shelves[site.index() as usize];
        // Relaxed: a request; what it asks for is in the flags of the shelves.
        let owed = !constrained && self.owed.load(Relaxed) && self.owed.swap(false, Relaxed);
        if let Some(b) = shelf.take() {
            return (Some(b), owed);
        }
        if let Some(b) = raw::try_page() {
            self.supply.add(1);
            return (Some(b), owed);
        }
        let kick = self.miss(shelf);
        if kick && constrained {
            // Relaxed: as above.
            self.owed.store(true, Relaxed);
        }
        let kick = kick && !constrained || owed;
        if let Some(b) = self.shelves.iter().find_map(Shelf::take) {
            self.neighbour.add(1);
            return (Some(b), kick);
        }
        let b = raw::page();
        self.fresh.add(u64::from(b.is_some()));
        (b, kick)
    }

    /// Nothing on the shelf, nothing in the supply. True: this miss asks for the refill.
    fn miss(&self, shelf: &Shelf) -> bool {
        // Relaxed: a statistic that the depth follows.
        shelf.demand.fetch_add(1, Relaxed);
        // Relaxed: a hint, and a statistic.
        if !shelf.refilling.load(Relaxed) {
            shelf.missed.store(self.now(), Relaxed);
        }
        // AcqRel: one of N simultaneous misses asks (refill flag).
        self.least > 0 && !shelf.refilling.swap(true, AcqRel)
    }

    /// Takes an empty block back to the reserve of its owner; surplus goes to the page supply.
    pub(crate) fn put(&self, b: BlockNo) {
        // Relaxed: the block is ours (N).
        let owner = b.block().owner.load(Relaxed) as usize;
        match self.shelves.get(owner) {
            Some(shelf) if shelf.put(b) => {}
            _ => raw::put_page(b),
        }
    }

    /// The worker's part: fills every reserve that asked. Returns blocks added.
    pub(crate) fn refill(&self) -> u32 {
        self.refill_with(|| ())
    }

    /// [`refill`](Self::refill), with something to do in the middle of each shelf's run.
    fn refill_with(&self, mut mid: impl FnMut()) -> u32 {
        let mut added = 0;
        let small = self.backs_off();
        for shelf in &self.shelves {
            // Relaxed: a hint; the flag's meaning is in the swap and the clearing.
            if !shelf.refilling.load(Relaxed) {
                continue;
            }
            mid();
            // Relaxed: a count of places, that orders nothing: the stack hands the blocks over (N).
            let depth = if small { 1 } else { shelf.depth.load(Relaxed) };
            // Relaxed: as above.
            while shelf.count.load(Relaxed) < depth {
                if let Some(b) = raw::try_page() {
                    if !shelf.put(b) {
                        raw::put_page(b);
                        break;
                    }
                    added += 1;
                } else if raw::grow(depth) == 0 {
                    break;
                }
            }
            // Relaxed: a statistic.
            let window = self.now().saturating_sub(shelf.missed.load(Relaxed));
            self.windows.count.add(1);
            self.windows.nanoseconds.add(window);
            self.windows.longest.max(window);
            event!(debug, nanoseconds = window, "window without a block");
            // Release: last; a miss from here on asks again (refill flag).
            shelf.refilling.store(false, Release);
            self.refills.add(1);
        }
        added
    }

    /// Has a miss asked for a refill?
    pub(crate) fn wanted(&self) -> bool {
        // Relaxed: a hint; the flag's meaning is in the swap and the clearing.
        self.least > 0 && self.shelves.iter().any(|s| s.refilling.load(Relaxed))
    }

    /// Once for each round of the worker: every reserve becomes as deep as its demand was; surplus goes to the page supply.
    pub(crate) fn adapt(&self) {
        for shelf in &self.shelves {
            // Relaxed: statistics; only this thread changes the depth.
            let (demand, depth) = (shelf.demand.swap(0, Relaxed), shelf.depth.load(Relaxed));
            let new = demand.max(depth / 2).clamp(self.least, self.most);
            // Relaxed: as above.
            shelf.depth.store(new, Relaxed);
            // Relaxed: a count of places, that orders nothing: the stack hands the blocks over (N).
            while shelf.count.load(Relaxed) > new {
                let Some(b) = shelf.take() else { break };
                raw::put_page(b);
            }
        }
    }

    /// From now on, for so long, a refill brings one block.
    pub(crate) fn back_off(&self, pause: Duration) {
        // Relaxed: a time, that orders nothing.
        self.backoff.store(self.now().saturating_add(u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX)), Relaxed);
    }

    /// Is memory short, as far as we were told lately?
    pub(crate) fn backs_off(&self) -> bool {
        // Relaxed: a time, that orders nothing.
        self.now() < self.backoff.load(Relaxed)
    }

    /// Depth of the deepest reserve.
    pub(crate) fn depth(&self) -> u32 {
        // Relaxed: a statistic.
        self.shelves.iter().map(|s| s.depth.load(Relaxed)).max().unwrap_or(0)
    }

    /// Gives everything to the page supply. Returns how many blocks.
    pub(crate) fn empty(&self) -> u32 {
        let mut given = 0;
        for shelf in &self.shelves {
            while let Some(b) = shelf.take() {
                raw::put_page(b);
                given += 1;
            }
        }
        given
    }

    /// Blocks held now.
    pub(crate) fn blocks(&self) -> u32 {
        // Relaxed: a count of places, that orders nothing: the stack hands the blocks over (N).
        self.shelves.iter().map(|s| s.count.load(Relaxed)).sum()
    }
}

impl Shelf {
    fn take(&self) -> Option<BlockNo> {
        let b = self.blocks.pop()?;
        // Relaxed: a statistic that the depth follows.
        self.demand.fetch_add(1, Relaxed);
        // Relaxed: a count of places, that orders nothing: the stack hands the blocks over (N).
        self.count.fetch_sub(1, Relaxed);
        Some(b)
    }
    /// Adds a block unless the shelf is full: the place is taken first, so the reserve never holds more than its depth.
    fn put(&self, b: BlockNo) -> bool {
        // Relaxed: a limit, that orders nothing.
        let depth = self.depth.load(Relaxed);
        // Relaxed: a count of places, that orders nothing: the stack hands the blocks over (N).
        let room = self.count.fetch_update(Relaxed, Relaxed, |n| (n < depth).then_some(n + 1)).is_ok();
        if room {
            b.block().reset(0);
            self.blocks.push(b);
        }
        room
    }
}

#[cfg(all(test, not(quietus_loom)))]
pub(crate) mod tests {
    use super::*;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// The supply of pages is the process's: tests that look at it, and those that change it, take turns.
    pub(crate) fn turn() -> MutexGuard<'static, ()> {
        static TURN: Mutex<()> = Mutex::new(());
        TURN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[test]
    fn never_above_its_depth_and_starts_empty() {
        let _turn = turn();
        let reserve = Reserve::new(3, 3);
        let site = raw::all_sites().next().unwrap();
        assert_eq!(reserve.blocks(), 0);
        let blocks: Vec<BlockNo> = (0..8).map(|_| reserve.get(site, false).0.unwrap()).collect();
        for b in blocks {
            b.block().owner.store(site.index(), Relaxed);
            reserve.put(b);
        }
        assert_eq!(reserve.blocks(), 3);
        reserve.empty();
        assert_eq!(reserve.blocks(), 0);
    }

    #[test]
    fn many_misses_ask_once_and_the_next_round_asks_again() {
        let _turn = turn();
        let reserve = Reserve::new(2, 2);
        let site = raw::all_sites().next().unwrap();
        let mut held = Vec::new();
        while let Some(b) = raw::try_page() {
            held.push(b); // nothing in the supply: every get below misses
        }
        let mut asked = || {
            let (b, kick) = reserve.get(site, false);
            held.push(b.unwrap());
            kick
        };
        assert!(asked());
        assert!(!asked());
        reserve.refill();
        assert_eq!(reserve.blocks(), 2);
        for _ in 0..2 {
            assert!(!asked()); // served from the reserve
        }
        while raw::try_page().is_some() {} // what the refill grew beyond its need
        assert!(asked());
        // The flag is cleared last: a miss while the work runs does not queue it again.
        reserve.refill_with(|| assert!(!asked()));
        reserve.empty();
        held.into_iter().for_each(raw::put_page);
    }

    #[test]
    fn depth_zero_never_asks() {
        let _turn = turn();
        let reserve = Reserve::new(0, 64);
        let site = raw::all_sites().next().unwrap();
        let (b, kick) = reserve.get(site, false);
        assert!(!kick);
        reserve.put(b.unwrap());
        assert_eq!(reserve.blocks(), 0);
    }
}
