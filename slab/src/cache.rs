//! The core of a cache: object size, per-CPU word, nodes, and the slow paths between them.
//!
//! Handed to by [`front`](crate::front) (a CPU's blocks ran empty or full), [`bulk`](crate::bulk) and [`typed`](crate::typed);
//! hands to [`node`](crate::node).
//!
//! How a core begins and ends is in [`life`](crate::life).
//!
//! # Ordering
//! Relaxed where nothing else is said: a field set at creation, a hint, or under a lock. Fields set at creation are read by
//! threads that got the handle or an object, so after the creation.

use crate::account::Account;
use crate::construct::Construct;
use crate::debug::{Plan, Wish};
use crate::hook;
use crate::lock::{self, Lock};
use crate::machine::Machine;
use crate::merge::Sharers;
use crate::node::{Node, Put};
use crate::orphan;
use crate::page::{self, BlockNo};
use crate::percpu::{Word, pack, unpack};
use crate::place::NodePolicy;
use crate::reap;
use crate::segment::{Pool, slab_of};
use crate::source::PageSource;
use crate::stats::Counters;
use crate::work::Item;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering::Relaxed};

/// Least and greatest stride.
pub(crate) const LEAST: u32 = 16;
pub(crate) const MOST: u32 = 32 << 10;
/// Bytes of free objects that a barn should not exceed.
const BARN_TARGET: u32 = 4 << 20;
pub(crate) const DEAD: u64 = BlockNo::DEAD.0 as u64 | (BlockNo::DEAD.0 as u64) << 32;

/// See the module.
pub(crate) struct Core {
    pub(crate) id: u16,
    pub(crate) name: Lock<&'static str>,
    pub(crate) stride: AtomicU32,
    pub(crate) cap: AtomicU32,
    pub(crate) word: AtomicU32,
    pub(crate) mixed: AtomicBool,
    pub(crate) typed: AtomicBool,
    pub(crate) drop: AtomicPtr<()>,
    pub(crate) poison: AtomicBool,
    pub(crate) array: AtomicBool,
    pub(crate) dead: AtomicBool,
    /// The cache that this one is chained to; null: none.
    pub(crate) parent: AtomicPtr<Core>,
    pub(crate) lives: AtomicU32,
    /// The end of a chained cache.
    pub(crate) end: Item,
    pub(crate) account: Lock<Option<&'static dyn Account>>,
    pub(crate) pool: AtomicPtr<Pool>,
    /// The simulated machine that it is for; null: the real one.
    pub(crate) machine: AtomicPtr<Machine>,
    /// The cache that its nodes' tables are objects of; null: it has none.
    pub(crate) tables: AtomicPtr<Core>,
    /// One for each node of the machine, for as long as the cache lives, whatever becomes of CPUs.
    pub(crate) nodes: Box<[Node]>,
    /// What is checked.
    pub(crate) debug: Plan,
    pub(crate) policy: AtomicU32,
    pub(crate) turn: AtomicU32,
    /// What its free objects are made and unmade by, if they hold values.
    pub(crate) construct: Lock<Option<Construct>>,
    /// Handles that share it, and their names but the first.
    pub(crate) sharers: Lock<Sharers>,
    pub(crate) counters: Counters,
}

/// What a new cache is to be.
#[derive(Default)]
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    pub(crate) stride: u32,
    pub(crate) cap: Option<u32>,
    pub(crate) poison: bool,
    /// What is to be checked.
    pub(crate) debug: Wish,
    /// Its blocks are arrays of their own: see [`array`](crate::array).
    pub(crate) array: bool,
    /// A size class whose objects share kvfree's mixed lane.
    pub(crate) mixed: bool,
    /// Whether it is a cache of one type, and what drops a value of it, if anything has to.
    pub(crate) typed: bool,
    pub(crate) drop: Option<unsafe fn(*mut u8)>,
    pub(crate) source: Option<&'static dyn PageSource>,
    pub(crate) account: Option<&'static dyn Account>,
    pub(crate) machine: Option<&'static Machine>,
    pub(crate) tables: Tables,
    pub(crate) policy: NodePolicy,
    pub(crate) construct: Option<Construct>,
    /// May it be one with another cache that has the same recipe but for the name?
    pub(crate) merge: bool,
}

/// Which cache the tables of a cache with several nodes come from.
#[derive(Clone, Copy, Default)]
pub(crate) enum Tables {
    /// None: objects of other nodes go home one by one.
    #[default]
    None,
    Own,
    Of(&'static Core),
}

/// A block that goes back to the supply unless it is used.
struct Unused(BlockNo);

impl Drop for Unused {
    fn drop(&mut self) {
        page::put_page(self.0);
    }
}

/// Bytes that freed objects of poisoned caches are filled with.
pub const POISON: u8 = 0x6b;

impl Core {
    /// Number of the cache among those alive, 1 to 4,095; used again after its death.
    pub(crate) fn id(&self) -> u16 {
        self.id
    }
    /// Name given at creation.
    pub(crate) fn name(&self) -> &'static str {
        *self.name.lock()
    }
    /// Bytes from one object to the next.
    pub(crate) fn stride(&self) -> u32 {
        // Relaxed: set before the handle or the object was handed out.
        self.stride.load(Relaxed)
    }
    /// Bytes of an object that are the user's.
    pub(crate) fn usable(&self) -> u32 {
        if self.debug.is_on() { self.debug.size() } else { self.stride() }
    }
    /// Are freed objects filled, and not looked at?
    pub(crate) fn is_poisoned(&self) -> bool {
        // Relaxed: set before the handle or the object was handed out.
        self.poison.load(Relaxed)
    }
    /// Are its blocks arrays?
    pub(crate) fn is_array(&self) -> bool {
        // Relaxed: set before the handle or the object was handed out.
        self.array.load(Relaxed)
    }
    /// Objects in one of its blocks; 0: it has none (poisoned and checked caches), every operation goes to the slabs.
    pub(crate) fn block_capacity(&self) -> u32 {
        // Relaxed: set before the handle or the object was handed out.
        self.cap.load(Relaxed)
    }
    /// Which lane of kvfree its objects take as plain memory: its id, or 0 for the mixed one. The lane of its own of a cache whose
    /// values have a destructor is for those, so that a whole block of them is dropped or none.
    pub(crate) fn lane(&self) -> u16 {
        // Relaxed: set before the handle or the object was handed out.
        if self.mixed.load(Relaxed) || !self.dropper().is_null() { 0 } else { self.id }
    }
    /// Its id, if it is a typed cache; else 0.
    pub(crate) fn typed(&self) -> u16 {
        // Relaxed: set before the handle or the object was handed out.
        if self.typed.load(Relaxed) { self.id } else { 0 }
    }
    /// What drops a value; null: nothing.
    pub(crate) fn dropper(&self) -> *mut () {
        // Relaxed: set before the handle or the object was handed out.
        self.drop.load(Relaxed)
    }
    #[inline(always)]
    pub(crate) fn word(&self) -> Word {
        // SAFETY: stored from `Word::get`.
        // Relaxed: set before the handle or the object was handed out.
        unsafe { Word::from_raw(self.word.load(Relaxed)) }
    }
    pub(crate) fn pool(&self) -> &'static Pool {
        // SAFETY: pools live for ever.
        // Relaxed: set before the handle or the object was handed out.
        unsafe { &*self.pool.load(Relaxed) }
    }
    pub(crate) fn barn_most(&self) -> u32 {
        (BARN_TARGET / (self.block_capacity().max(1) * self.stride())).clamp(4, 256)
    }
    /// A free object: the CPU's blocks are empty. Null when the page source fails.
    #[cold]
    #[inline(never)]
    pub(crate) fn alloc_slow(&'static self) -> *mut u8 {
        self.counters.alloc_slow.add(1);
        if lock::held() {
            return std::ptr::null_mut(); // in a signal handler that interrupted the allocator: nothing can be done safely
        }
        orphan::adopt();
        if self.is_array() {
            return self.alloc_past_array();
        }
        let word = self.word();
        if self.block_capacity() > 0 {
            for site in self.sites().chain(self.sites()) {
                let old = word.load(site);
                if old == DEAD {
                    break;
                }
                let (main, spare) = unpack(old);
                if !main.block().is_empty() {
                    // Not empty after all: no sequences here, or this thread has moved.
                } else if spare.is_some() && !spare.block().is_empty() {
                    word.exchange(site, old, pack(spare, main));
                } else {
                    let Some(full) = self.full_block() else { break };
                    if word.exchange(site, old, pack(full, main)) {
                        self.take_in(spare);
                    } else {
                        self.take_in(full);
                    }
                }
                let p = word.pop_at(site);
                if !p.is_null() {
                    reap::stir();
                    return p;
                }
            }
        }
        // This thread may have moved to a CPU whose block has objects.
        let p = word.pop();
        if p.is_null() { self.alloc_direct().unwrap_or(std::ptr::null_mut()) } else { p }
    }

    /// Takes a free object from the slabs of the nearest node that has one.
    pub(crate) fn alloc_direct(&'static self) -> Option<*mut u8> {
        loop {
            let p = self.take_direct()?;
            if !self.debug.is_on() || self.check_out(p) {
                return Some(p);
            }
        }
    }

    fn take_direct(&'static self) -> Option<*mut u8> {
        self.counters.alloc_direct.add(1);
        let (node, n) = self.near();
        if let Some(p) = node.take_one() {
            return Some(p);
        }
        hook::dry();
        // Others may be faster than we are with the slab that we have added: only a source that fails ends this.
        loop {
            if let Some(p) = node.take_one() {
                return Some(p);
            }
            if node.grow(self, n).is_err() {
                break;
            }
        }
        self.nodes.iter().find_map(Node::take_one).or_else(|| self.pop_from_barns())
    }

    /// The last resort before failing: an object out of any barn's block.
    fn pop_from_barns(&'static self) -> Option<*mut u8> {
        let b = self.nodes.iter().find_map(Node::take_block)?;
        // SAFETY: a block taken from a barn is ours.
        let p = unsafe { b.block().pop() };
        self.take_in(b);
        p
    }

    /// A block with objects: from the barn, from kvfree, else filled from slabs, else from fresh ones.
    pub(crate) fn full_block(&'static self) -> Option<BlockNo> {
        let (node, n) = self.near();
        if let Some(b) = node.take_block() {
            self.counters.barn_get.add(1);
            return Some(b);
        }
        self.counters.barn_get_fail.add(1);
        if hook::dry() {
            if let Some(b) = node.take_block() {
                self.counters.barn_get.add(1);
                return Some(b);
            }
        }
        let unused = Unused(page::page()?); // a constructor may panic
        let (b, cap) = (unused.0, self.block_capacity());
        b.block().reset(cap);
        let mut got = node.refill(b, cap);
        while got == 0 && node.grow(self, n).is_ok() {
            got = node.refill(b, cap);
        }
        if got == 0 {
            return self.nodes.iter().find_map(Node::take_block);
        }
        self.counters.refill.add(1);
        std::mem::forget(unused);
        Some(b)
    }

    /// Takes a free object back: the CPU's blocks are full.
    ///
    /// # Safety
    /// 1. `p` is an object of this cache that nobody uses any more.
    #[cold]
    #[inline(never)]
    pub(crate) unsafe fn free_slow(&'static self, p: *mut u8) {
        self.counters.free_slow.add(1);
        if lock::held() {
            return orphan::leave(p);
        }
        orphan::adopt();
        if self.is_array() {
            // SAFETY: by (1).
            return unsafe { self.free_past_array(p) };
        }
        let word = self.word();
        let cap = self.block_capacity();
        // SAFETY: by (1).
        if self.has_aliens() && unsafe { self.put_alien(p) } {
            return;
        }
        if cap > 0 {
            for site in self.sites().chain(self.sites()) {
                let old = word.load(site);
                if old == DEAD {
                    break;
                }
                let (main, spare) = unpack(old);
                if main.block().len() < main.block().capacity() {
                    // Not full after all: no sequences here, or this thread has moved.
                } else if spare.is_some() && spare.block().len() < spare.block().capacity() {
                    word.exchange(site, old, pack(spare, main));
                } else {
                    let Some(fresh) = page::page() else { break };
                    fresh.block().reset(cap);
                    if word.exchange(site, old, pack(fresh, main)) {
                        self.take_in(spare);
                    } else {
                        page::put_page(fresh);
                    }
                }
                if word.push_at(site, p) {
                    return reap::stir();
                }
            }
        }
        // SAFETY: by (1).
        unsafe { self.free_direct(&[p]) };
    }

    /// Takes a block that the caller owns, in whatever state: objects to the barn or the slabs, the page to the supply.
    pub(crate) fn take_in(&'static self, b: BlockNo) {
        if !b.is_some() {
            return;
        }
        if b.block().is_empty() {
            return page::put_page(b);
        }
        // Relaxed: looked at again after the node's lock, which orders it with `close`.
        if self.block_capacity() == 0 || self.is_array() || self.dead.load(Relaxed) {
            return self.flush_block(b);
        }
        if self.has_aliens() {
            self.send_aliens(b);
            if b.block().is_empty() {
                return page::put_page(b);
            }
        }
        b.block().set_capacity(self.block_capacity().max(b.block().len()));
        match self.here().0.put_block(b, self.barn_most()) {
            Ok(()) => {
                self.counters.barn_put.add(1);
                // Relaxed: looked at again after the node's lock, which orders it with `close`.
                if self.dead.load(Relaxed) {
                    self.empty_barns(); // died meanwhile: leave nothing behind
                }
            }
            Err(b) => {
                self.counters.barn_put_fail.add(1);
                self.flush_block(b);
            }
        }
    }

    /// [`take_in`](Self::take_in) for a block that is not full: its objects join others.
    pub(crate) fn take_in_loose(&'static self, b: BlockNo) {
        if b.block().is_empty() {
            return page::put_page(b);
        }
        let full = b.block().len() >= b.block().capacity();
        // Relaxed: looked at again after the node's lock, which orders it with `close`.
        if full || self.block_capacity() == 0 || self.is_array() || self.dead.load(Relaxed) {
            return self.take_in(b);
        }
        if self.has_aliens() {
            self.send_aliens(b);
            if b.block().is_empty() {
                return page::put_page(b);
            }
        }
        if let Err(b) = self.here().0.put_loose(b, self.barn_most()) {
            self.flush_block(b);
        }
        // Relaxed: looked at again after the node's lock, which orders it with `close`.
        if self.dead.load(Relaxed) {
            self.empty_barns();
        }
    }

    /// Puts the objects of a block back into their slabs.
    pub(crate) fn flush_block(&'static self, b: BlockNo) {
        debug_assert!(!lock::held(), "objects are freed outside the exclusive part, and outside every lock");
        self.counters.flush.add(1);
        // SAFETY: the block is ours, and so are the free objects in it.
        unsafe { self.free_direct(b.block().pointers()) };
        page::put_page(b);
    }

    /// Puts objects back into their slabs.
    ///
    /// # Safety
    /// 1. They are objects of this cache that nobody uses any more; of a checked one, these may be any addresses.
    pub(crate) unsafe fn free_direct(&'static self, mut objects: &[*mut u8]) {
        // Relaxed: set before the handle or the object was handed out.
        if self.poison.load(Relaxed) {
            for &p in objects {
                // SAFETY: by (1) each object's `stride` bytes are ours to write.
                unsafe { p.write_bytes(POISON, self.stride() as usize) };
            }
        }
        while let Some(&first) = objects.first() {
            // SAFETY: by (1).
            if unsafe { self.free_checked(first) } {
                objects = &objects[1..];
                continue;
            }
            // SAFETY: by (1) it lies in a slab; of this cache, or by now of its heir.
            let slab = unsafe { slab_of(first) };
            let core = slab.cache().unwrap_or(self);
            objects = &objects[core.put_back(slab.node(), objects)..];
        }
    }

    /// Objects were freed that are free already, or none.
    pub(crate) fn refuse(&self, objects: u32) {
        self.counters.refused.add(u64::from(objects));
        if cfg!(debug_assertions) && !std::thread::panicking() {
            let name = self.name();
            panic!(
                "quietus-slab: cache {name}: freed although free, or never allocated: {objects}; QUIETUS_SLAB_DEBUG=FZPU,{name} tells by whom"
            );
        }
    }

    /// Puts objects back into slabs of one node, as long as they are this cache's; returns how many.
    fn put_back(&'static self, n: u16, objects: &[*mut u8]) -> usize {
        // Relaxed: looked at again after the node's lock, which orders it with `close`.
        let keep = !self.dead.load(Relaxed);
        let put = self.nodes[usize::from(n)].put_objects(self, n, objects, keep);
        if put.refused > 0 {
            self.refuse(put.refused);
        }
        let (heir, done) = (put.heir, put.done);
        self.after_put(put, keep);
        match heir {
            Some(heir) if done == 0 => self.free_chained(heir, objects[0]),
            _ => done,
        }
    }

    /// What is left to do when objects were put back: counts, slabs that are free, and a cache that has died meanwhile.
    pub(crate) fn after_put(&'static self, put: Put, keep: bool) {
        self.counters.free_add_partial.add(u64::from(put.added));
        self.counters.free_remove_partial.add(u64::from(put.removed));
        self.give(put.released);
        // Relaxed: as in `close`, whose last look at the empty slabs took the node's lock either after us, or before, and then we
        // see this.
        if keep && self.dead.load(Relaxed) {
            self.release_empty(); // died meanwhile: a slab we kept is nobody's
        }
    }
}
