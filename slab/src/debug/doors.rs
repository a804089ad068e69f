//! What users call: the builder's settings, and frees through a cache's handle.
//!
//! Hands to [`flags`](super::flags) and [`cache`](crate::cache).

use super::flags::DebugFlags;
use crate::typed::{Cache, CacheBuilder};
use crate::{front, known, lock};

impl<T> CacheBuilder<T> {
    /// What is checked when objects come and go. What is found is told to [`on_corruption`](crate::on_corruption)'s hook, nothing
    /// of it is used again, and the program goes on. The cache has no per-CPU blocks, cannot be [chained](Cache::destroy_into), and is
    /// 20 to 50 times slower, with [owners](DebugFlags::OWNERS) several hundred times. `QUIETUS_SLAB_DEBUG` adds to this from outside.
    /// What is known about a slab's objects comes from the global allocator, so signal handlers must not allocate from it.
    ///
    /// ```
    /// use quietus_slab::{Cache, DebugFlags};
    /// let cache: Cache<u64> = Cache::builder("checked").debug(DebugFlags::ALL).build()?;
    /// assert_eq!(*cache.alloc(7), 7);
    /// # Ok::<(), quietus_slab::BuildError>(())
    /// ```
    pub fn debug(mut self, flags: DebugFlags) -> Self {
        self.debug.flags = self.debug.flags | flags;
        self
    }

    /// For code that may be attacked: every free is checked against the slab's bitmap (double frees, addresses where no object begins, other
    /// caches' objects, memory that is no cache's), objects are taken from random places of a slab, and the segments' descriptors stand
    /// between pages that nobody can touch (of the default page source, or one that can [guard](crate::PageSource::guard)). The
    /// cache has no per-CPU blocks, and an allocation and its free take 50 ns rather than 8 (`examples/hardened.rs` measures it).
    pub fn hardened(mut self, yes: bool) -> Self {
        self.debug.flags = self.debug.flags.with(DebugFlags::HARDENED, yes);
        self
    }

    /// Whether the process is aborted when a check of this cache finds something, after it was reported. Default: no.
    pub fn abort_on_corruption(mut self, yes: bool) -> Self {
        self.debug.flags = self.debug.flags.with(DebugFlags::ABORT, yes);
        self
    }
}

impl<T> Cache<T> {
    /// Frees an object's memory, whose value is gone (`kmem_cache_free`); null does nothing. A debugging or hardened cache looks
    /// whether it is one of its own that is in use, and reports and leaks what is not. Any other cache frees by address, whatever cache
    /// the object is of. Cost and blocking as for a dropped [`SlabBox`](crate::SlabBox).
    ///
    /// # Safety
    /// 1. `object` is null, or an object of this allocator that nobody uses any more. (A debugging or hardened cache survives any other
    ///    address, too, but somebody who still uses what is freed does not.)
    pub unsafe fn free(&self, object: *mut T) {
        let object = object.cast::<u8>();
        if object.is_null() {
            return;
        }
        if self.core.debug.is_on() {
            if lock::held() && known::is_foreign(object) {
                // In a signal handler that interrupted the allocator: nothing can be said, and nothing kept for later.
                return self.core.counters.refused.add(1);
            }
            // SAFETY: by (1), or it is found out.
            unsafe { self.core.free_slow(object) }
        } else {
            // SAFETY: by (1).
            unsafe { front::free(object) }
        }
    }

    /// What is checked: the builder's wish, what `QUIETUS_SLAB_DEBUG` adds, less what does not fit.
    pub fn debug_flags(&self) -> DebugFlags {
        self.core.debug.flags()
    }
}
