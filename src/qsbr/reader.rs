//! [`Reader`] and [`DomainReader`]: a thread's registration with the global qsbr domain, or with a private one.
//!
//! Users register, and load through the reader; hands to `engine`. Each reader has a slot of its own, so that any number of them
//! on one thread, dropped in any order, do not know of each other.
//!
//! # Ordering
//! K and L of docs/ORDERING.md, in `engine`.

use crate::engine::Engine;
use crate::flavour::Qsbr;
use crate::qsbr::{GLOBAL, source::QsbrRef};
use crate::registry::Slot;
use crate::section::{Section, sealed::Sealed};
use crate::sync::thread_number;
use std::fmt;
use std::marker::PhantomData;

/// A slot that is online as long as this lives, except within [`offline`](Self::offline).
struct Registration<'d> {
    engine: &'d Engine,
    slot: &'d Slot,
    /// Neither Send nor Sync: the slot is the thread's, and waiting asks for the thread's slots.
    _thread: PhantomData<*mut ()>,
}

impl<'d> Registration<'d> {
    fn new(engine: &'d Engine, name: Option<Box<str>>) -> Self {
        let slot = engine.claim(thread_number(), name);
        engine.online(slot);
        Registration { engine, slot, _thread: PhantomData }
    }

    #[inline]
    fn quiescent(&mut self) {
        self.engine.quiescent(self.slot);
    }

    fn offline<R>(&mut self, f: impl FnOnce() -> R) -> R {
        /// Comes back online even if `f` panics: whoever catches that still has the reader.
        struct Back<'a, 'd>(&'a Registration<'d>);
        impl Drop for Back<'_, '_> {
            fn drop(&mut self) {
                self.0.engine.online(self.0.slot);
            }
        }
        self.engine.offline(self.slot);
        let _back = Back(self);
        f()
    }

    fn synchronize(&mut self) {
        let engine = self.engine;
        self.offline(|| engine.synchronize());
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.engine.give_back(self.slot);
    }
}

/// A thread's registration with the global qsbr domain. The thread is *online*, inside a read-side section, from registering
/// to dropping, except within [`offline`](Self::offline).
///
/// It belongs to its thread:
///
/// ```compile_fail,E0277
/// let reader = quietus::qsbr::reader();
/// std::thread::spawn(move || drop(reader));
/// ```
///
/// ```compile_fail,E0277
/// let reader = quietus::qsbr::reader();
/// std::thread::scope(|s| s.spawn(|| drop(&reader)).join().unwrap());
/// ```
///
/// ```
/// std::thread::spawn(|| drop(quietus::qsbr::reader())).join().unwrap();
/// ```
///
/// One that is leaked stays online: grace periods stall, and nothing is freed early.
#[must_use = "the thread is registered until the reader is dropped"]
#[repr(transparent)]
pub struct Reader(Registration<'static>);

/// Registers the calling thread with the global qsbr domain once more, and puts it online.
///
/// Allocates at most a chunk of slots (half a KiB; where there are many readers up to 64), which later readers use again; never blocks. Not for signal handlers.
pub fn reader() -> Reader {
    super::tell_of_forks();
    Reader(Registration::new(&GLOBAL, thread_name()))
}

/// For reports.
pub(super) fn thread_name() -> Option<Box<str>> {
    std::thread::current().name().map(Box::from)
}

impl Reader {
    /// A registration of a thread that has no thread-locals any more, not even its name.
    pub(super) fn late() -> Reader {
        Reader(Registration::new(&GLOBAL, None))
    }

    /// A reader that stands for a slot of the global engine that somebody else looks after. To be forgotten, not dropped.
    pub(super) fn of(slot: &'static Slot) -> Reader {
        Reader(Registration { engine: &GLOBAL, slot, _thread: PhantomData })
    }

    /// A quiescent state (`rcu_quiescent_state`): says that this reader holds nothing from before. A load and a store, no fence.
    ///
    /// No reference survives it:
    ///
    /// ```compile_fail,E0502
    /// let limit: quietus::Rcu<u64, quietus::Qsbr> = quietus::Rcu::in_flavour(10);
    /// let mut reader = quietus::qsbr::reader();
    /// let before = limit.load(&reader);
    /// reader.quiescent();
    /// println!("{before}");
    /// ```
    ///
    /// ```
    /// let limit: quietus::Rcu<u64, quietus::Qsbr> = quietus::Rcu::in_flavour(10);
    /// let mut reader = quietus::qsbr::reader();
    /// println!("{}", limit.load(&reader));
    /// reader.quiescent();
    /// println!("{}", limit.load(&reader));
    /// ```
    #[inline]
    pub fn quiescent(&mut self) {
        self.0.quiescent();
    }

    /// Runs `f` offline (`rcu_thread_offline`): as long as it takes, this reader holds up nothing. For everything that blocks.
    /// Comes online again in any case, also when `f` panics. A store before, a store and a fence after.
    ///
    /// Nothing is read meanwhile, and no reference survives it:
    ///
    /// ```compile_fail,E0502
    /// let limit: quietus::Rcu<u64, quietus::Qsbr> = quietus::Rcu::in_flavour(10);
    /// let mut reader = quietus::qsbr::reader();
    /// let before = limit.load(&reader);
    /// reader.offline(|| println!("waiting"));
    /// println!("{before}");
    /// ```
    ///
    /// ```compile_fail,E0501
    /// let limit: quietus::Rcu<u64, quietus::Qsbr> = quietus::Rcu::in_flavour(10);
    /// let mut reader = quietus::qsbr::reader();
    /// reader.offline(|| println!("{}", limit.load(&reader)));
    /// ```
    ///
    /// ```
    /// let limit: quietus::Rcu<u64, quietus::Qsbr> = quietus::Rcu::in_flavour(10);
    /// let mut reader = quietus::qsbr::reader();
    /// reader.offline(|| println!("waiting"));
    /// println!("{}", limit.load(&reader));
    /// ```
    pub fn offline<R>(&mut self, f: impl FnOnce() -> R) -> R {
        self.0.offline(f)
    }

    /// Waits for a grace period, offline meanwhile (`synchronize_rcu` of a qsbr thread).
    ///
    /// # Panics
    /// If another reader of the same thread is online: it would wait for itself.
    pub fn synchronize(&mut self) {
        self.0.synchronize();
    }
}

impl Sealed for Reader {}

// SAFETY: (1) made online, on a slot of its own; only `offline` and Drop end that; the reader is neither Send nor Sync. (2) Both,
// and `quiescent`, need the reader itself or `&mut`, not a borrow; `offline` is online again when it returns or unwinds.
unsafe impl Section<Qsbr> for Reader {}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

/// A thread's registration with a private qsbr domain, which it borrows. Everything said of [`Reader`] holds for it, for the
/// objects of its own domain.
///
/// ```
/// # use std::sync::atomic::Ordering::{AcqRel, Acquire};
/// use quietus::slab::SlabBox;
/// use quietus::{Atomic, Domain, Qsbr, Shared};
/// let domain = Domain::qsbr();
/// let slot: Atomic<u64, Qsbr> = Atomic::in_flavour(Shared::from_box(SlabBox::new(1)));
/// let mut reader = domain.reader();
/// // SAFETY: published above, retired below, after a grace period.
/// assert_eq!(unsafe { slot.load(Acquire, &reader).as_ref() }, Some(&1));
/// let old = slot.swap(Shared::null(), AcqRel, &reader);
/// // SAFETY: unlinked, by us alone; it came from slab memory.
/// unsafe { domain.retire(old.as_non_null().unwrap()) };
/// reader.offline(|| domain.barrier());
/// ```
///
/// It does not open a cell, whose domain is the global one, and does not outlive its domain:
///
/// ```compile_fail,E0308
/// let limit: quietus::Rcu<u64, quietus::Qsbr> = quietus::Rcu::in_flavour(10);
/// let domain = quietus::Domain::qsbr();
/// limit.load(&domain.reader());
/// ```
///
/// ```compile_fail,E0505
/// let domain = quietus::Domain::qsbr();
/// let mut reader = domain.reader();
/// drop(domain);
/// reader.quiescent();
/// ```
///
/// ```
/// let domain = quietus::Domain::qsbr();
/// let mut reader = domain.reader();
/// reader.quiescent();
/// drop(reader);
/// drop(domain);
/// ```
#[must_use = "the thread is registered until the reader is dropped"]
pub struct DomainReader<'d>(Registration<'d>);

impl<'d> DomainReader<'d> {
    pub(super) fn new(engine: &'d QsbrRef) -> Self {
        DomainReader(Registration::new(engine, thread_name()))
    }

    /// A quiescent state; see [`Reader::quiescent`].
    #[inline]
    pub fn quiescent(&mut self) {
        self.0.quiescent();
    }

    /// Runs `f` offline; see [`Reader::offline`].
    pub fn offline<R>(&mut self, f: impl FnOnce() -> R) -> R {
        self.0.offline(f)
    }

    /// Waits for a grace period, offline meanwhile; see [`Reader::synchronize`].
    ///
    /// # Panics
    /// If another reader of the same thread and domain is online.
    pub fn synchronize(&mut self) {
        self.0.synchronize();
    }
}

impl Sealed for DomainReader<'_> {}

// SAFETY: (1) and (2) as for Reader.
unsafe impl Section<Qsbr> for DomainReader<'_> {}

impl fmt::Debug for DomainReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DomainReader").finish_non_exhaustive()
    }
}
