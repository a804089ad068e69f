//! The core of a cache: object size, per-CPU word, nodes, and the slow paths between them.
//!
//! Handed to by [`front`](crate::front) (a CPU's blocks ran empty or full), [`bulk`](crate::bulk) and [`typed`](crate::typed);
//! hands to [`node`](crate::node).
//!
//! (Above 500 lines: the slow paths of one state machine, and their way back.)
//!
//! Cores live for ever and are used again: a stale pointer to one is never dangling. A core is counted by its handle and by
//! each of its slabs; when the last of them goes, it is free for the next cache.
//!
//! # Ordering
//! Relaxed where nothing else is said: a field set at creation, a hint, or under a lock. The life count: Release to drop, Acquire
//! fence by the last (as in `Arc`). Fields set at creation are read by
//! threads that got the handle or an object, so after the creation.

use crate::AllocError;
use crate::cpu;
use crate::hook;
use crate::lock::{self, Lock};
use crate::node::Node;
use crate::orphan;
use crate::page::{self, BlockNo, SLOTS};
use crate::percpu::{self, Word, pack, unpack};
use crate::segment::{Pool, slab_of};
use crate::source::PageSource;
use crate::stats::Counters;
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

/// Least and greatest stride.
pub(crate) const LEAST: u32 = 16;
pub(crate) const MOST: u32 = 32 << 10;
/// Bytes of free objects a block should not exceed, and a barn.
const BLOCK_TARGET: u32 = 32 << 10;
const BARN_TARGET: u32 = 4 << 20;
/// Most caches at a time.
const MOST_CACHES: usize = 4095;
const DEAD: u64 = BlockNo::DEAD.0 as u64 | (BlockNo::DEAD.0 as u64) << 32;

/// See the module.
pub(crate) struct Core {
    id: u16,
    name: Lock<&'static str>,
    stride: AtomicU32,
    cap: AtomicU32,
    word: AtomicU32,
    mixed: AtomicBool,
    typed: AtomicBool,
    drop: AtomicPtr<()>,
    poison: AtomicBool,
    dead: AtomicBool,
    lives: AtomicU32,
    pool: AtomicPtr<Pool>,
    pub(crate) nodes: Box<[Node]>,
    pub(crate) counters: Counters,
}

/// What a new cache is to be.
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    pub(crate) stride: u32,
    pub(crate) cap: Option<u32>,
    pub(crate) poison: bool,
    /// A size class whose objects share kvfree's mixed lane.
    pub(crate) mixed: bool,
    /// Whether it is a cache of one type, and what drops a value of it, if anything has to.
    pub(crate) typed: bool,
    pub(crate) drop: Option<unsafe fn(*mut u8)>,
    pub(crate) source: Option<&'static dyn PageSource>,
}

#[derive(Default)]
struct Registry {
    cores: Vec<&'static Core>,
    unused: Vec<&'static Core>,
}
static REGISTRY: Lock<Registry> = Lock::new(Registry { cores: Vec::new(), unused: Vec::new() });
/// Bytes that freed objects of poisoned caches are filled with.
pub const POISON: u8 = 0x6b;

impl Core {
    /// A cache from a recipe. Errors: too many caches or words.
    pub(crate) fn create(recipe: &Recipe) -> Result<&'static Core, AllocError> {
        debug_assert!((LEAST..=MOST).contains(&recipe.stride));
        let word = Word::allocate().ok_or(AllocError)?;
        let core = {
            let mut registry = REGISTRY.lock();
            match registry.unused.pop() {
                Some(core) => core,
                None if registry.cores.len() >= MOST_CACHES => {
                    drop(registry);
                    // SAFETY: fresh from `allocate`, never used.
                    unsafe { word.release() };
                    return Err(AllocError);
                }
                None => {
                    let core: &'static Core = Box::leak(Box::new(Core::blank(registry.cores.len() as u16 + 1)));
                    registry.cores.push(core);
                    core
                }
            }
        };
        let cap = recipe.cap.unwrap_or((BLOCK_TARGET / recipe.stride).max(2)).min(SLOTS);
        *core.name.lock() = recipe.name;
        // Relaxed: published by `lives` below, or by the handle.
        core.stride.store(recipe.stride, Relaxed);
        core.cap.store(if recipe.poison { 0 } else { cap }, Relaxed);
        core.word.store(word.get(), Relaxed);
        core.mixed.store(recipe.mixed, Relaxed);
        core.typed.store(recipe.typed, Relaxed);
        core.drop.store(recipe.drop.map_or(std::ptr::null_mut(), |f| f as *mut ()), Relaxed);
        core.poison.store(recipe.poison, Relaxed);
        core.dead.store(false, Relaxed);
        let pool = Pool::of(recipe.source);
        // Relaxed: published by `lives` below, or by the handle.
        core.pool.store(std::ptr::from_ref(pool).cast_mut(), Relaxed);
        core.counters.reset();
        // Release: a lookup in the registry that sees a live core sees its fields.
        core.lives.store(1, Release);
        Ok(core)
    }

    fn blank(id: u16) -> Core {
        Core {
            id,
            name: Lock::new(""),
            stride: AtomicU32::new(LEAST),
            cap: AtomicU32::new(0),
            word: AtomicU32::new(Word::NONE.get()),
            mixed: AtomicBool::new(false),
            typed: AtomicBool::new(false),
            drop: AtomicPtr::new(std::ptr::null_mut()),
            poison: AtomicBool::new(false),
            dead: AtomicBool::new(true),
            lives: AtomicU32::new(0),
            pool: AtomicPtr::new(std::ptr::null_mut()),
            nodes: (0..cpu::topology().nodes).map(|_| Node::default()).collect(),
            counters: Counters::default(),
        }
    }

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
    /// Objects in one of its blocks; 0: it has none (poisoned caches), every operation goes to the slabs.
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
    fn barn_most(&self) -> u32 {
        (BARN_TARGET / (self.block_capacity().max(1) * self.stride())).clamp(4, 256)
    }
    fn here(&self) -> (&Node, u16) {
        let n = cpu::node().min(self.nodes.len() - 1);
        (&self.nodes[n], n as u16)
    }

    /// A counted slab more.
    pub(crate) fn slab_added(&self) {
        self.counters.slabs_taken.add(1);
        // Relaxed: a new life comes from one that is held.
        self.lives.fetch_add(1, Relaxed);
    }

    fn drop_lives(&'static self, n: u32) {
        if n == 0 {
            return;
        }
        // Release: what each life did to the cache happens before its end (the fence below).
        if self.lives.fetch_sub(n, Release) == n {
            // Acquire: pairs with the Release of the other lives.
            fence(Acquire);
            self.retire_core();
        }
    }

    /// The last life has gone: no handle, no slab, so no object and no operation.
    #[cold]
    fn retire_core(&'static self) {
        let word = self.word();
        percpu::stop(
            |site| word.load(site) != 0,
            |stopped| {
                stopped.take(word, 0);
            },
        );
        if percpu::all_sites().any(|site| word.load(site) != 0) {
            return; // the kernel refused the fence: the number is lost, nothing else
        }
        // Relaxed: nobody else knows the core any more.
        self.word.store(Word::NONE.get(), Relaxed);
        // SAFETY: the word is 0 everywhere, and nobody knows it any more.
        unsafe { word.release() };
        REGISTRY.lock().unused.push(self);
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
        let word = self.word();
        if self.block_capacity() > 0 {
            for site in percpu::sites().chain(percpu::sites()) {
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
                    return p;
                }
            }
        }
        // This thread may have moved to a CPU whose block has objects.
        let p = word.pop();
        if p.is_null() { self.alloc_direct().unwrap_or(std::ptr::null_mut()) } else { p }
    }

    /// Takes a free object from the slabs of the nearest node that has one.
    fn alloc_direct(&'static self) -> Option<*mut u8> {
        self.counters.alloc_direct.add(1);
        let (node, n) = self.here();
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
    fn full_block(&'static self) -> Option<BlockNo> {
        let (node, n) = self.here();
        if let Some(b) = node.take_block() {
            self.counters.barn_get.add(1);
            return Some(b);
        }
        if hook::dry() {
            if let Some(b) = node.take_block() {
                self.counters.barn_get.add(1);
                return Some(b);
            }
        }
        let b = page::page()?;
        let cap = self.block_capacity();
        b.block().reset(cap);
        let mut got = node.refill(b, cap);
        while got == 0 && node.grow(self, n).is_ok() {
            got = node.refill(b, cap);
        }
        if got == 0 {
            page::put_page(b);
            return self.nodes.iter().find_map(Node::take_block);
        }
        self.counters.refill.add(1);
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
        let word = self.word();
        let cap = self.block_capacity();
        if cap > 0 {
            for site in percpu::sites().chain(percpu::sites()) {
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
                    return;
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
        if self.block_capacity() == 0 || self.dead.load(Relaxed) {
            return self.flush_block(b);
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
            Err(b) => self.flush_block(b),
        }
    }

    /// [`take_in`](Self::take_in) for a block that is not full: its objects join others.
    pub(crate) fn take_in_loose(&'static self, b: BlockNo) {
        // Relaxed: looked at again after the node's lock, which orders it with `close`.
        if b.block().len() >= b.block().capacity() || self.block_capacity() == 0 || self.dead.load(Relaxed) {
            return self.take_in(b);
        }
        match self.here().0.put_loose(b, self.barn_most()) {
            // Relaxed: looked at again after the node's lock, which orders it with `close`.
            Ok(()) if self.dead.load(Relaxed) => self.empty_barns(),
            Ok(()) => {}
            Err(b) => self.flush_block(b),
        }
    }

    /// Puts the objects of a block back into their slabs.
    fn flush_block(&'static self, b: BlockNo) {
        self.counters.flush.add(1);
        // SAFETY: the block is ours, and so are the free objects in it.
        unsafe { self.free_direct(b.block().pointers()) };
        page::put_page(b);
    }

    /// Puts objects back into their slabs.
    ///
    /// # Safety
    /// 1. They are objects of this cache that nobody uses any more.
    pub(crate) unsafe fn free_direct(&'static self, mut objects: &[*mut u8]) {
        // Relaxed: set before the handle or the object was handed out.
        if self.poison.load(Relaxed) {
            for &p in objects {
                // SAFETY: by (1) each object's `stride` bytes are ours to write.
                unsafe { p.write_bytes(POISON, self.stride() as usize) };
            }
        }
        // Relaxed: looked at again after the node's lock, which orders it with `close`.
        let keep = !self.dead.load(Relaxed);
        while let Some(&first) = objects.first() {
            // SAFETY: by (1) it lies in a slab of this cache.
            let n = unsafe { slab_of(first) }.node();
            let (done, released, refused) = self.nodes[usize::from(n)].put_objects(n, objects, keep);
            objects = &objects[done..];
            if refused > 0 {
                self.counters.refused.add(u64::from(refused));
                debug_assert!(false, "double free in cache {} ({refused} objects were free already)", self.name());
            }
            let lives = released.give(self.pool());
            self.counters.slabs_given.add(u64::from(lives));
            self.drop_lives(lives);
        }
        // Relaxed: as in `close`, whose last look at the empty slabs took the node's lock either after us, or before, and then we
        // see this.
        if keep && self.dead.load(Relaxed) {
            self.release_empty(); // died meanwhile: a slab we kept is nobody's
        }
    }

    /// Takes back what the CPUs hold (one membarrier for all of them) and empties the barns into the slabs. Others may go on
    /// allocating and freeing meanwhile. Returns the number of regions that held something.
    pub(crate) fn flush(&'static self) -> u32 {
        let word = self.word();
        let mut chain = BlockNo::NONE;
        let mut regions = 0;
        percpu::stop(
            |site| !matches!(word.load(site), 0 | DEAD),
            |stopped| {
                let (main, spare) = unpack(stopped.take(word, 0));
                regions += 1;
                for b in [main, spare].into_iter().filter(|b| b.is_some()) {
                    b.block().set_next(chain);
                    chain = b;
                }
            },
        );
        self.counters.cpu_flush.add(u64::from(regions));
        self.flush_chain(chain);
        self.empty_barns();
        regions
    }

    fn flush_chain(&'static self, mut chain: BlockNo) {
        while chain.is_some() {
            let b = chain;
            chain = b.block().next();
            self.flush_block(b);
        }
    }

    fn empty_barns(&'static self) {
        for node in &self.nodes {
            self.flush_chain(node.take_all_blocks());
        }
    }

    /// [`flush`](Self::flush), then gives empty slabs and their pages back. Returns bytes given back to the page source.
    pub(crate) fn shrink(&'static self) -> usize {
        self.flush();
        self.release_empty();
        self.pool().purge()
    }

    fn release_empty(&'static self) {
        for node in &self.nodes {
            let lives = node.take_empty().give(self.pool());
            self.counters.slabs_given.add(u64::from(lives));
            self.drop_lives(lives);
        }
    }

    /// The handle goes. Objects that are still out keep the core alive; the last of them ends it.
    pub(crate) fn close(&'static self) {
        let word = self.word();
        let mut chain = BlockNo::NONE;
        let stopped = percpu::stop(
            |_| true,
            |stopped| {
                let (main, spare) = unpack(stopped.take(word, DEAD));
                for b in [main, spare].into_iter().filter(|b| b.is_some()) {
                    b.block().set_next(chain);
                    chain = b;
                }
            },
        );
        if !stopped {
            return self.flush_chain(chain); // the kernel refused the fence: the cache stays as it is, without a handle
        }
        // Relaxed: whoever puts a block into a barn after the flush below has taken the node's lock after it, and sees this.
        self.dead.store(true, Relaxed);
        self.flush_chain(chain);
        self.empty_barns();
        self.release_empty();
        self.drop_lives(1);
    }
}

/// Every cache alive, size classes among them.
pub(crate) fn alive() -> Vec<&'static Core> {
    let mut cores: Vec<&'static Core> = REGISTRY.lock().cores.clone();
    // Acquire: pairs with the store in `create`.
    cores.retain(|c| c.lives.load(Acquire) > 0);
    cores
}
