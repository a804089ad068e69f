//! [`StableCache`]: objects that stay what they are while they are free.
//!
//! Handed to by users; hands to [`cache`](crate::cache) and [`front`](crate::front). The values are made when their slab is
//! ([`node`](crate::node)), and dropped when it goes ([`life`](crate::life)), outside every lock.
//!
//! # Ordering
//! A value is made before its slab is listed under the node's lock, and dropped after it was taken off.

use crate::cache::Core;
use crate::hook::{Call, Grace};
use crate::node::Released;
use crate::segment::Pool;
use crate::slab::{Slab, drop_value};
use crate::stats::CacheStats;
use crate::typed::{BuildError, Cache, CacheBuilder};
use crate::{AllocError, front};
use std::alloc::{Layout, handle_alloc_error};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;

/// How values are made and unmade.
#[derive(Clone, Copy)]
pub(crate) struct Construct {
    make: unsafe fn(*mut u8, *const ()),
    with: *const (),
    unmake: unsafe fn(*mut u8),
    grace: Option<&'static dyn Grace>,
}

// SAFETY: `with` is a function's address.
unsafe impl Send for Construct {}

/// # Safety
/// 1. `place` is unused memory of T's layout; `with` came from a `fn() -> T`.
unsafe fn make<T>(place: *mut u8, with: *const ()) {
    // SAFETY: by (1).
    unsafe {
        let with = std::mem::transmute::<*const (), fn() -> T>(with);
        place.cast::<T>().write(with());
    }
}

/// Objects of a slab that hold values. Dropped, it drops them: a panic in one does not keep the others.
struct Values<'a> {
    slab: &'a Slab,
    made: usize,
    unmake: unsafe fn(*mut u8),
}

impl Values<'_> {
    fn unmake(self) -> Result<(), Box<dyn std::any::Any + Send>> {
        let mut result = Ok(());
        for i in 0..self.made {
            // SAFETY: the first `made` objects hold values that nobody uses: the slab is ours.
            let dropped = catch_unwind(AssertUnwindSafe(|| unsafe { (self.unmake)(self.slab.object(i)) }));
            result = result.and(dropped);
        }
        result
    }
}

impl Core {
    /// Makes the values of a fresh slab. A panic in the constructor drops those that were made, gives the slab back, and goes on.
    pub(crate) fn construct(&'static self, slab: &'static Slab) {
        let Some(how) = *self.construct.lock() else { return };
        let mut values = Values { slab, made: 0, unmake: how.unmake };
        while values.made < slab.objects() {
            let place = slab.object(values.made);
            // SAFETY: the slab is ours, its objects have the type's layout.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| unsafe { (how.make)(place, how.with) })) {
                let _ = values.unmake();
                self.forget(slab);
                Pool::put_slab(slab);
                resume_unwind(panic);
            }
            values.made += 1;
        }
    }

    /// Gives slabs that have become free to their pools: at once, or after a grace period if somebody may be looking at their objects.
    pub(crate) fn give(&'static self, mut released: Released) {
        let slabs = released.count();
        if slabs == 0 {
            return;
        }
        let grace = self.construct.lock().and_then(|how| how.grace);
        while let Some(slab) = released.pop() {
            match grace {
                None => self.finish(slab),
                Some(grace) => {
                    self.counters.slabs_deferred.add(1);
                    grace.after(Call::new(slab));
                }
            }
        }
        if grace.is_none() {
            self.given(slabs);
        }
    }

    /// The end of a slab whose readers have gone.
    pub(crate) fn give_late(&'static self, slab: &'static Slab) {
        self.finish(slab);
        self.given(1);
    }

    /// Drops the values of a slab, if it has any, and gives it to its pool.
    fn finish(&'static self, slab: &'static Slab) {
        let how = *self.construct.lock();
        let mut result = Ok(());
        if let Some(how) = how {
            result = Values { slab, made: slab.objects(), unmake: how.unmake }.unmake();
        }
        self.put_away(slab);
        if result.is_err() {
            self.counters.panics.add(1); // it was reported; whoever frees an object has nothing to do with it
        }
    }
}

/// A cache of objects that stay **constructed**: the constructor runs for each object once, when its slab is made
/// (`kmem_cache_create` with a `ctor`), not at each allocation; a free leaves the value as it is; it is dropped when the
/// slab goes. For values that are dear to set up, and left fit for the next user.
///
/// Only `&T` is given out. With [`StableBuilder::type_stable`] the memory stays a `T` even for readers that found an object before it was freed
/// (`SLAB_TYPESAFE_BY_RCU`).
///
/// ```
/// use quietus_slab::StableCache;
/// use std::sync::Mutex;
/// let buffers = StableCache::new("buffers", || Mutex::new(Vec::<u8>::with_capacity(4096)));
/// let buffer = buffers.alloc();
/// buffer.lock().unwrap().extend(b"something");
/// buffer.lock().unwrap().clear(); // as the next one expects it
/// drop(buffer);
/// assert!(buffers.alloc().lock().unwrap().capacity() >= 4096);
/// ```
///
/// The value is shared with whoever comes next, so it cannot be moved out or borrowed mutably:
///
/// ```compile_fail,E0596
/// # let cache = quietus_slab::StableCache::new("numbers", || vec![1]);
/// cache.alloc().push(2);
/// ```
/// ```
/// # let cache = quietus_slab::StableCache::new("numbers", || vec![1]);
/// assert_eq!(cache.alloc().len(), 1);
/// ```
pub struct StableCache<T> {
    core: &'static Core,
    _type: PhantomData<fn(T) -> T>,
}

/// Settings of a [`StableCache`] to be.
pub struct StableBuilder<T> {
    settings: CacheBuilder<T>,
    construct: Construct,
}

impl<T: Send + Sync> CacheBuilder<T> {
    /// A cache of objects that are made by `ctor`, once, when their slab is, and stay so while they are free. The constructor runs inside
    /// allocations (of any thread, outside every short lock), for all the objects of a slab in a row; it must not allocate from the cache. The
    /// destructors run where slabs go — in frees, flushes, shrinks, in the [reaper](crate::reap) — and must not make, flush, shrink or end
    /// caches. A panic of one is counted ([`CacheStats::panics`]) and goes no further.
    pub fn constructed(self, ctor: fn() -> T) -> StableBuilder<T> {
        let construct = Construct { make: make::<T>, with: ctor as *const (), unmake: drop_value::<T>, grace: None };
        StableBuilder { settings: self, construct }
    }
}

impl<T: Send + Sync> StableBuilder<T> {
    /// Memory that has held a `T` holds one until a grace period after its slab has become free: whoever found an object in a section may
    /// look at it to the section's end, although it may have been freed, **and given to somebody else**, meanwhile. `grace` knows the sections:
    /// a `quietus::Domain`, a `quietus_kvfree::Kvfree`, or something of your own.
    pub fn type_stable(mut self, grace: &'static dyn Grace) -> Self {
        self.construct.grace = Some(grace);
        self
    }
    /// Makes the cache. Takes no memory yet. Errors as [`CacheBuilder::build`]; a poisoned cache cannot keep values.
    pub fn build(self) -> Result<StableCache<T>, BuildError> {
        let core = self.settings.build_core(Some(self.construct))?;
        Ok(StableCache { core, _type: PhantomData })
    }
}

impl<T: Send + Sync> StableCache<T> {
    /// A cache with the default settings; see [`Cache::builder`] and [`CacheBuilder::constructed`] for others.
    ///
    /// # Panics
    /// As [`StableBuilder::build`] errs.
    pub fn new(name: &'static str, ctor: fn() -> T) -> Self {
        Cache::builder(name).constructed(ctor).build().unwrap_or_else(|e| panic!("cache {name}: {e}"))
    }

    /// An object, as whoever had it last has left it. Aborts through [`handle_alloc_error`] when memory is out.
    pub fn alloc(&self) -> Stable<T> {
        self.try_alloc().unwrap_or_else(|_| handle_alloc_error(Layout::new::<T>()))
    }
    /// The same. Errors: memory is out.
    pub fn try_alloc(&self) -> Result<Stable<T>, AllocError> {
        let p = NonNull::new(front::alloc(self.core, self.core.word())).ok_or(AllocError)?;
        Ok(Stable(p.cast(), PhantomData))
    }
    /// As [`Cache::flush`].
    pub fn flush(&self) -> u32 {
        self.core.flush()
    }
    /// As [`Cache::shrink`]: drops the values of slabs that are free.
    pub fn shrink(&self) -> usize {
        self.core.shrink()
    }
    /// As [`Cache::stats`].
    pub fn stats(&self) -> CacheStats {
        self.core.stats()
    }
}

impl<T> Drop for StableCache<T> {
    fn drop(&mut self) {
        self.core.close();
    }
}

impl<T> fmt::Debug for StableCache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StableCache").field("name", &self.core.name()).finish()
    }
}

/// An object of a [`StableCache`]. Dropping it gives it back as it is. It may outlive the cache.
pub struct Stable<T>(NonNull<T>, PhantomData<T>);

// SAFETY: made only for T: Send + Sync; it gives out `&T`, and its value may be dropped by any thread.
unsafe impl<T: Send + Sync> Send for Stable<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Stable<T> {}

impl<T> Stable<T> {
    /// Where the object is. In a [type-stable](StableBuilder::type_stable) cache it holds a `T` at least until the end of a section that this
    /// address was found in.
    pub fn as_ptr(this: &Self) -> *const T {
        this.0.as_ptr()
    }
}

impl<T> Deref for Stable<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the object holds a T from the making of its slab to its end.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Stable<T> {
    fn drop(&mut self) {
        // SAFETY: it was ours alone; others may only look at it.
        unsafe { front::free(self.0.as_ptr().cast()) }
    }
}

impl<T: fmt::Debug> fmt::Debug for Stable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::fmt(self, f)
    }
}
