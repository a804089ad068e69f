//! How a [`Cache`] ends: destroyed if nothing of it is out, or chained to another cache that takes what is.
//!
//! Called by users; hands to [`hook`](crate::hook), [`flush`](crate::flush) and [`chain`](crate::chain). (Dropping the handle is the
//! third way: the memory stays until the last object is freed.)

use crate::cache::Core;
use crate::typed::Cache;
use crate::{flush, hook, order};
use std::alloc::Layout;
use std::fmt;
use std::mem::ManuallyDrop;

impl<T> Cache<T> {
    /// Ends the cache, if none of its objects is out: first everything of it that waits for a grace period anywhere is freed
    /// (`kvfree_rcu_barrier_on_cache` before `kmem_cache_destroy`). Waits for grace periods, if something is pending; then it panics inside a section or a deferred function.
    /// Errors: objects are still out, here or in caches [chained](Self::destroy_into) to this one; the error names how many and hands
    /// the cache back. (Dropping the handle instead keeps the memory until the last object is freed.)
    pub fn destroy(self) -> Result<(), DestroyError<T>> {
        hook::destroy(self.core.id());
        let family = self.core.descendants();
        family.iter().for_each(|core| hook::destroy(core.id()));
        self.core.flush();
        let live = self.core.stats().live + family.iter().map(|core| core.stats().live).sum::<u64>();
        family.into_iter().for_each(|core: &'static Core| core.drop_lives(1));
        match live {
            0 => Ok(()),
            live => Err(DestroyError { cache: self, live }),
        }
    }

    /// Ends the cache and leaves its slabs to `parent`, with the objects that are out. Partial slabs move at once, to the end of the
    /// parent's, and are allocated from; full ones with the first free of an object in them. An empty one is given
    /// back. Objects are freed as ever, wherever they are; their bytes are charged to the parent's [`Account`](crate::Account). The
    /// cache disappears from [`all_stats`](crate::all_stats). The parent may be chained in turn.
    ///
    /// The types may differ. If their values are dropped by different functions the slabs are the parent's guests: they are not
    /// allocated from, and go when the last object is free.
    ///
    /// What waits for a grace period is freed first, as in [`destroy`](Self::destroy): waits; must not be called inside a section.
    /// One membarrier. The number of the cache (of 4,095) stays in use until the slabs that it has handed over have become empty.
    ///
    /// Errors: the objects' sizes or alignments differ; one of the caches is poisoned (such caches know whose objects
    /// are whose); the kernel refused the membarrier. The error hands the cache back, as it was.
    ///
    /// ```
    /// use quietus_slab::Cache;
    /// let parent: Cache<[u64; 4]> = Cache::new("all");
    /// let child: Cache<[u64; 4]> = Cache::new("some");
    /// let object = child.alloc([1; 4]);
    /// child.destroy_into(&parent).unwrap();
    /// assert_eq!(*object, [1; 4]);
    /// drop(object);
    /// assert_eq!(parent.stats().live, 0);
    /// ```
    ///
    /// Nothing can be allocated from a chained cache:
    ///
    /// ```compile_fail,E0382
    /// # use quietus_slab::Cache;
    /// let (parent, child): (Cache<u64>, Cache<u64>) = (Cache::new("all"), Cache::new("some"));
    /// child.destroy_into(&parent).unwrap();
    /// drop(child.alloc(1));
    /// ```
    /// ```
    /// # use quietus_slab::Cache;
    /// let (parent, child): (Cache<u64>, Cache<u64>) = (Cache::new("all"), Cache::new("some"));
    /// child.destroy_into(&parent).unwrap();
    /// drop(parent.alloc(1));
    /// ```
    pub fn destroy_into<U>(self, parent: &Cache<U>) -> Result<(), ChainError<T>> {
        let layouts = (Layout::new::<T>(), Layout::new::<U>());
        let refuse = |cache, reason| Err(ChainError { cache, reason });
        if layouts.0 != layouts.1 {
            return refuse(self, Unchainable::Layout { own: layouts.0, parent: layouts.1 });
        }
        if self.core.is_poisoned() || parent.core.is_poisoned() {
            return refuse(self, Unchainable::Poisoned);
        }
        hook::destroy(self.core.id());
        flush::catch_up();
        let cpus = order::cpus();
        let caches = order::caches();
        if !self.core.chain_to(parent.core) {
            drop((caches, cpus)); // the error may be dropped, and the cache with it
            return refuse(self, Unchainable::Refused);
        }
        let _ = ManuallyDrop::new(self); // its life is spent
        Ok(())
    }
}

/// A cache that could not be destroyed, because objects of it are out.
pub struct DestroyError<T> {
    /// The cache, as it was.
    pub cache: Cache<T>,
    /// Objects that are out.
    pub live: u64,
}

impl<T> fmt::Display for DestroyError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cache {} cannot be destroyed: objects in use: {}", self.cache.core.name(), self.live)
    }
}

impl<T> fmt::Debug for DestroyError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<T> std::error::Error for DestroyError<T> {}

/// A cache that could not be chained.
pub struct ChainError<T> {
    /// The cache, as it was.
    pub cache: Cache<T>,
    /// Why.
    pub reason: Unchainable,
}

/// Why a cache could not be chained to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unchainable {
    /// Objects of another size or alignment.
    Layout {
        /// Of the cache's objects.
        own: Layout,
        /// Of the parent's objects.
        parent: Layout,
    },
    /// One of the caches is a debugging cache.
    Poisoned,
    /// The kernel refused the membarrier.
    Refused,
}

impl fmt::Display for Unchainable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unchainable::Layout { own, parent } => write!(
                f,
                "objects of {} bytes aligned to {} do not fit a cache of {} bytes aligned to {}",
                own.size(),
                own.align(),
                parent.size(),
                parent.align()
            ),
            Unchainable::Poisoned => f.write_str("a poisoned cache keeps track of its own objects"),
            Unchainable::Refused => f.write_str("the kernel refused the membarrier"),
        }
    }
}

impl std::error::Error for Unchainable {}

impl<T> fmt::Display for ChainError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cache {} cannot be chained: {}", self.cache.core.name(), self.reason)
    }
}

impl<T> fmt::Debug for ChainError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<T> std::error::Error for ChainError<T> {}
