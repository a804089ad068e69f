//! [`Domain`]: a source of grace periods with its `kvfree`, as one value, of one flavour. The global ones are some of them.
//!
//! Users hand in what they retire; hands to the flavour's [`Source`] (grace periods) and to `quietus-kvfree` (batches). How
//! sections are opened is the flavour's: `memb`, `qsbr`, `epoch`.
//!
//! A domain waits for its own readers only. Dropping a private one needs no grace period: guards borrow the domain, so no
//! reference obtained through it can be live any more, not even one whose guard was leaked. (One over a crossbeam collector waits
//! for those who read that collector directly.)

use crate::builder::Builder;
use crate::cookie::Cookie;
use crate::engine_ref::EngineRef;
use crate::flavour::Memb;
use crate::memb::{DomainGuard, Guard, pin};
use crate::section::{Section, sealed::Sealed};
use crate::source::Source;
use crate::stall::Reports;
use crate::stats::Stats;
use crate::wait::InsideSection;
use quietus_kvfree::{
    Callback, Constrained, GracePeriods, Kvfree, LaneStats, Linked, MayNotWait, RcuHead, Reclaimable,
};
use quietus_slab::raw::once;
use quietus_slab::{Cache, Call, Grace};
use std::fmt;
use std::ptr::NonNull;
use std::sync::OnceLock;

/// How readers and waiters go together, as a type: [`Memb`], [`Qsbr`](crate::Qsbr), and, with the feature `epoch`, `Epoch`.
///
/// Domains, cookies, cells, pointers and sections carry their flavour, so that mixing two of them does not compile. Nothing
/// outside this crate can implement it.
pub trait Flavour: Sealed + Sized + Send + Sync + 'static {
    /// A section of the flavour's global domain, as [`Rcu::load`](crate::Rcu::load) takes it.
    type Guard: Section<Self>;
    #[doc(hidden)]
    type Source: Source;
    /// The process's own domain of this flavour, made at first use.
    fn domain() -> &'static Domain<Self>;
    #[doc(hidden)]
    fn in_section<R>(f: impl FnOnce(&Self::Guard) -> R) -> R;
}

impl Sealed for Memb {}

impl Flavour for Memb {
    type Guard = Guard;
    type Source = EngineRef;
    #[inline]
    fn domain() -> &'static Domain {
        Domain::global()
    }
    fn in_section<R>(f: impl FnOnce(&Guard) -> R) -> R {
        f(&pin())
    }
}

/// Readers, grace periods, and what is retired to them: one instance of RCU.
///
/// ```
/// use quietus::{Atomic, Domain, Shared, slab::Cache};
/// use std::sync::atomic::Ordering::{AcqRel, Acquire};
/// let domain = Domain::new();
/// let cache: Cache<u64> = Cache::new("values");
/// let slot = Atomic::new(Shared::from_box(cache.alloc(1)));
/// {
///     let guard = domain.pin();
///     // SAFETY: published above, retired below, after a grace period.
///     let value = unsafe { slot.load(Acquire, &guard).as_ref() };
///     assert_eq!(value, Some(&1));
///     let old = slot.swap(Shared::null(), AcqRel, &guard);
///     // SAFETY: unlinked, by us alone; it came from a slab cache.
///     unsafe { domain.retire(old.as_non_null().unwrap()) };
/// }
/// domain.barrier();
/// assert_eq!(domain.stats().kvfree.pending_objects, 0);
/// ```
///
/// Dropping a private domain frees what is retired to it, and runs what is deferred, without waiting for readers: guards borrow
/// the domain, so nothing can be read through it any more, whether they were dropped or leaked:
///
/// ```compile_fail,E0505
/// # use quietus::{Atomic, Domain};
/// # use std::sync::atomic::Ordering::Acquire;
/// let (domain, slot) = (Domain::new(), Atomic::<u64>::null());
/// let seen = slot.load(Acquire, Box::leak(Box::new(domain.pin())));
/// drop(domain);
/// seen.is_null();
/// ```
///
/// ```
/// # use quietus::{Atomic, Domain};
/// # use std::sync::atomic::Ordering::Acquire;
/// let (domain, slot) = (Domain::new(), Atomic::<u64>::null());
/// let seen = slot.load(Acquire, Box::leak(Box::new(domain.pin())));
/// seen.is_null();
/// drop(domain);
/// ```
///
/// What is deferred or retired goes to another thread:
///
/// ```compile_fail,E0277
/// let shared = std::rc::Rc::new(1);
/// quietus::Domain::global().defer(move || drop(shared));
/// ```
///
/// ```
/// let shared = std::sync::Arc::new(1);
/// quietus::Domain::global().defer(move || drop(shared));
/// ```
///
/// and has a size, since a block has room for one pointer and one function:
///
/// ```compile_fail,E0277
/// # use std::ptr::NonNull;
/// unsafe fn retire(object: NonNull<dyn Send>) {
///     unsafe { quietus::Domain::global().retire_box(object) }
/// }
/// ```
///
/// ```
/// # use std::ptr::NonNull;
/// unsafe fn retire(object: NonNull<Box<dyn Send>>) {
///     unsafe { quietus::Domain::global().retire_box(object) }
/// }
/// ```
///
/// Flavours do not mix:
///
/// ```compile_fail,E0277
/// # use std::sync::atomic::Ordering::Acquire;
/// let slot = quietus::Atomic::<u64>::null();
/// slot.load(Acquire, &quietus::qsbr::reader());
/// ```
///
/// ```
/// # use std::sync::atomic::Ordering::Acquire;
/// let slot = quietus::Atomic::<u64>::null();
/// slot.load(Acquire, &quietus::pin());
/// ```
pub struct Domain<F: Flavour = Memb> {
    // Dropped first: it uses the source.
    pub(crate) kvfree: Kvfree<F::Source>,
    source: F::Source,
}

impl Builder {
    /// Makes the global domain with these settings, if nothing has used it yet. Errors: something has. (Retiring, waiting and `stats` are uses. Guards alone are not:
    /// those that are open count, as always.)
    ///
    /// ```
    /// quietus::Domain::builder().budget(64 << 20).build_global()?;
    /// let settled = quietus::Domain::builder().build_global();
    /// assert_eq!(settled.err(), Some(quietus::GlobalInUse));
    /// # Ok::<(), quietus::GlobalInUse>(())
    /// ```
    ///
    /// # Panics
    /// As [`build`](Self::build).
    pub fn build_global(self) -> Result<&'static Domain, GlobalInUse> {
        let mut made = false;
        let domain = once(&GLOBAL, || {
            made = true;
            Domain::over(EngineRef::Global, self)
        });
        if made { Ok(domain) } else { Err(GlobalInUse) }
    }
    /// Makes the domain.
    ///
    /// # Panics
    /// When the worker cannot be started, or no per-CPU words are left (two for each domain).
    pub fn build(self) -> Domain {
        Domain::over(EngineRef::private(), self)
    }
}

/// The process's own domain. See [`Builder::build_global`].
static GLOBAL: OnceLock<Domain> = OnceLock::new();

/// Waits until every section of the global domain that is open now has ended (`synchronize_rcu`).
///
/// # Panics
///
/// If the calling thread is inside one of them.
pub fn synchronize() {
    Domain::global().synchronize();
}

/// The global domain was in use before its settings were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GlobalInUse;

impl fmt::Display for GlobalInUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the global domain is in use already: it takes settings before its first use only")
    }
}

impl std::error::Error for GlobalInUse {}

impl Domain {
    /// A private domain with the default settings.
    ///
    /// # Panics
    /// As [`Builder::build`].
    pub fn new() -> Domain {
        Self::builder().build()
    }

    /// Settings for a private domain.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The process's own domain, made at first use: the one that [`pin`](crate::pin) and [`Rcu`](crate::Rcu) use.
    #[inline]
    pub fn global() -> &'static Domain {
        once(&GLOBAL, || Domain::over(EngineRef::Global, Builder::default()))
    }

    /// Opens a read-side section of this domain. Never blocks; the thread's first call registers it.
    #[inline]
    pub fn pin(&self) -> DomainGuard<'_> {
        DomainGuard::pin(&self.source)
    }
}

impl<F: Flavour> Domain<F> {
    pub(crate) fn over(source: F::Source, settings: Builder) -> Self {
        source.watch().configure(settings.stall_after.unwrap_or(Reports::AFTER), settings.on_stall);
        Domain { kvfree: Kvfree::new(source.clone(), settings.config), source }
    }

    pub(crate) fn kvfree(&self) -> &Kvfree<F::Source> {
        &self.kvfree
    }

    /// Where its grace periods come from.
    #[inline]
    pub(crate) fn source(&self) -> &F::Source {
        &self.source
    }

    /// Waits until every section that is open now has ended (`synchronize_rcu`). Drives the grace period itself.
    ///
    /// # Panics
    /// Inside a section of this domain: it would wait for itself. A qsbr thread that is online is inside.
    #[track_caller]
    pub fn synchronize(&self) {
        self.cookie().wait();
    }

    /// [`synchronize`](Self::synchronize) with an error instead of a panic.
    ///
    /// # Errors
    /// The thread is inside a section of this domain; then nothing was waited for.
    pub fn try_synchronize(&self) -> Result<(), InsideSection> {
        self.source.try_wait_until(self.source.start().0, None).map(drop)
    }

    /// A cookie for what this thread has unlinked up to now (`start_poll_synchronize_rcu`).
    pub fn cookie(&self) -> Cookie<'_, F> {
        Cookie::new(self)
    }

    /// Runs a closure after a grace period (`call_rcu`), on a worker's, ticker's or barrier's thread (or, when neither a block nor
    /// memory is left, on this one). Allocates a `Box`.
    pub fn defer<C: FnOnce() + Send + 'static>(&self, f: C) {
        self.kvfree.defer(f);
    }

    /// Frees an object of the slab allocator after a grace period, dropping its value first. Takes a few nanoseconds and no
    /// lock, inside a section or not.
    ///
    /// # Safety
    /// 1. `object` is an object of [`slab`](crate::slab) that holds a live `T`; no section of this domain that begins from now
    ///    on can reach it, only sections of this domain may still reach it, and they only read; nobody retires or frees it again.
    /// 2. What `T` borrows lives until it is dropped: until a [`barrier`](Self::barrier), or the drop of this domain outside its
    ///    deferred functions.
    #[inline(always)]
    pub unsafe fn retire<T: Send>(&self, object: NonNull<T>) {
        // SAFETY: the contracts are the same.
        unsafe { self.kvfree.retire(object) }
    }

    /// [`retire`](Self::retire) for an object of a known cache: spares the look at the object's slab, about a third of the time.
    ///
    /// # Safety
    /// 1. As [`retire`](Self::retire).
    /// 2. `object` was allocated from `cache`.
    #[inline(always)]
    pub unsafe fn retire_in<T: Send>(&self, cache: &Cache<T>, object: NonNull<T>) {
        // SAFETY: the contracts are the same.
        unsafe { self.kvfree.retire_in(cache, object) }
    }

    /// [`retire`](Self::retire) of a pointer that may be null, which does nothing (`kvfree_rcu(ptr)`).
    ///
    /// # Safety
    /// 1. `object` is null, or as for [`retire`](Self::retire).
    #[inline(always)]
    pub unsafe fn kvfree_rcu<T: Send>(&self, object: *mut T) {
        // SAFETY: the contracts are the same.
        unsafe { self.kvfree.kvfree_rcu(object) }
    }

    /// [`retire`](Self::retire) of an object with an [`RcuHead`](crate::kvfree::RcuHead), which [`rcu_head!`](crate::rcu_head) has named:
    /// never waits, and cannot fail (`kvfree_rcu(ptr, rhf)`).
    ///
    /// # Safety
    /// 1. As [`retire`](Self::retire).
    #[inline(always)]
    pub unsafe fn retire_linked<T: Linked + Send>(&self, object: NonNull<T>) {
        // SAFETY: the contracts are the same.
        unsafe { self.kvfree.retire_linked(object) }
    }

    /// Frees slab memory after a grace period; no destructor runs.
    ///
    /// # Safety
    /// 1. As [`retire`](Self::retire), without the value.
    #[inline(always)]
    pub unsafe fn retire_ptr(&self, object: NonNull<u8>) {
        // SAFETY: the contracts are the same.
        unsafe { self.kvfree.retire_ptr(object) }
    }

    /// Drops a `Box` after a grace period.
    ///
    /// # Safety
    /// 1. `object` came from `Box::into_raw`; otherwise as [`retire`](Self::retire).
    #[inline]
    pub unsafe fn retire_box<T: Send>(&self, object: NonNull<T>) {
        // SAFETY: the contracts are the same.
        unsafe { self.kvfree.retire_box(object) }
    }

    /// [`retire_box`](Self::retire_box) of an object with an [`RcuHead`](crate::kvfree::RcuHead): never waits, and cannot fail.
    ///
    /// # Safety
    /// 1. As [`retire_box`](Self::retire_box).
    #[inline]
    pub unsafe fn retire_linked_box<T: Linked + Send>(&self, object: NonNull<T>) {
        // SAFETY: the contracts are the same.
        unsafe { self.kvfree.retire_linked_box(object) }
    }

    /// Queues an object by its head; `callback` is called once with it, after a grace period (`call_rcu`). Never allocates, waits or
    /// fails.
    ///
    /// # Safety
    /// 1. The call is valid once, from any thread, at any time after a grace period that begins now, up to a barrier, or the drop of
    ///    this domain. The head is in no queue, and lives until then.
    #[inline]
    pub unsafe fn call_head(&self, head: NonNull<RcuHead>, callback: &'static Callback) {
        // SAFETY: the contracts are the same.
        unsafe { self.kvfree.call_head(head, callback) }
    }

    /// A view for signal handlers: retiring through it takes no lock, allocates nothing, and kicks nobody.
    pub fn constrained(&self) -> Constrained<'_, F::Source> {
        self.kvfree.constrained()
    }

    /// Frees what `cache` has pending in this domain (`kvfree_rcu_barrier_on_cache`). Waits for a grace period if anything is pending, but
    /// not for others' deferred functions.
    ///
    /// # Panics
    /// As [`barrier`](Self::barrier).
    #[track_caller]
    pub fn barrier_on<T>(&self, cache: &Cache<T>) {
        self.kvfree.barrier_on(cache);
    }

    /// Bytes pending, and bytes in reserve (a shrinker's count). A look.
    pub fn reclaimable(&self) -> Reclaimable {
        self.kvfree.reclaimable()
    }

    /// Memory is short (a shrinker's scan): closes half-full blocks, pushes the grace period, frees what has elapsed and runs no user
    /// code (values with a destructor stay for the worker), empties the reserves, and keeps refills small for a while. Never waits for readers.
    /// Returns the bytes given back here; called again, it frees what later grace periods have let go.
    pub fn relieve(&self) -> Reclaimable {
        self.kvfree.relieve()
    }

    /// Frees everything retired or deferred before the call, and what that retires (`rcu_barrier`, `kvfree_rcu_barrier`). Waits
    /// for grace periods. Destructors and deferred functions may run on this thread: hold no lock that one of them takes.
    ///
    /// # Panics
    /// Inside a section of this domain, or inside one of its deferred functions: it would wait for itself.
    #[track_caller]
    pub fn barrier(&self) {
        self.kvfree.barrier();
    }

    /// Waits until no more than the budget is queued (what lies in open blocks, up to 504 objects for each CPU and lane, comes on top: `flush` first if
    /// that matters): for callers who may wait, between two pieces of work, without a lock in hand that a
    /// reader or a destructor takes. As long as a reader stalls it waits. In a domain without workers deferred functions run on
    /// this thread.
    ///
    /// # Errors
    /// The thread must not wait: it is inside a section of any domain and flavour, in a deferred function or destructor, a worker, or
    /// in a signal handler that interrupted the allocator. Nothing was waited for.
    pub fn throttle(&self) -> Result<(), MayNotWait> {
        self.kvfree.throttle()
    }

    /// Closes half-full blocks and starts a grace period for them. Does not wait.
    pub fn flush(&self) {
        self.kvfree.flush();
    }

    /// One round of the worker's duties on this thread, for a domain without workers. Never waits; runs deferred functions.
    /// Returns whether something is still pending.
    pub fn tick(&self) -> bool {
        self.source.drive();
        self.kvfree.tick()
    }

    /// What is pending in each lane (one for each cache, and some more). A walk over everything queued, for reports.
    pub fn lanes(&self) -> Vec<LaneStats> {
        self.kvfree.lanes()
    }

    /// What is pending, and what has happened.
    pub fn stats(&self) -> Stats {
        Stats::of(self.kvfree.stats(), &self.source)
    }
}

/// A domain knows the readers of type-stable memory (`SLAB_TYPESAFE_BY_RCU`): an object found in one of its sections stays what it is to the section's
/// end, although it may have been freed, and be somebody else's by now. So a reader has to make sure, after it has found it, that it is still the
/// one it looked for. A slab is given up after a grace period of this domain, by its worker, ticker or a [`barrier`](Domain::barrier);
/// sections of other domains and flavours protect nothing.
///
/// ```
/// use quietus::slab::{Cache, Stable};
/// use quietus::{Domain, pin};
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// struct Session { owner: AtomicU64 }
/// let sessions = Cache::builder("sessions")
///     .constructed(|| Session { owner: AtomicU64::new(0) })
///     .type_stable(Domain::global())
///     .build()?;
/// let session = sessions.alloc();
/// session.owner.store(7, Relaxed);
///
/// let guard = pin();
/// let found = Stable::as_ptr(&session); // where a lock-free structure would have it
/// drop(session); // goes back to the cache, and the next who allocates may have it
/// sessions.shrink(); // even its slab is given up
/// // SAFETY: found in a section of the domain that the cache waits for, which has not ended.
/// let owner = unsafe { &(*found).owner };
/// assert_eq!(owner.load(Relaxed), 7, "or whatever its new owner has made of it; no lock, no count, no crash");
/// drop(guard);
///
/// Domain::global().barrier();
/// assert_eq!(sessions.stats().slabs_given, 1);
/// # Ok::<(), quietus::slab::BuildError>(())
/// ```
///
/// The domain has to live as long as the process:
///
/// ```compile_fail,E0597
/// # use quietus::{Domain, slab::Cache};
/// let domain = Domain::new();
/// let cache = Cache::builder("numbers").constructed(|| 1).type_stable(&domain).build();
/// ```
/// ```
/// # use quietus::{Domain, slab::Cache};
/// let domain: &'static Domain = Box::leak(Box::new(Domain::new()));
/// let cache = Cache::builder("numbers").constructed(|| 1).type_stable(domain).build();
/// ```
// SAFETY: (1) as that of its kvfree.
unsafe impl<F: Flavour> Grace for Domain<F> {
    fn after(&self, call: Call) {
        self.kvfree.after(call);
    }
}

impl Default for Domain {
    fn default() -> Self {
        Self::new()
    }
}

impl<F: Flavour> Drop for Domain<F> {
    fn drop(&mut self) {
        // SAFETY: (1) guards borrow the domain, and this is a `&mut`: what is left of sections is leaked guards, through which
        // nothing can be read any more.
        unsafe { self.source.end() };
    }
}

impl<F: Flavour> fmt::Debug for Domain<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain").finish_non_exhaustive()
    }
}
