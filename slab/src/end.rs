//! How a [`Cache`] ends: destroyed if nothing of it is out, or chained to another cache that takes what is.
//!
//! Called by users; hands to [`hook`](crate::hook), [`flush`](crate::flush) and [`chain`](crate::chain). (Dropping the handle is the
//! third way: the memory stays until the last object is freed.)

use crate::cache::Core;
use crate::debug::DebugFlags;
use crate::typed::Cache;
use crate::{flush, hook, order};
use std::alloc::Layout;
use std::fmt;
use std::mem::ManuallyDrop;

impl<T> Cache<T> {
    /// What an object is: the type's layout, or what the cache was built to make of it.
    fn layout(&self) -> Layout {
        let (own, stride) = (Layout::new::<T>(), self.core.stride() as usize);
        if stride == Self::STRIDE { own } else { Layout::from_size_align(stride, own.align()).unwrap_or(own) }
    }

    /// Ends the cache, if none of its objects is out: first everything of it that waits for a grace period anywhere is freed
    /// (`kvfree_rcu_barrier_on_cache` before `kmem_cache_destroy`). Waits for grace periods, if something is pending; then it panics inside a section or a deferred function.
    /// Errors: objects are still out, here or in caches [chained](Self::destroy_into) to this one; the error names how many and hands
    /// the cache back. A handle that shares its memory ([`merge`](crate::CacheBuilder::merge)) just goes. (Dropping the handle instead keeps the memory until the last object is freed.)
    pub fn destroy(self) -> Result<(), DestroyError<T>> {
        if self.core.is_shared() {
            return Ok(()); // its objects are the others' too
        }
        hook::destroy(self.core.id());
        let family = self.core.descendants();
        family.iter().for_each(|core| hook::destroy(core.id()));
        self.core.flush();
        self.core.take_tables(false);
        let live = self.core.stats().live + family.iter().map(|core| core.stats().live).sum::<u64>();
        family.into_iter().for_each(|core: &'static Core| core.drop_lives(1));
        match live {
            0 => Ok(()),
            live => Err(DestroyError { live, objects: self.core.objects_out(OBJECTS_NAMED), cache: self }),
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
    /// Errors: the objects' sizes or alignments differ; one of the caches is poisoned or [checked](crate::CacheBuilder::debug) (such caches know whose objects
    /// are whose); the cache shares its memory, or is for another machine; the kernel refused the membarrier. The error hands the cache back, as it was.
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
        let layouts = (self.layout(), parent.layout());
        let refuse = |cache, reason| Err(ChainError { cache, reason });
        // First, since red zones make objects longer.
        if let Some(core) = [self.core, parent.core].into_iter().find(|core| core.debug.is_on()) {
            let checked = Unchainable::Checked { cache: core.name(), debug: core.debug.flags() };
            return refuse(self, checked);
        }
        if layouts.0 != layouts.1 {
            return refuse(self, Unchainable::Layout { own: layouts.0, parent: layouts.1 });
        }
        if self.core.is_poisoned() || parent.core.is_poisoned() {
            return refuse(self, Unchainable::Poisoned);
        }
        if !self.core.machine_is(parent.core.machine()) {
            return refuse(self, Unchainable::Machine);
        }
        if !self.core.keep_alone() {
            return refuse(self, Unchainable::Shared);
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

/// Objects that an error names.
const OBJECTS_NAMED: usize = 16;

/// A cache that could not be destroyed, because objects of it are out.
pub struct DestroyError<T> {
    /// The cache, as it was.
    pub cache: Cache<T>,
    /// Objects that are out.
    pub live: u64,
    /// Addresses of the first of them, of this cache's own: the leak report.
    pub objects: Vec<usize>,
}

impl<T> fmt::Display for DestroyError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cache {} cannot be destroyed: objects in use: {}", self.cache.name, self.live)?;
        if let Some(first) = self.objects.first() {
            write!(f, " (the first at {first:#x})")?;
        }
        Ok(())
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
    /// One of the caches is poisoned.
    Poisoned,
    /// One of the caches is checked: its objects have red zones, owners or a pool of their own.
    Checked {
        /// Which.
        cache: &'static str,
        /// What it checks.
        debug: DebugFlags,
    },
    /// The cache shares its memory with others, which go on.
    Shared,
    /// The caches are for different [machines](crate::Machine).
    Machine,
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
            Unchainable::Checked { cache, debug } => {
                write!(f, "cache {cache} is checked ({debug}) and keeps track of its own objects")
            }
            Unchainable::Shared => f.write_str("it shares its memory with other caches"),
            Unchainable::Machine => f.write_str("it is for another machine"),
            Unchainable::Refused => f.write_str("the kernel refused the membarrier"),
        }
    }
}

impl std::error::Error for Unchainable {}

impl<T> fmt::Display for ChainError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cache {} cannot be chained: {}", self.cache.name, self.reason)
    }
}

impl<T> fmt::Debug for ChainError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<T> std::error::Error for ChainError<T> {}
