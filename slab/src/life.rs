//! How a core begins and ends: the registry, the count of lives, what a slab costs.
//!
//! Handed to by [`typed`](crate::typed) and [`kmalloc`](crate::kmalloc) (a new cache), and by everything that holds or drops a
//! life; hands to [`work`](crate::work) (the end of a chained cache).
//!
//! Cores live for ever and are used again: a stale pointer to one is never dangling. A core is counted by its handle, by
//! each of its slabs, by each slab that it has handed over and by each cache that is [chained](crate::chain) to it; when the last of them
//! goes, it is free for the next cache.
//!
//! # Ordering
//! The life count: Release to drop, Acquire fence by the last (as in `Arc`). Fields set at creation are read by
//! threads that got the handle or an object, so after the creation.

use crate::alien::Table;
use crate::cache::{Core, LEAST, MOST, Recipe, Tables};
use crate::debug::Plan;
use crate::lock::Lock;
use crate::machine::Machine;
use crate::merge::Sharers;
use crate::node::Node;
use crate::page::SLOTS;
use crate::percpu::Word;
use crate::segment::{Pool, SLAB_BYTES};
use crate::slab::Slab;
use crate::stats::Counters;
use crate::work::{self, ANYWHERE, Item};
use crate::{AllocError, array, cpu, reap};
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

/// Bytes of free objects a block should not exceed.
const BLOCK_TARGET: u32 = 32 << 10;
/// Most caches at a time.
const MOST_CACHES: usize = 4095;
#[derive(Default)]
struct Registry {
    cores: Vec<&'static Core>,
    unused: Vec<&'static Core>,
}
static REGISTRY: Lock<Registry> = Lock::new(Registry { cores: Vec::new(), unused: Vec::new() });

impl Core {
    /// A cache from a recipe. Errors: too many caches or words.
    pub(crate) fn create(recipe: &Recipe) -> Result<&'static Core, AllocError> {
        debug_assert!((LEAST..=MOST).contains(&recipe.stride));
        work::run_pending();
        if let Ok(core) = Self::try_create(recipe) {
            return Ok(core);
        }
        // Caches that have ended may still be on their way.
        work::settle();
        Self::try_create(recipe)
    }

    fn try_create(recipe: &Recipe) -> Result<&'static Core, AllocError> {
        let word = Word::allocate().ok_or(AllocError)?;
        let topology = recipe.machine.map_or_else(cpu::topology, Machine::topology);
        let nodes = usize::from(topology.nodes);
        let core = {
            let mut registry = REGISTRY.lock();
            let fitting = registry.unused.iter().rposition(|core| core.nodes.len() == nodes);
            match fitting.map(|i| registry.unused.swap_remove(i)) {
                Some(core) => core,
                None if registry.cores.len() >= MOST_CACHES => {
                    drop(registry);
                    // SAFETY: fresh from `allocate`, never used.
                    unsafe { word.release() };
                    return Err(AllocError);
                }
                None => {
                    let core: &'static Core = Box::leak(Box::new(Core::blank(registry.cores.len() as u16 + 1, nodes)));
                    registry.cores.push(core);
                    core
                }
            }
        };
        let cap = recipe.cap.unwrap_or((BLOCK_TARGET / recipe.stride).max(2)).min(SLOTS);
        let (stride, poison) = core.debug.set(recipe.name, recipe.debug, recipe.stride, recipe.poison);
        *core.name.lock() = recipe.name;
        // Relaxed: published by `lives` below, or by the handle.
        core.stride.store(stride, Relaxed);
        core.cap.store(if poison || core.debug.is_on() { 0 } else { cap }, Relaxed);
        core.word.store(word.get(), Relaxed);
        core.mixed.store(recipe.mixed, Relaxed);
        core.typed.store(recipe.typed, Relaxed);
        core.drop.store(recipe.drop.map_or(std::ptr::null_mut(), |f| f as *mut ()), Relaxed);
        core.poison.store(poison, Relaxed);
        core.array.store(recipe.array, Relaxed);
        if recipe.array {
            array::note();
        }
        core.dead.store(false, Relaxed);
        *core.account.lock() = recipe.account;
        let pool = Pool::of(recipe.source, core.debug.is_hardened());
        // Relaxed: published by `lives` below, or by the handle.
        core.pool.store(std::ptr::from_ref(pool).cast_mut(), Relaxed);
        core.machine.store(recipe.machine.map_or(std::ptr::null_mut(), |m| std::ptr::from_ref(m).cast_mut()), Relaxed);
        let tables = if core.debug.is_on() { Tables::None } else { recipe.tables };
        let host = match tables {
            Tables::Own => Some(core),
            Tables::Of(host) => Some(host).filter(|host| host.hold()),
            Tables::None => None,
        };
        let host = host.filter(|host| host.stride() as usize >= Table::bytes(nodes as u16));
        // Relaxed: as above.
        core.tables.store(host.map_or(std::ptr::null_mut(), |host| std::ptr::from_ref(host).cast_mut()), Relaxed);
        core.nodes.iter().for_each(Node::open);
        // Relaxed: as above.
        core.policy.store(recipe.policy.number(), Relaxed);
        *core.construct.lock() = recipe.construct;
        *core.sharers.lock() = Sharers::new(Core::mergeable(recipe));
        core.counters.reset();
        // Release: a lookup in the registry that sees a live core sees its fields.
        core.lives.store(1, Release);
        Ok(core)
    }

    fn blank(id: u16, nodes: usize) -> Core {
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
            array: AtomicBool::new(false),
            dead: AtomicBool::new(true),
            parent: AtomicPtr::new(std::ptr::null_mut()),
            lives: AtomicU32::new(0),
            end: Item::new(|id, _| Core::by_id(id as u16).retire_core(), u32::from(id)),
            account: Lock::new(None),
            pool: AtomicPtr::new(std::ptr::null_mut()),
            machine: AtomicPtr::new(std::ptr::null_mut()),
            tables: AtomicPtr::new(std::ptr::null_mut()),
            policy: AtomicU32::new(0),
            turn: AtomicU32::new(0),
            construct: Lock::new(None),
            sharers: Lock::new(Sharers::default()),
            nodes: (0..nodes).map(|_| Node::default()).collect(),
            debug: Plan::default(),
            counters: Counters::default(),
        }
    }

    /// A counted slab more.
    pub(crate) fn slab_added(&self) {
        self.counters.slabs_taken.add(1);
        // Relaxed: a new life comes from one that is held.
        self.lives.fetch_add(1, Relaxed);
    }

    /// Has it slabs?
    pub(crate) fn is_in_use(&self) -> bool {
        // Relaxed: a look.
        self.lives.load(Relaxed) > 1 && self.nodes.iter().any(|node| node.slabs() > 0)
    }

    /// The core with this id, which somebody keeps from ending.
    fn by_id(id: u16) -> &'static Core {
        REGISTRY.lock().cores[usize::from(id) - 1]
    }

    /// The cache that this one is chained to.
    pub(crate) fn parent(&self) -> Option<&'static Core> {
        // Acquire: pairs with `set_parent`.
        // SAFETY: cores live for ever.
        unsafe { self.parent.load(Acquire).as_ref() }
    }
    pub(crate) fn set_parent(&self, parent: &'static Core) {
        // Release: whoever sees the parent sees that nothing of it is left to move but full slabs.
        self.parent.store(std::ptr::from_ref(parent).cast_mut(), Release);
    }

    /// So many slabs more are this cache's, or fewer ([`uncharge`](Self::uncharge)).
    pub(crate) fn charge(&self, slabs: u32) {
        let account = *self.account.lock();
        if let Some(account) = account.filter(|_| slabs > 0) {
            account.charge(slabs as usize * SLAB_BYTES);
        }
    }
    pub(crate) fn uncharge(&self, slabs: u32) {
        let account = *self.account.lock();
        if let Some(account) = account.filter(|_| slabs > 0) {
            account.uncharge(slabs as usize * SLAB_BYTES);
        }
    }

    /// Gives a slab that is free to its pool. (One whose free objects were written to is reported, and leaked.)
    pub(crate) fn put_away(&'static self, slab: &'static Slab) {
        let origin = slab.origin();
        let sound = self.check_away(slab);
        self.forget(slab);
        if sound {
            Pool::put_slab(slab);
        }
        if origin != 0 {
            Self::by_id(origin).drop_lives(1); // kept for this slab
        }
    }

    /// So many slabs were given to their pools.
    pub(crate) fn given(&'static self, slabs: u32) {
        self.counters.slabs_given.add(u64::from(slabs));
        reap::stir();
        self.uncharge(slabs);
        self.drop_lives(slabs);
    }

    /// Keeps the core from ending, until [`drop_lives`](Self::drop_lives). False: it has ended.
    pub(crate) fn hold(&self) -> bool {
        // Acquire: pairs with the store in `create`. Relaxed: nothing was read.
        self.lives.fetch_update(Acquire, Relaxed, |n| (n > 0).then(|| n + 1)).is_ok()
    }

    pub(crate) fn drop_lives(&'static self, n: u32) {
        if n == 0 {
            return;
        }
        // Release: what each life did to the cache happens before its end (the fence below).
        if self.lives.fetch_sub(n, Release) == n {
            // Acquire: pairs with the Release of the other lives.
            fence(Acquire);
            match self.parent() {
                None => self.retire_core(),
                // The last object of a chained cache was freed by anybody, anywhere.
                Some(_) => drop(work::queue(&self.end, ANYWHERE)),
            }
        }
    }

    /// Drops the life of the handle, and ends the cache here and now if that was the last.
    pub(crate) fn drop_handle(&'static self) {
        // Release: as in `drop_lives`.
        if self.lives.fetch_sub(1, Release) == 1 {
            // Acquire: as in `drop_lives`.
            fence(Acquire);
            self.retire_core();
        }
    }

    /// The last life has gone: no handle, no slab, so no object and no operation.
    #[cold]
    fn retire_core(&'static self) {
        let word = self.word();
        self.stop(
            |site| word.load(site) != 0,
            |stopped| {
                stopped.take(word, 0);
            },
        );
        if self.all_sites().any(|site| word.load(site) != 0) {
            return; // the kernel refused the fence: the number is lost, nothing else
        }
        // Relaxed: nobody else knows the core any more.
        self.word.store(Word::NONE.get(), Relaxed);
        // SAFETY: the word is 0 everywhere, and nobody knows it any more.
        unsafe { word.release() };
        let host = self.host().filter(|&host| !std::ptr::eq(host, self));
        let parent = self.parent();
        // Relaxed: nobody else knows the core any more.
        self.parent.store(std::ptr::null_mut(), Relaxed);
        self.nodes.iter().for_each(Node::forget_heir);
        REGISTRY.lock().unused.push(self);
        if let Some(parent) = parent {
            parent.drop_lives(1);
        }
        if let Some(host) = host {
            host.drop_lives(1);
        }
    }
}

/// Every cache alive, size classes among them.
pub(crate) fn alive() -> Vec<&'static Core> {
    let mut cores: Vec<&'static Core> = REGISTRY.lock().cores.clone();
    // Acquire: pairs with the store in `create`.
    cores.retain(|c| c.lives.load(Acquire) > 0);
    cores
}
