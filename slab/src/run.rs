//! Runs: many pointers out of, or into, a CPU's block at once: one section, one commit.
//!
//! Handed to by [`bulk`](crate::bulk); hands to [`rseq`](crate::rseq), or takes a slot's lock once ([`percpu`](crate::percpu)).
//!
//! A run is what fits: as many as the block has, or has room for. The block's other side is the caller's business, who swaps blocks by the
//! slow paths of single objects and comes again.
//!
//! # Ordering
//! That of single pops and pushes (R): pointers are copied where nobody looks before the length is committed.

use crate::page::Block;
use crate::percpu::{Site, Word};
use crate::rseq;
use std::mem::MaybeUninit;
use std::sync::atomic::Ordering::Relaxed;

impl Block {
    /// Moves the newest pointers of an owned block to the front of `out`; how many.
    ///
    /// # Safety
    /// 1. The caller owns the block.
    pub(crate) unsafe fn pop_run(&self, out: &mut [MaybeUninit<*mut u8>]) -> usize {
        // SAFETY: by (1); the slice is used at once.
        let all = unsafe { self.pointers() };
        let (left, run) = all.split_at(all.len().saturating_sub(out.len()));
        if run.is_empty() {
            return 0; // it may be the block that belongs to nobody
        }
        for (slot, &p) in out.iter_mut().zip(run) {
            slot.write(p);
        }
        // Relaxed: the block is ours, or this is a stale look (N).
        self.len.store(left.len() as u32, Relaxed);
        run.len()
    }

    /// Moves pointers from the front of `items` into an owned block, until it is full; how many.
    ///
    /// # Safety
    /// 1. The caller owns the block.
    pub(crate) unsafe fn push_run(&self, items: &[*mut u8]) -> usize {
        // SAFETY: by (1).
        items.iter().take_while(|&&p| unsafe { self.push(p) }).count()
    }
}

impl Word {
    /// Takes pointers from the low block, its newest; they are written to the front of `out`. How many: 0 if it is empty, or it is not
    /// possible just now.
    #[inline]
    pub fn pop_run(self, out: &mut [MaybeUninit<*mut u8>]) -> usize {
        // SAFETY: the slice can be written.
        unsafe { rseq::pop_run(self.get(), out.as_mut_ptr().cast(), out.len() as u64) as usize }
    }

    /// Puts pointers into the low block, from the first on. How many: 0 if it is full, or it is not possible just now.
    #[inline]
    pub fn push_run(self, items: &[*mut u8]) -> usize {
        // SAFETY: the slice can be read.
        unsafe { rseq::push_run(self.get(), items.as_ptr(), items.len() as u64) as usize }
    }

    /// [`pop_run`](Self::pop_run) in a region of the caller's choice.
    pub fn pop_run_at(self, site: Site, out: &mut [MaybeUninit<*mut u8>]) -> usize {
        if site.has_sections() {
            return self.pop_run(out);
        }
        // SAFETY: `with_low` holds the slot's lock, so the low block is ours.
        self.with_low(site, |b| unsafe { b.block().pop_run(out) }).unwrap_or(0)
    }

    /// [`push_run`](Self::push_run) in a region of the caller's choice.
    pub fn push_run_at(self, site: Site, items: &[*mut u8]) -> usize {
        if site.has_sections() {
            return self.push_run(items);
        }
        // SAFETY: as in `pop_run_at`.
        self.with_low(site, |b| unsafe { b.block().push_run(items) }).unwrap_or(0)
    }
}
