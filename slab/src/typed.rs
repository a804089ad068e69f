//! [`Cache`]: a typed cache, and how to build one.
//!
//! Handed to by users; hands to [`front`](crate::front) and [`cache`](crate::cache).

use crate::account::Account;
use crate::cache::{Core, LEAST, MOST, Recipe};
use crate::page::{SLOTS, WEIGHT_UNIT};
use crate::percpu::Word;
use crate::slab::drop_value;
use crate::slab_box::SlabBox;
use crate::source::PageSource;
use crate::stats::CacheStats;
use crate::{AllocError, bulk, front, lock};
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
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::TooLarge { size, align } => {
                write!(f, "objects of {size} bytes aligned to {align} are too large for a cache (at most 32768 each)")
            }
            BuildError::Capacity(n) => write!(f, "a block capacity of {n} is not in 1 to {SLOTS}"),
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
    source: Option<&'static dyn PageSource>,
    account: Option<&'static dyn Account>,
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
    /// Fills freed objects with [`POISON`](crate::POISON). Such a cache has no per-CPU blocks, so no fast path carries a test.
    pub fn poison(mut self, yes: bool) -> Self {
        self.poison = yes;
        self
    }
    /// Who pays for its slabs.
    pub fn account(mut self, account: &'static dyn Account) -> Self {
        self.account = Some(account);
        self
    }
    /// Makes the cache. Takes no memory yet.
    pub fn build(self) -> Result<Cache<T>, BuildError> {
        let (size, align, stride) = (size_of::<T>(), align_of::<T>(), Cache::<T>::STRIDE);
        if stride > MOST as usize {
            return Err(BuildError::TooLarge { size, align });
        }
        if let Some(n) = self.cap {
            if n == 0 || n > SLOTS {
                return Err(BuildError::Capacity(n));
            }
        }
        let recipe = Recipe {
            name: self.name,
            stride: stride as u32,
            cap: self.cap,
            poison: self.poison,
            array: self.array,
            mixed: false,
            typed: true,
            drop: std::mem::needs_drop::<T>().then_some(drop_value::<T> as unsafe fn(*mut u8)),
            source: self.source,
            account: self.account,
        };
        let core = Core::create(&recipe).map_err(|AllocError| BuildError::TooMany)?;
        Ok(Cache { core, word: core.word(), lane: core.id(), _invariant: PhantomData })
    }
}

impl<T> Cache<T> {
    /// Bytes from one object to the next; at least one even for a zero-sized T.
    const STRIDE: usize = {
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
        CacheBuilder { name, cap: None, array: false, poison: false, source: None, account: None, _type: PhantomData }
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

    #[inline(always)]
    fn place(&self) -> Option<NonNull<T>> {
        NonNull::new(front::alloc(self.core, self.word).cast())
    }

    /// Bulk allocations leave arrays alone.
    fn place_past_array(&self) -> Option<NonNull<T>> {
        let p = if lock::held() { None } else { self.core.alloc_direct() };
        p.and_then(NonNull::new).map(NonNull::cast)
    }

    /// Moves values into objects of the cache until one of both runs out. Returns how many were added to `out`; the value that
    /// found no memory comes back in the error.
    pub fn alloc_bulk(
        &self,
        values: impl IntoIterator<Item = T>,
        out: &mut Vec<SlabBox<T>>,
    ) -> Result<usize, (T, AllocError)> {
        let before = out.len();
        for value in values {
            let place = if self.core.is_array() { self.place_past_array() } else { self.place() };
            match place {
                // SAFETY: as in `alloc`.
                Some(p) => out.push(unsafe { SlabBox::emplace(p, value) }),
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

    /// Sizes now and events so far. Exact when nobody uses the cache meanwhile.
    pub fn stats(&self) -> CacheStats {
        self.core.stats()
    }
}

impl<T> Drop for Cache<T> {
    fn drop(&mut self) {
        self.core.close();
    }
}

impl<T> fmt::Debug for Cache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("name", &self.core.name()).field("object_bytes", &self.core.stride()).finish()
    }
}
