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

use crate::cache::{Core, LEAST, MOST, Recipe};
use crate::lock::Lock;
use crate::node::{Node, Released};
use crate::page::SLOTS;
use crate::percpu::{self, Word};
use crate::segment::{Pool, SLAB_BYTES};
use crate::stats::Counters;
use crate::work::{self, ANYWHERE, Item};
use crate::{AllocError, array, cpu};
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
        core.array.store(recipe.array, Relaxed);
        if recipe.array {
            array::note();
        }
        core.dead.store(false, Relaxed);
        *core.account.lock() = recipe.account;
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
            array: AtomicBool::new(false),
            dead: AtomicBool::new(true),
            parent: AtomicPtr::new(std::ptr::null_mut()),
            lives: AtomicU32::new(0),
            end: Item::new(|id, _| Core::by_id(id as u16).retire_core(), u32::from(id)),
            account: Lock::new(None),
            pool: AtomicPtr::new(std::ptr::null_mut()),
            nodes: (0..cpu::topology().nodes).map(|_| Node::default()).collect(),
            counters: Counters::default(),
        }
    }

    /// A counted slab more.
    pub(crate) fn slab_added(&self) {
        self.counters.slabs_taken.add(1);
        // Relaxed: a new life comes from one that is held.
        self.lives.fetch_add(1, Relaxed);
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

    /// Gives slabs that have become free to their pools.
    pub(crate) fn give(&'static self, mut released: Released) {
        let slabs = released.count();
        if slabs == 0 {
            return;
        }
        while let Some(slab) = released.pop() {
            let origin = slab.origin();
            Pool::put_slab(slab);
            if origin != 0 {
                Self::by_id(origin).drop_lives(1); // kept for this slab
            }
        }
        self.counters.slabs_given.add(u64::from(slabs));
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
        let parent = self.parent();
        // Relaxed: nobody else knows the core any more.
        self.parent.store(std::ptr::null_mut(), Relaxed);
        self.nodes.iter().for_each(Node::forget_heir);
        REGISTRY.lock().unused.push(self);
        if let Some(parent) = parent {
            parent.drop_lives(1);
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
