//! [`Cache`]: a typed cache, and how to build one.
//!
//! Handed to by users; hands to [`front`](crate::front) and [`cache`](crate::cache).

use crate::account::Account;
use crate::cache::{Core, LEAST, MOST, Recipe, Tables};
use crate::construct::Construct;
use crate::cpu::topology;
use crate::debug::Wish;
use crate::machine::Machine;
use crate::page::{SLOTS, WEIGHT_UNIT};
use crate::percpu::Word;
use crate::place::NodePolicy;
use crate::slab::drop_value;
use crate::slab_box::SlabBox;
use crate::source::PageSource;
use crate::stats::{CacheStats, NodeStats};
use crate::{AllocError, bulk, front, kmalloc, lock};
use std::alloc::{Layout, handle_alloc_error};
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// A cache of objects of one type (`kmem_cache`). Allocation and free take a few nanoseconds on the CPU's own block, no atomic
/// instruction where restartable sequences work.
///
/// Objects may outlive the handle: the memory goes when the last of them is freed. Invariant in `T`:
///
/// ```compile_fail
/// # use quietus_slab::Cache;
/// fn shorten<'a>(cache: &'a Cache<&'static str>) -> &'a Cache<&'a str> {
///     cache // does not compile: a short borrow would get into a cache of long ones
/// }
/// ```
/// ```
/// # use quietus_slab::Cache;
/// fn keep<'a>(cache: &'a Cache<&'static str>) -> &'a Cache<&'static str> {
///     cache
/// }
/// ```
pub struct Cache<T> {
    pub(crate) core: &'static Core,
    pub(crate) name: &'static str,
    word: Word,
    lane: u16,
    _invariant: PhantomData<fn(T) -> T>,
}

/// Why a cache could not be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// Size or alignment above 32 KiB: use [`SlabBox::new`], which has a large path.
    TooLarge {
        /// Bytes of the type.
        size: usize,
        /// Its alignment.
        align: usize,
    },
    /// The block capacity is not in 1 to 504.
    Capacity(u32),
    /// 4,095 caches live already.
    TooMany,
    /// The alignment is no power of two, or above 32 KiB.
    Align(usize),
    /// Constructed objects keep their values, and cannot be poisoned.
    Poisoned,
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::TooLarge { size, align } => {
                write!(f, "objects of {size} bytes aligned to {align} are too large for a cache (at most 32768 each)")
            }
            BuildError::Capacity(n) => write!(f, "a block capacity of {n} is not in 1 to {SLOTS}"),
            BuildError::Align(n) => write!(f, "an alignment of {n} is not a power of two up to {MOST}"),
            BuildError::Poisoned => f.write_str("a cache cannot both poison free objects and keep them constructed"),
            BuildError::TooMany => write!(f, "no room for another cache (at most 4095)"),
        }
    }
}

impl std::error::Error for BuildError {}

/// Settings of a cache to be.
pub struct CacheBuilder<T> {
    name: &'static str,
    cap: Option<u32>,
    array: bool,
    poison: bool,
    pub(crate) debug: Wish,
    source: Option<&'static dyn PageSource>,
    account: Option<&'static dyn Account>,
    machine: Option<&'static Machine>,
    tables: Option<Tables>,
    align: usize,
    policy: NodePolicy,
    merge: bool,
    _type: PhantomData<fn(T) -> T>,
}

impl<T> CacheBuilder<T> {
    /// Objects in a block, 1 to 504. Default: as many as make 32 KiB, at least 2.
    pub fn block_capacity(mut self, n: u32) -> Self {
        self.cap = Some(n);
        self
    }
    /// Gives each CPU an array of `n` objects, 1 to 504, instead of blocks that come and go (`SLAB_NO_MERGE` and
    /// `kmem_cache_setup_percpu_array`): only single frees and [`prefill_array`](Cache::prefill_array) fill it, only single
    /// allocations empty it, and where it is empty or full the slabs serve one object at a time. For caches that need to know what a
    /// CPU holds. No cache is ever merged with another.
    pub fn array(mut self, n: u32) -> Self {
        self.cap = Some(n);
        self.array = true;
        self
    }
    /// Where its slabs come from. Default: `mmap` on Linux, the system allocator elsewhere.
    pub fn pages(mut self, source: &'static dyn PageSource) -> Self {
        self.source = Some(source);
        self
    }
    /// Fills freed objects with [`POISON`](crate::POISON), and looks at nothing ([`debug`](Self::debug) does). Such a cache has no per-CPU blocks, so no fast path carries a test.
    pub fn poison(mut self, yes: bool) -> Self {
        self.poison = yes;
        self
    }
    /// Who pays for its slabs.
    pub fn account(mut self, account: &'static dyn Account) -> Self {
        self.account = Some(account);
        self
    }
    /// The CPUs and nodes that it is for. Default: the real ones. On a simulated machine it has no fast paths.
    pub fn machine(mut self, machine: &'static Machine) -> Self {
        self.machine = Some(machine);
        self
    }
    /// What it keeps for objects of other nodes is made of objects of its own. For tests.
    #[doc(hidden)]
    pub fn tables_of_its_own(mut self) -> Self {
        self.tables = Some(Tables::Own);
        self
    }
    /// The same, of objects of another cache, which have to be large enough. For tests.
    #[doc(hidden)]
    pub fn tables_of<U>(mut self, host: &Cache<U>) -> Self {
        self.tables = Some(Tables::Of(host.core));
        self
    }
    /// Begins objects at multiples of `n`, a power of two up to 32 KiB, if their type asks for less: 64, so that no two share a cache line
    /// (`SLAB_HWCACHE_ALIGN`).
    pub fn align(mut self, n: usize) -> Self {
        self.align = n;
        self
    }
    /// Which nodes its memory is taken from. Default: that of the CPU that asks.
    pub fn node_policy(mut self, policy: NodePolicy) -> Self {
        self.policy = policy;
        self
    }
    /// Whether it may be one with other caches of equally long objects that say so too, each without destructor or settings of its own
    /// (`SLAB_MERGE_DEFAULT`; here it has to be asked for, `SLAB_NO_MERGE` is the default). They share slabs, blocks and all statistics, under
    /// the name of the first; the others are [`aliases`](CacheStats::aliases). Such a handle cannot tell its objects from the others': while
    /// there are others, [`destroy`](Cache::destroy) only ends the handle.
    pub fn merge(mut self, yes: bool) -> Self {
        self.merge = yes;
        self
    }
    /// Makes the cache. Takes no memory yet.
    pub fn build(self) -> Result<Cache<T>, BuildError> {
        let name = self.name;
        let core = self.build_core(None)?;
        Ok(Cache { core, name, word: core.word(), lane: core.id(), _invariant: PhantomData })
    }

    /// A core for a cache of values that are dropped when they are freed, or of constructed ones.
    pub(crate) fn build_core(self, construct: Option<Construct>) -> Result<&'static Core, BuildError> {
        if !self.align.is_power_of_two() || self.align > MOST as usize {
            return Err(BuildError::Align(self.align));
        }
        let (size, align) = (size_of::<T>(), align_of::<T>().max(self.align));
        let stride = Cache::<T>::STRIDE.next_multiple_of(align);
        if construct.is_some() && self.poison {
            return Err(BuildError::Poisoned);
        }
        if stride > MOST as usize {
            return Err(BuildError::TooLarge { size, align });
        }
        if let Some(n) = self.cap {
            if n == 0 || n > SLOTS {
                return Err(BuildError::Capacity(n));
            }
        }
        let nodes = self.machine.map_or_else(topology, Machine::topology).nodes;
        let recipe = Recipe {
            name: self.name,
            stride: stride as u32,
            cap: self.cap,
            poison: self.poison,
            debug: Wish { size: size as u32, align: align as u32, keeps: construct.is_some(), ..self.debug },
            array: self.array,
            mixed: false,
            typed: construct.is_none(),
            drop: Some(drop_value::<T> as unsafe fn(*mut u8))
                .filter(|_| std::mem::needs_drop::<T>() && construct.is_none()),
            source: self.source,
            account: self.account,
            machine: self.machine,
            tables: self.tables.unwrap_or_else(|| kmalloc::tables(nodes)),
            policy: self.policy,
            construct,
            merge: self.merge,
        };
        match Core::find_mergeable(&recipe) {
            Some(core) => Ok(core),
            None => Core::create(&recipe).map_err(|AllocError| BuildError::TooMany),
        }
    }
}

impl<T> Cache<T> {
    /// Bytes from one object to the next; at least one even for a zero-sized T.
    pub(crate) const STRIDE: usize = {
        let size = if size_of::<T>() < LEAST as usize { LEAST as usize } else { size_of::<T>() };
        size.next_multiple_of(if align_of::<T>() < 8 { 8 } else { align_of::<T>() })
    };

    /// A cache with the default settings.
    ///
    /// # Panics
    /// As [`CacheBuilder::build`] errs.
    pub fn new(name: &'static str) -> Self {
        Self::builder(name).build().unwrap_or_else(|e| panic!("cache {name}: {e}"))
    }

    /// Settings for a cache; see [`CacheBuilder`].
    pub fn builder(name: &'static str) -> CacheBuilder<T> {
        CacheBuilder {
            name,
            cap: None,
            array: false,
            poison: false,
            debug: Wish::default(),
            source: None,
            account: None,
            machine: None,
            tables: None,
            align: 1,
            policy: NodePolicy::Local,
            merge: false,
            _type: PhantomData,
        }
    }

    /// Moves a value into an object of the cache. Aborts through [`handle_alloc_error`] when memory is out.
    #[inline]
    pub fn alloc(&self, value: T) -> SlabBox<T> {
        match self.place() {
            // SAFETY: an unused object of this cache, whose stride and alignment fit T.
            Some(p) => unsafe { SlabBox::emplace(p, value) },
            None => handle_alloc_error(Layout::new::<T>()),
        }
    }

    /// Moves a value into an object of the cache; hands it back when the page source fails.
    #[inline]
    pub fn try_alloc(&self, value: T) -> Result<SlabBox<T>, (T, AllocError)> {
        match self.place() {
            // SAFETY: as in `alloc`.
            Some(p) => Ok(unsafe { SlabBox::emplace(p, value) }),
            None => Err((value, AllocError)),
        }
    }

    /// Moves a value into memory of one node, whether it has CPUs or not (`kmem_cache_alloc_node`). Takes the node's lock: for what is to live
    /// there for long. (Freed, it is kept near whoever frees it, and goes home with others of its kind.) Hands the value back if there is
    /// no such node, or it has no memory, or memory is out: no other node serves instead.
    ///
    /// On Linux the node's slabs are bound to it where there are several; elsewhere, memory is where it is first touched.
    pub fn alloc_for_node(&self, value: T, node: u16) -> Result<SlabBox<T>, (T, AllocError)> {
        let place = if lock::held() { None } else { self.core.alloc_on(usize::from(node)) };
        match place.and_then(NonNull::new) {
            // SAFETY: as in `alloc`.
            Some(p) => Ok(unsafe { SlabBox::emplace(p.cast(), value) }),
            None => {
                self.core.counters.node_mismatch.add(1);
                Err((value, AllocError))
            }
        }
    }

    #[inline(always)]
    fn place(&self) -> Option<NonNull<T>> {
        NonNull::new(front::alloc(self.core, self.word).cast())
    }

    /// Moves values into objects of the cache until one of both runs out. Returns how many were added to `out`; the value that
    /// found no memory comes back in the error. Memory is taken in runs, as many as the iterator promises values, 64 at most; what it does not
    /// want after all is freed. No lock is held while the iterator runs, but those objects are: it may use the cache, and panic.
    pub fn alloc_bulk(
        &self,
        values: impl IntoIterator<Item = T>,
        out: &mut Vec<SlabBox<T>>,
    ) -> Result<usize, (T, AllocError)> {
        let before = out.len();
        let mut values = values.into_iter();
        let mut stock = bulk::Stock::new(self.core);
        while let Some(value) = values.next() {
            if stock.len() == 0 {
                stock.fill(1 + values.size_hint().0.min(bulk::STOCK - 1));
                out.reserve(stock.len());
            }
            match stock.take().and_then(NonNull::new) {
                // SAFETY: as in `alloc`.
                Some(p) => out.push(unsafe { SlabBox::emplace(p.cast(), value) }),
                None => return Err((value, AllocError)),
            }
        }
        Ok(out.len() - before)
    }

    /// Drops many objects and frees them in blocks. They may be of any cache. Nothing is held while the iterator or a
    /// destructor runs: both may use the cache, and a panic in either frees what was handed over before.
    pub fn free_bulk(&self, objects: impl IntoIterator<Item = SlabBox<T>>) {
        /// Memory whose values are gone.
        struct Batch([*mut u8; 64], usize);
        impl Batch {
            fn flush(&mut self) {
                let n = std::mem::replace(&mut self.1, 0);
                // SAFETY: each pointer was a SlabBox's and is there once.
                unsafe { bulk::free_bulk(&self.0[..n]) };
            }
        }
        impl Drop for Batch {
            fn drop(&mut self) {
                self.flush();
            }
        }
        let mut batch = Batch([std::ptr::null_mut(); 64], 0);
        for object in objects {
            let p = SlabBox::into_raw(object).as_ptr();
            batch.0[batch.1] = p.cast();
            batch.1 += 1;
            // SAFETY: the value was owned by the SlabBox; if its destructor panics, the memory is freed all the same.
            unsafe { p.drop_in_place() };
            if batch.1 == batch.0.len() {
                batch.flush();
            }
        }
    }

    /// Takes back what CPUs and barns hold and gives free slabs to the page source. Returns bytes given back. Takes locks and
    /// one membarrier; others may use the cache meanwhile.
    pub fn shrink(&self) -> usize {
        self.core.shrink()
    }

    /// Takes back what CPUs and barns hold into the slabs. Returns the number of CPUs that held something.
    pub fn flush(&self) -> u32 {
        self.core.flush()
    }

    /// Lane and weight of the objects, for `quietus-kvfree`. Objects of this lane are dropped there if `T` needs it.
    #[doc(hidden)]
    #[inline(always)]
    pub fn lane_and_weight(&self) -> (u16, u32) {
        (self.lane, Self::STRIDE.div_ceil(WEIGHT_UNIT) as u32)
    }

    /// What it has on each node. Each is locked in turn.
    pub fn node_stats(&self) -> Vec<NodeStats> {
        self.core.node_stats()
    }

    /// Sizes now and events so far. Exact when nobody uses the cache meanwhile.
    pub fn stats(&self) -> CacheStats {
        self.core.stats()
    }
}

impl<T> Drop for Cache<T> {
    fn drop(&mut self) {
        if !self.core.leave(self.name) {
            self.core.close();
        }
    }
}

impl<T> fmt::Debug for Cache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("name", &self.name).field("object_bytes", &self.core.stride()).finish()
    }
}
