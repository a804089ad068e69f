//! The per-CPU array of a cache that asked for one: a mode of the CPU's block, without spare, barn or batches.
//!
//! Handed to by [`cache`](crate::cache) (the CPU's array is empty or full) and [`typed`](crate::typed) (`prefill_array`); hands to
//! the slabs.
//!
//! The fast paths are those of every cache. Single frees fill the array, and prefill does; bulk operations go past it. Empty or full,
//! stopped or locked by whoever was interrupted, it is passed by: nothing here spins.

use crate::cache::{Core, DEAD};
use crate::page::{self, BlockNo, SLOTS};
use crate::percpu::{Site, pack, unpack};
use crate::typed::Cache;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Was there ever a cache with arrays? Else bulk frees need not look.
static ANY: AtomicBool = AtomicBool::new(false);

/// A cache with arrays is made.
pub(crate) fn note() {
    // Relaxed: an object of the cache is later than the cache.
    ANY.store(true, Relaxed);
}

/// May an object be of a cache with arrays?
pub(crate) fn any() -> bool {
    // Relaxed: as above.
    ANY.load(Relaxed)
}

impl Core {
    /// The array was empty, or could not be used: looks once more, where there are no sequences, and goes to the slabs.
    pub(crate) fn alloc_past_array(&'static self) -> *mut u8 {
        let p = self.sites().next().map_or(std::ptr::null_mut(), |site| self.word().pop_at(site));
        if p.is_null() { self.alloc_direct().unwrap_or(std::ptr::null_mut()) } else { p }
    }

    /// The array was full, or could not be used.
    ///
    /// # Safety
    /// 1. `p` is an object of this cache that nobody uses any more.
    pub(crate) unsafe fn free_past_array(&'static self, p: *mut u8) {
        if !self.sites().next().is_some_and(|site| self.put_into_array(site, p)) {
            // SAFETY: by (1).
            unsafe { self.free_direct(&[p]) }
        }
    }

    /// Puts a free object into this CPU's array, which is made at its first use. False: full, or not possible just now.
    fn put_into_array(&'static self, site: Site, p: *mut u8) -> bool {
        let word = self.word();
        if word.load(site) == 0 {
            let Some(fresh) = page::page() else { return false };
            fresh.block().reset(self.block_capacity());
            if !word.exchange(site, 0, pack(fresh, BlockNo::NONE)) {
                page::put_page(fresh);
            }
        }
        word.push_at(site, p)
    }

    fn prefill_array(&'static self, n: u32) -> Result<u32, PrefillError> {
        if !self.is_array() {
            return Err(PrefillError::NoArray);
        }
        // The first region is this CPU's, unless that is being drained. A racy look.
        let value = self.sites().next().map_or(DEAD, |site| self.word().load(site));
        if self.block_capacity() == 0 {
            return Ok(0); // a cache that is poisoned or checked keeps nothing on CPUs
        }
        let used = unpack(value).0.block().len();
        if used >= n {
            return Ok(0);
        }
        let capacity = self.block_capacity();
        if capacity < n {
            return Err(PrefillError::Capacity { asked: n, capacity });
        }
        let b = page::page().ok_or(PrefillError::Memory)?;
        b.block().reset(SLOTS);
        let got = self.fill(b, n - used);
        let mut put = 0;
        // SAFETY: the block is ours until it goes back.
        while let Some(p) = unsafe { b.block().pop() } {
            if self.sites().next().is_some_and(|site| self.put_into_array(site, p)) {
                put += 1;
            } else {
                // SAFETY: a free object that `fill` gave us. (Others have filled the array meanwhile, or it is being drained.)
                unsafe { self.free_direct(&[p]) };
            }
        }
        page::put_page(b);
        if got == 0 { Err(PrefillError::Memory) } else { Ok(put) }
    }
}

impl<T> Cache<T> {
    /// Fills the array of the CPU that this thread is on up to `n` objects; returns how many were added
    /// (`kmem_cache_prefill_percpu_array`). Takes the node's lock; may map memory.
    ///
    /// The promise is the CPU's: the thread may be moved to another, whose array is empty. [`prefill`](Self::prefill) has no such hole.
    ///
    /// Errors: the cache has no arrays ([`CacheBuilder::array`](crate::CacheBuilder::array)); `n` is above their capacity (unless
    /// there are so many already); no memory for even one.
    pub fn prefill_array(&self, n: u32) -> Result<u32, PrefillError> {
        self.core.prefill_array(n)
    }
}

/// Why an array could not be filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PrefillError {
    /// The cache was not built with arrays.
    NoArray,
    /// The array is smaller.
    Capacity {
        /// Objects asked for.
        asked: u32,
        /// Objects an array holds.
        capacity: u32,
    },
    /// The page source fails.
    Memory,
}

impl fmt::Display for PrefillError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrefillError::NoArray => f.write_str("the cache has no per-CPU arrays"),
            PrefillError::Capacity { asked, capacity } => {
                write!(f, "{asked} objects do not fit an array of {capacity}")
            }
            PrefillError::Memory => f.write_str("out of memory"),
        }
    }
}

impl std::error::Error for PrefillError {}
