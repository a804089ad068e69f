//! The reserve: a few empty blocks for each CPU, so that closing a block needs no allocation, and the flag that asks the worker
//! for more (the page cache and refill worker of the kernel's `kvfree_rcu`).
//!
//! Handed to by [`collect`](crate::collect), which opens blocks, and [`reclaim`](crate::reclaim), which brings them back; hands to
//! the slab crate's page supply.
//!
//! # Ordering
//! The stacks are pair N of the page supply. The refill flag: a miss swaps it to true (AcqRel), the worker clears it last
//! (Release), so N simultaneous misses give one run, and a miss after the clearing gives the next.

use quietus_slab::raw::{self, BlockNo, Site, Stack};
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Relaxed, Release},
};

/// One CPU's reserve.
#[repr(align(64))]
#[derive(Default)]
struct Shelf {
    blocks: Stack,
    count: AtomicU32,
    /// Refill work is on its way (`work_in_progress`).
    refilling: AtomicBool,
}

pub(crate) struct Reserve {
    shelves: Box<[Shelf]>,
    depth: u32,
    /// Blocks that had to come from elsewhere, by step.
    pub(crate) supply: AtomicU64,
    pub(crate) neighbour: AtomicU64,
    pub(crate) fresh: AtomicU64,
    pub(crate) refills: AtomicU64,
}

impl Reserve {
    pub(crate) fn new(depth: u32) -> Self {
        Reserve {
            shelves: (0..raw::regions()).map(|_| Shelf::default()).collect(),
            depth,
            supply: AtomicU64::new(0),
            neighbour: AtomicU64::new(0),
            fresh: AtomicU64::new(0),
            refills: AtomicU64::new(0),
        }
    }

    /// An empty block for `site`, and whether the worker should be kicked to refill. In order: this CPU's reserve, the lock-free
    /// page supply, a neighbour's reserve, a page never used before (which costs a page fault). `None`: all blocks there can be
    /// are in use. A miss is a reserve and a supply that are both empty: the supply is as good as the reserve while it lasts, and
    /// blocks that went to a barn whole come back through it.
    pub(crate) fn get(&self, site: Site) -> (Option<BlockNo>, bool) {
        let shelf = &self.shelves[site.index() as usize];
        if let Some(b) = shelf.take() {
            return (Some(b), false);
        }
        if let Some(b) = raw::try_page() {
            // Relaxed: a statistic.
            self.supply.fetch_add(1, Relaxed);
            return (Some(b), false);
        }
        // AcqRel: one of N simultaneous misses asks (refill flag).
        let kick = self.depth > 0 && !shelf.refilling.swap(true, AcqRel);
        if let Some(b) = self.shelves.iter().find_map(Shelf::take) {
            self.neighbour.fetch_add(1, Relaxed);
            return (Some(b), kick);
        }
        let b = raw::page();
        // Relaxed: a statistic.
        self.fresh.fetch_add(u64::from(b.is_some()), Relaxed);
        (b, kick)
    }

    /// Takes an empty block back to the reserve of its owner; surplus goes to the page supply.
    pub(crate) fn put(&self, b: BlockNo) {
        // Relaxed: the block is ours (N).
        let owner = b.block().owner.load(Relaxed) as usize;
        match self.shelves.get(owner) {
            Some(shelf) if shelf.put(b, self.depth) => {}
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
        for shelf in &self.shelves {
            // Relaxed: a hint; the flag's meaning is in the swap and the clearing.
            if !shelf.refilling.load(Relaxed) {
                continue;
            }
            mid();
            // Relaxed: a count of places, that orders nothing: the stack hands the blocks over (N).
            while shelf.count.load(Relaxed) < self.depth {
                if let Some(b) = raw::try_page() {
                    if !shelf.put(b, self.depth) {
                        raw::put_page(b);
                        break;
                    }
                    added += 1;
                } else if raw::grow(self.depth) == 0 {
                    break;
                }
            }
            // Release: last; a miss from here on asks again (refill flag).
            shelf.refilling.store(false, Release);
            self.refills.fetch_add(1, Relaxed);
        }
        added
    }

    /// Has a miss asked for a refill?
    pub(crate) fn wanted(&self) -> bool {
        // Relaxed: a hint; the flag's meaning is in the swap and the clearing.
        self.depth > 0 && self.shelves.iter().any(|s| s.refilling.load(Relaxed))
    }

    /// Gives everything to the page supply.
    pub(crate) fn empty(&self) {
        for shelf in &self.shelves {
            while let Some(b) = shelf.take() {
                raw::put_page(b);
            }
        }
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
        // Relaxed: a count of places, that orders nothing: the stack hands the blocks over (N).
        self.count.fetch_sub(1, Relaxed);
        Some(b)
    }
    /// Adds a block unless `depth` are there: the place is taken first, so the reserve never holds more.
    fn put(&self, b: BlockNo, depth: u32) -> bool {
        // Relaxed: a count of places, that orders nothing: the stack hands the blocks over (N).
        let room = self.count.fetch_update(Relaxed, Relaxed, |n| (n < depth).then_some(n + 1)).is_ok();
        if room {
            b.block().reset(0);
            self.blocks.push(b);
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_above_its_depth_and_starts_empty() {
        let reserve = Reserve::new(3);
        let site = raw::all_sites().next().unwrap();
        assert_eq!(reserve.blocks(), 0);
        let blocks: Vec<BlockNo> = (0..8).map(|_| reserve.get(site).0.unwrap()).collect();
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
        let reserve = Reserve::new(2);
        let site = raw::all_sites().next().unwrap();
        let mut held = Vec::new();
        while let Some(b) = raw::try_page() {
            held.push(b); // nothing in the supply: every get below misses
        }
        let mut asked = || {
            let (b, kick) = reserve.get(site);
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
        let reserve = Reserve::new(0);
        let site = raw::all_sites().next().unwrap();
        let (b, kick) = reserve.get(site);
        assert!(!kick);
        reserve.put(b.unwrap());
        assert_eq!(reserve.blocks(), 0);
    }
}
