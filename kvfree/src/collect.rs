//! Stage 1, collect: a retired pointer goes into its CPU's open block; a full block is closed and published by one commit.
//!
//! Handed to by [`kvfree`](crate::kvfree); hands closed chains to [`queue`](crate::queue), and what finds no block to
//! [`resort`](crate::resort). The per-CPU words are lock-free, and the
//! queue is only tried: a thread stopped in either keeps no other from finishing. Once for each closed block a retirer also helps
//! (`help`), and may then take a node's lock for a moment to hand a block to a barn, or issue a membarrier.
//!
//! # Ordering
//! Pair **S**: the commit of the last pointer, the detaching exchange, then the cookie. The detacher holds the queue's lock from
//! before the exchange until the batch is queued, so a barrier, which takes that lock, finds the chain in one place or the other.

use crate::check::{self, What};
use crate::crew::LATE;
use crate::grace::{Cookie, GracePeriods};
use crate::head::{Callback, RcuHead};
use crate::lane::{self, CALL, Kind, LARGE, Lane, MIXED};
use crate::queue::{Queue, Want, measure};
use crate::reclaim::{self, Share};
use crate::shared::Shared;
use crate::sync::{Held, Ordering::Relaxed, thread};
use quietus_slab::raw::{self, BlockNo, Site, Word, pack, sites, unpack};
use std::ptr::NonNull;

/// A way to queue an object without a block.
pub(crate) type Head = Option<(NonNull<RcuHead>, &'static Callback)>;

/// A retired thing: an object, and what else there is to know about it should it find no room.
#[derive(Clone, Copy)]
pub(crate) struct Item {
    pub(crate) lane: Lane,
    pub(crate) weight: u32,
    pub(crate) pointer: *mut u8,
    /// Drops the object's value and frees it; null: it is plain memory of the slab allocator.
    pub(crate) function: *mut u8,
    pub(crate) head: Head,
    pub(crate) what: What,
    pub(crate) found: Found,
    /// In a signal handler: no lock, no allocation, no kick.
    pub(crate) constrained: bool,
}

/// How the lane of an item is known: fixed where the item is made, so that the fast path is made for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// The object's slab says so.
    Slab,
    /// Its cache's handle, or the kind of thing it is.
    Known,
}

/// From this weight on (4 KiB) an object's block is looked at after each: it closes by bytes, not only by slots.
pub(crate) const HEAVY: u32 = (4 << 10) / quietus_slab::raw::WEIGHT_UNIT as u32;
/// Bytes at which a block with such objects is closed.
const FULL_BYTES: usize = 64 << 10;

/// Looks at the queue's lock before a retirer yields.
const SPINS: u32 = 64;
/// Most that a retirer yields the processor, for one closed block.
const YIELDS: u32 = 8;
/// The same inside a section, which holds up the very grace period that is wanted.
const YIELDS_INSIDE: u32 = 2;

impl Item {
    /// All but the pointers, and a flag, in one word: an item handed to a cold function as such would be written to memory on the
    /// way there, and so on the hot path, too.
    fn pack(&self, done: bool) -> u64 {
        let flags = u64::from(self.constrained) | u64::from(done) << 1;
        u64::from(self.lane) | (self.what as u64) << 16 | flags << 24 | u64::from(self.weight) << 32
    }

    fn unpack(pointer: *mut u8, function: *mut u8, head: Head, packed: u64) -> (Item, bool) {
        let what = [What::Slab, What::Box, What::Call][(packed >> 16) as usize & 3];
        let (lane, weight) = (packed as Lane, (packed >> 32) as u32);
        let constrained = packed & 1 << 24 != 0;
        let item = Item { lane, weight, pointer, function, head, what, found: Found::Known, constrained };
        (item, packed & 1 << 25 != 0)
    }
}

impl<G: GracePeriods> Shared<G> {
    /// [`collect`](Self::collect) by a door. A deferred function may be at it: then a barrier that covers the function covers what it
    /// retires, too, if that has a function of its own.
    ///
    /// # Safety
    /// 1. As there.
    #[inline(always)]
    pub(crate) unsafe fn retire(&self, item: Item) {
        // SAFETY: by (1).
        unsafe { self.collect(item) };
        if !item.function.is_null() {
            self.note_chained();
        }
    }

    /// To be called after something with a function was collected: a barrier that does not see the count has seen the thing.
    #[inline(always)]
    pub(crate) fn note_chained(&self) {
        if reclaim::in_any_call() {
            self.counters.chained.add(1);
        }
    }

    /// Puts an object, or a pointer and its function, into the open block of this CPU.
    ///
    /// # Safety
    /// 1. The item's lane is a cache's id, [`MIXED`], [`LARGE`] or [`CALL`].
    #[inline(always)]
    pub(crate) unsafe fn collect(&self, item: Item) {
        if cfg!(debug_assertions) && self.config.debug && !self.first_retire(&item) {
            return;
        }
        // A lane known from the cache's handle is never the mixed one, and one known from the object's slab mostly is.
        let word = if item.found == Found::Slab && item.lane == MIXED {
            self.lanes.mixed()
        } else {
            // SAFETY: by (1).
            unsafe { self.lanes.word(item.lane) }
        };
        let done = if item.lane == CALL {
            word.retire_pair(item.pointer, item.function, item.weight)
        } else {
            word.retire(item.pointer, item.weight)
        };
        if !done || item.weight >= HEAVY {
            self.collect_rest(item.pointer, item.function, item.head, item.pack(done));
        }
    }

    /// Not collected yet, or collected and heavy.
    #[cold]
    #[inline(never)]
    fn collect_rest(&self, pointer: *mut u8, function: *mut u8, head: Head, packed: u64) {
        let (item, done) = Item::unpack(pointer, function, head, packed);
        if done {
            return self.close_heavy(item);
        }
        if !cfg!(debug_assertions) && self.config.debug && !self.first_retire(&item) {
            return;
        }
        if self.config.batching { self.collect_slow(item) } else { self.queue_alone(item) }
    }

    /// Debug mode: false if the object is retired already, which is reported.
    fn first_retire(&self, item: &Item) -> bool {
        let first = check::first(item.pointer, item.what);
        if !first {
            self.counters.twice.add(1);
            if !item.constrained {
                check::report(item.pointer);
            }
        }
        first
    }

    #[cold]
    #[inline(never)]
    fn collect_slow(&self, mut item: Item) {
        // In a signal handler that interrupted the allocator no lane is opened.
        let word = if raw::held() { self.lanes.existing(item.lane) } else { self.lanes.open(item.lane) };
        let word = match word {
            Some(word) => word,
            None => {
                if item.function.is_null() {
                    item.lane = MIXED;
                } else {
                    self.note_called(item.lane);
                    item.lane = CALL;
                }
                self.lanes.existing(item.lane).expect("there from the start")
            }
        };
        let mut spare = None;
        let mut done = false;
        // The worker is to be woken: to refill, because it sleeps, for user code. Once for all of these.
        let mut wake = false;
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
            let Some(fresh) = spare.take().or_else(|| self.empty_block(site, item.constrained, &mut wake)) else {
                break;
            };
            self.prepare(fresh, item, site);
            let committed = if old == 0 {
                word.exchange(site, 0, pack(fresh, BlockNo::NONE))
            } else {
                word.close(site, old, fresh)
            };
            if committed {
                done = push_at(word, site, item);
                wake |= self.arm();
                if old != 0 && !item.constrained {
                    self.settle(word, site, &mut wake);
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
        if wake {
            self.wake_from(item.constrained);
        }
        if !item.constrained {
            self.relieve_worker(LATE);
        }
        if !done {
            self.resort(item);
        } else if item.weight >= HEAVY {
            self.close_heavy(item);
        }
    }

    /// An empty block, if there is one. `wake`: the worker is to be woken for a refill.
    pub(crate) fn empty_block(&self, site: Site, constrained: bool, wake: &mut bool) -> Option<BlockNo> {
        let (b, kick) = self.reserve.get(site, constrained);
        *wake |= kick;
        b
    }

    pub(crate) fn prepare(&self, b: BlockNo, item: Item, site: Site) {
        let block = b.block();
        block.reset(lane::capacity(item.lane, item.weight));
        // Relaxed: a fresh block is ours; its commit publishes it (S).
        block.lane.store(u32::from(item.lane), Relaxed);
        block.owner.store(site.index(), Relaxed);
        block.opened.store(self.passes.load(Relaxed), Relaxed);
    }

    /// Detaches what is closed at `site`, queues it under one cookie, and does a little reclaiming. Only tried: if somebody else
    /// has the queue and keeps it, the chain stays where it is, for the next block or the worker. Wakes the worker before it begins to reclaim, if
    /// there is a reason to, and takes that back from `wake`.
    fn settle(&self, word: Word, site: Site, wake: &mut bool) {
        if quietus_slab::raw::held() {
            return; // in a signal handler that interrupted the allocator, which the reclaiming below would call
        }
        let ahead = self.push_ahead();
        let mut queue = match self.try_queue() {
            Some(queue) => queue,
            None if self.waits() => self.lock_queue(),
            None => return,
        };
        let closed = loop {
            let old = word.load(site);
            let (open, closed) = unpack(old);
            if !closed.is_some() {
                drop(queue);
                return self.find_room(); // a drain was here first
            }
            if word.exchange(site, old, pack(open, BlockNo::NONE)) {
                break closed;
            }
            if word.load(site) == old {
                // Moved to another CPU, or the slot is busy.
                drop(queue);
                if self.waits() {
                    self.drain(u64::MAX);
                    self.find_room();
                }
                return;
            }
        };
        // The cookie after the detaching (S).
        let cookie = self.gp.start();
        let calls = self.enqueue(&mut queue, closed, cookie);
        let (want, many) = (self.helps_with(), self.counters.waiting_bytes() >= self.batch_bytes());
        let share = self.share(&mut queue, want);
        drop(queue);
        // Destructors wait for the worker, which comes by itself within the age limit, or is woken when there are many.
        if std::mem::take(wake) | (calls && many && !self.config.help_with_destructors) {
            self.wake();
        }
        self.help(share, want, ahead);
        self.find_room();
    }

    /// The queue, if it is free or will be in a moment. Whoever has it for longer has been preempted, and is given way, a bounded number
    /// of times: others that went on retiring would pile up what only the queue lets go.
    fn try_queue(&self) -> Option<Held<'_, Queue>> {
        for _ in 0..SPINS {
            if let Some(queue) = self.queue.try_lock() {
                return Some(queue);
            }
            std::hint::spin_loop();
        }
        let mut yields = 0..self.patience();
        yields.find_map(|_| {
            self.counters.yields.add(1);
            thread::yield_now();
            self.queue.try_lock()
        })
    }

    /// How often a retirer may yield the processor for one closed block.
    fn patience(&self) -> u32 {
        if self.gp.inside() != Some(false) { YIELDS_INSIDE } else { YIELDS }
    }

    /// Queues a detached chain and counts it. True: it holds user code, which only a worker runs.
    pub(crate) fn enqueue(&self, queue: &mut Queue, chain: BlockNo, cookie: Cookie) -> bool {
        let c = &self.counters;
        c.queued(measure(chain));
        let calls = runs_user_code(chain);
        queue.push(chain, cookie, calls);
        // Relaxed: a hint, for `push_ahead`.
        self.youngest.store(cookie.0, Relaxed);
        let waiting = c.waiting_bytes();
        if waiting > c.peak_bytes.get() {
            c.peak_bytes.max(waiting + self.open_size().bytes);
        }
        calls
    }

    /// What a retirer reclaims: no user code, unless that was asked for.
    fn helps_with(&self) -> Want {
        if self.config.help_with_destructors && !reclaim::in_any_call() { Want::All } else { Want::Plain }
    }

    /// Inside a section, before a further chain has its cookie: pushes the grace period of all that is queued, if that costs next to nothing. A
    /// section as short as most are has begun after those cookies, and does not hold it up; one that begins later would wait for
    /// this very section. True: all that is queued has elapsed.
    fn push_ahead(&self) -> bool {
        // Relaxed: a hint; any cookie that was given may be asked about.
        let youngest = self.youngest.load(Relaxed);
        let inside = self.gp.is_cheap() && self.gp.inside() == Some(true);
        inside && (youngest == 0 || self.gp.advance(Cookie(youngest)))
    }

    /// The retirer's share of the work: reclaim what has elapsed; from `batch_bytes` on push the grace period; above the budget
    /// also give way, a bounded number of times. `ahead`: what [`push_ahead`](Self::push_ahead) has said.
    fn help(&self, share: Share, want: Want, ahead: bool) {
        let Some(oldest) = self.reclaim_share(share, want) else { return };
        let waiting = self.counters.waiting_bytes();
        if waiting < self.batch_bytes() && (ahead || !self.gp.is_cheap()) {
            return;
        }
        if self.gp.advance(oldest) {
            self.reclaim_some(want);
        }
        let mut left = self.patience();
        while self.counters.waiting_bytes() > self.config.budget as u64 && left > 0 {
            left -= 1;
            self.counters.yields.add(1);
            thread::yield_now();
            match self.reclaim_some(want) {
                Some(oldest) => self.gp.advance(oldest),
                None => break,
            };
        }
    }

    /// Closes the open block that a heavy object has just gone into, so that few bytes wait for the block to fill.
    #[cold]
    fn close_heavy(&self, item: Item) {
        let Some(word) = self.lanes.existing(item.lane) else { return };
        // Large objects come from the system one by one, and a grace period costs less.
        let full = if item.lane == LARGE { self.batch_bytes() as usize } else { FULL_BYTES };
        let mut wake = false;
        for site in sites() {
            let old = word.load(site);
            let (open, _) = unpack(old);
            if !open.is_some() || open.block().bytes() < full {
                continue;
            }
            let Some(fresh) = self.empty_block(site, item.constrained, &mut wake) else { break };
            self.prepare(fresh, item, site);
            if word.close(site, old, fresh) {
                if !item.constrained {
                    self.settle(word, site, &mut wake);
                }
                break;
            }
            self.reserve.put(fresh);
        }
        if wake {
            self.wake_from(item.constrained);
        }
    }
}

/// Does freeing this chain run destructors or deferred functions? All its blocks are of one lane. (One may be empty: closed by a thread
/// that was preempted after it had seen an older block of the same number full.)
fn runs_user_code(chain: BlockNo) -> bool {
    match Kind::of(chain) {
        Kind::Same => {
            let blocks = std::iter::successors(Some(chain), |b| Some(b.block().next()).filter(|b| b.is_some()));
            blocks.into_iter().find(|b| b.block().filled() > 0).is_some_and(|b| {
                // SAFETY: the block is ours, and holds retired objects of one cache, which are not free.
                unsafe { !raw::slab(b.block().slot(0)).dropper().is_null() }
            })
        }
        Kind::Mixed | Kind::Large => false,
        Kind::Call => true,
    }
}

fn push_at(word: Word, site: Site, item: Item) -> bool {
    if item.lane == CALL {
        word.retire_pair_at(site, item.pointer, item.function, item.weight)
    } else {
        word.retire_at(site, item.pointer, item.weight)
    }
}
