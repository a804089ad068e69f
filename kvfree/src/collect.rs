//! Stage 1, collect: a retired pointer goes into its CPU's open block; a full block is closed and published by one commit.
//!
//! Handed to by [`kvfree`](crate::kvfree); hands closed chains to [`queue`](crate::queue). The per-CPU words are lock-free, and the
//! queue is only tried: a thread stopped in either keeps no other from finishing. Once for each closed block a retirer also helps
//! (`help`), and may then take a node's lock for a moment to hand a block to a barn, or issue a membarrier.
//!
//! # Ordering
//! Pair **S**: the commit of the last pointer, the detaching exchange, then the cookie. The detacher holds the queue's lock from
//! before the exchange until the batch is queued, so a barrier, which takes that lock, finds the chain in one place or the other.

use crate::grace::{Cookie, GracePeriods};
use crate::lane::{self, CALL, Lane, MIXED};
use crate::queue::{Queue, measure};
use crate::shared::Shared;
use quietus_slab::raw::{BlockNo, Site, Word, pack, sites, unpack};
use std::sync::atomic::Ordering::Relaxed;

/// A retired thing: an object, or a pointer with the function to call on it.
#[derive(Clone, Copy)]
pub(crate) struct Item {
    pub(crate) lane: Lane,
    pub(crate) weight: u32,
    pub(crate) pointer: *mut u8,
    /// Null unless the lane is [`CALL`].
    pub(crate) function: *mut u8,
}

/// From this weight on (4 KiB) an object's block is looked at after each: it closes by bytes, not only by slots.
pub(crate) const HEAVY: u32 = (4 << 10) / quietus_slab::raw::WEIGHT_UNIT as u32;
/// Bytes at which a block with such objects is closed.
const FULL_BYTES: usize = 64 << 10;

/// Most that a retirer yields the processor, for one closed block.
const YIELDS: u32 = 8;
/// The same inside a section, which holds up the very grace period that is wanted.
const YIELDS_INSIDE: u32 = 2;

impl<G: GracePeriods> Shared<G> {
    /// Puts an object into the open block of this CPU.
    ///
    /// # Safety
    /// 1. `lane` is a cache's id or [`MIXED`].
    #[inline(always)]
    pub(crate) unsafe fn collect(&self, lane: Lane, pointer: *mut u8, weight: u32) {
        // SAFETY: by (1).
        let done = unsafe { self.lanes.word(lane) }.retire(pointer, weight);
        if !done || weight >= HEAVY {
            self.collect_rest(lane, pointer, weight, done);
        }
    }

    /// Puts a pointer and its function into the open block of this CPU.
    #[inline(always)]
    pub(crate) fn collect_call(&self, pointer: *mut u8, function: *mut u8, weight: u32) {
        // SAFETY: CALL is a lane.
        let done = unsafe { self.lanes.word(CALL) }.retire_pair(pointer, function, weight);
        if !done {
            self.collect_slow(Item { lane: CALL, weight, pointer, function });
        } else if weight >= HEAVY {
            self.close_heavy(Item { lane: CALL, weight, pointer, function });
        }
    }

    /// Not collected yet, or collected and heavy.
    #[cold]
    #[inline(never)]
    fn collect_rest(&self, lane: Lane, pointer: *mut u8, weight: u32, done: bool) {
        let item = Item { lane, weight, pointer, function: std::ptr::null_mut() };
        if done { self.close_heavy(item) } else { self.collect_slow(item) }
    }

    #[cold]
    #[inline(never)]
    fn collect_slow(&self, mut item: Item) {
        let word = match self.lanes.open(item.lane) {
            Some(word) => word,
            None => {
                item.lane = MIXED;
                // SAFETY: MIXED is a lane.
                unsafe { self.lanes.word(MIXED) }
            }
        };
        let mut spare = None;
        let mut done = false;
        for site in sites().chain(sites()) {
            done = push_at(word, site, item);
            if done {
                break;
            }
            let old = word.load(site);
            let (open, _) = unpack(old);
            if open.is_some() && open.block().filled() < open.block().capacity() {
                continue; // there is room, but not for us just now: moved, or the slot is busy
            }
            let Some(fresh) = spare.take().or_else(|| self.empty_block(site)) else { break };
            self.prepare(fresh, item, site);
            let committed = if old == 0 {
                word.exchange(site, 0, pack(fresh, BlockNo::NONE))
            } else {
                word.close(site, old, fresh)
            };
            if committed {
                done = push_at(word, site, item);
                self.ring();
                if old != 0 {
                    self.settle(word, site);
                }
                if done {
                    break;
                }
            } else {
                spare = Some(fresh);
            }
        }
        if let Some(b) = spare {
            self.reserve.put(b);
        }
        if !done {
            self.stray(item);
        } else if item.weight >= HEAVY {
            self.close_heavy(item);
        }
    }

    fn empty_block(&self, site: Site) -> Option<BlockNo> {
        let (b, kick) = self.reserve.get(site);
        if kick {
            self.wake();
        }
        b
    }

    fn prepare(&self, b: BlockNo, item: Item, site: Site) {
        let block = b.block();
        block.reset(lane::capacity(item.lane, item.weight));
        // Relaxed: a fresh block is ours; its commit publishes it (S).
        block.kind.store(lane::kind(item.lane) as u32, Relaxed);
        block.owner.store(site.index(), Relaxed);
        block.opened.store(self.passes.load(Relaxed), Relaxed);
    }

    /// Detaches what is closed at `site`, queues it under one cookie, and does a little reclaiming. Only tried: if somebody else
    /// has the queue, the chain stays where it is, for the next block or the worker.
    fn settle(&self, word: Word, site: Site) {
        if quietus_slab::raw::held() {
            return; // in a signal handler that interrupted the allocator, which the reclaiming below would call
        }
        let Some(mut queue) = self.queue.try_lock() else { return };
        let closed = loop {
            let old = word.load(site);
            let (open, closed) = unpack(old);
            if !closed.is_some() {
                return;
            }
            if word.exchange(site, old, pack(open, BlockNo::NONE)) {
                break closed;
            }
            if word.load(site) == old {
                return; // moved to another CPU, or the slot is busy
            }
        };
        // The cookie after the detaching (S).
        let cookie = self.gp.start();
        let calls = self.enqueue(&mut queue, closed, cookie);
        drop(queue);
        if calls {
            self.wake();
        }
        self.help();
    }

    /// Queues a detached chain and counts it. True: it holds calls, which only a worker runs.
    pub(crate) fn enqueue(&self, queue: &mut Queue, chain: BlockNo, cookie: Cookie) -> bool {
        let size = measure(chain);
        let c = &self.counters;
        c.batches.add(1);
        c.queued_objects.add(size.objects);
        c.queued_bytes.add(size.bytes);
        c.waiting_objects.add(size.objects);
        c.waiting_bytes.add(size.bytes);
        queue.push(chain, cookie);
        let waiting = c.waiting_bytes.get();
        if waiting > c.peak_bytes.get() {
            c.peak_bytes.max(waiting + self.open_size().bytes);
        }
        lane::Kind::of(chain) == lane::Kind::Call
    }

    /// The retirer's share of the work: reclaim what has elapsed; from `batch_bytes` on push the grace period; above the budget
    /// also give way, a bounded number of times. Runs no user code.
    fn help(&self) {
        let oldest = self.reclaim_some();
        let Some(oldest) = oldest else { return };
        if self.counters.waiting_bytes.get() < self.batch_bytes() {
            return;
        }
        if self.gp.advance(oldest) {
            self.reclaim_some();
        }
        let mut left = if self.gp.inside() != Some(false) { YIELDS_INSIDE } else { YIELDS };
        while self.counters.waiting_bytes.get() > self.config.budget as u64 && left > 0 {
            left -= 1;
            self.counters.yields.add(1);
            std::thread::yield_now();
            match self.reclaim_some() {
                Some(oldest) => self.gp.advance(oldest),
                None => break,
            };
        }
    }

    /// Closes the open block that a heavy object has just gone into, so that few bytes wait for the block to fill.
    #[cold]
    fn close_heavy(&self, item: Item) {
        // SAFETY: an item's lane is one.
        let word = unsafe { self.lanes.word(item.lane) };
        for site in sites() {
            let old = word.load(site);
            let (open, _) = unpack(old);
            if !open.is_some() || open.block().bytes() < FULL_BYTES {
                continue;
            }
            let Some(fresh) = self.empty_block(site) else { return };
            self.prepare(fresh, item, site);
            if word.close(site, old, fresh) {
                return self.settle(word, site);
            }
            self.reserve.put(fresh);
        }
    }

    /// No open block can be used: the CPU is being drained and every slot is busy, or no block is left. One block for one item;
    /// without a block, the retirer waits for a grace period where that is allowed; else the item is given up, and the statistics
    /// say so.
    #[cold]
    fn stray(&self, item: Item) {
        let site = sites().next().expect("there is always a slot");
        if let Some(b) = self.empty_block(site) {
            self.prepare(b, item, site);
            let both = [item.pointer, item.function];
            b.block().set_capacity(2);
            // SAFETY: a block from the reserve is ours.
            unsafe { b.block().retire(if item.lane == CALL { &both } else { &both[..1] }, item.weight) };
            let c = &self.counters;
            c.strays.add(1);
            c.stray_objects.add(1);
            c.stray_bytes.add(b.block().bytes() as u64);
            self.strays.push(b);
            self.ring();
        } else if self.gp.inside() != Some(false) || self.in_call() {
            self.counters.leaked.add(1);
        } else {
            self.counters.inline_waits.add(1);
            let cookie = self.gp.start();
            self.gp.synchronize(cookie);
            if self.gp.poll(cookie) {
                self.free_item(item);
            } else {
                self.counters.leaked.add(1);
            }
        }
    }
}

fn push_at(word: Word, site: Site, item: Item) -> bool {
    if item.lane == CALL {
        word.retire_pair_at(site, item.pointer, item.function, item.weight)
    } else {
        word.retire_at(site, item.pointer, item.weight)
    }
}
