//! [`Guard`] and [`DomainGuard`]: crossbeam's guard, known to be one of the right collector.
//!
//! A type of its own is needed because `Collector::new().register().pin()` is a guard, too, made by safe code, and proves nothing
//! about any other collector. Users pin here; hands to crossbeam-epoch.

use crate::epoch::source::EpochRef;
use crate::flavour::Epoch;
use crate::section::{Section, sealed::Sealed};
use crossbeam_epoch::Guard as Inner;
use std::fmt;
use std::marker::PhantomData;

/// A guard of crossbeam-epoch's default collector: a section of the global epoch domain.
///
/// A bare guard of crossbeam-epoch, which may be of any collector, is none:
///
/// ```compile_fail,E0308
/// use quietus::{Epoch, Rcu, epoch::crossbeam_epoch::Collector};
/// let limit: Rcu<u64, Epoch> = Rcu::in_flavour(10);
/// let guard = Collector::new().register().pin();
/// limit.load(&guard);
/// ```
///
/// ```compile_fail,E0277
/// # use std::sync::atomic::Ordering::Acquire;
/// use quietus::{Atomic, Epoch, Shared, epoch::crossbeam_epoch};
/// let slot: Atomic<u64, Epoch> = Atomic::in_flavour(Shared::null());
/// slot.load(Acquire, &crossbeam_epoch::pin());
/// ```
///
/// ```
/// # use std::sync::atomic::Ordering::Acquire;
/// use quietus::{Atomic, Epoch, Rcu, Shared, epoch};
/// let limit: Rcu<u64, Epoch> = Rcu::in_flavour(10);
/// let slot: Atomic<u64, Epoch> = Atomic::in_flavour(Shared::null());
/// let guard = epoch::pin();
/// limit.load(&guard);
/// slot.load(Acquire, &guard);
/// ```
///
/// It stays on its thread:
///
/// ```compile_fail,E0277
/// let guard = quietus::epoch::pin();
/// std::thread::spawn(move || drop(guard));
/// ```
///
/// ```
/// std::thread::spawn(|| drop(quietus::epoch::pin())).join().unwrap();
/// ```
#[must_use = "the section ends when the guard is dropped"]
#[repr(transparent)]
pub struct Guard(Inner);

/// Pins the thread in crossbeam-epoch's default collector: opens a section of the global epoch domain.
#[inline]
pub fn pin() -> Guard {
    Guard(crossbeam_epoch::pin())
}

impl Guard {
    /// A guard that crossbeam-epoch has given out, if it is one of the default collector.
    ///
    /// ```
    /// use quietus::{Epoch, Rcu, epoch::{Guard, crossbeam_epoch}};
    /// let limit: Rcu<u64, Epoch> = Rcu::in_flavour(10);
    /// let guard = crossbeam_epoch::pin();
    /// assert_eq!(limit.load(Guard::from_crossbeam(&guard).unwrap()), &10);
    /// ```
    #[inline]
    pub fn from_crossbeam(guard: &Inner) -> Option<&Guard> {
        if guard.collector()? != crossbeam_epoch::default_collector() {
            return None;
        }
        // SAFETY: `Guard` is a transparent wrapper; what it stands for was just checked, and holds while the guard is borrowed.
        Some(unsafe { &*std::ptr::from_ref(guard).cast::<Guard>() })
    }

    /// The same, for crossbeam's own structures.
    #[inline]
    pub fn as_crossbeam(&self) -> &Inner {
        &self.0
    }

    /// Ends the section and opens a new one. Does nothing while another guard of this thread is alive.
    ///
    /// No reference from before survives it:
    ///
    /// ```compile_fail,E0502
    /// let limit: quietus::Rcu<u64, quietus::Epoch> = quietus::Rcu::in_flavour(10);
    /// let mut guard = quietus::epoch::pin();
    /// let before = limit.load(&guard);
    /// guard.repin();
    /// println!("{before}");
    /// ```
    ///
    /// ```
    /// let limit: quietus::Rcu<u64, quietus::Epoch> = quietus::Rcu::in_flavour(10);
    /// let mut guard = quietus::epoch::pin();
    /// println!("{}", limit.load(&guard));
    /// guard.repin();
    /// ```
    #[inline]
    pub fn repin(&mut self) {
        self.0.repin();
    }
}

impl Sealed for Guard {}

// SAFETY: (1) a guard of the default collector keeps its thread pinned there, and is neither Send nor Sync; the global domain's
// source is that collector. (2) Unpinning and repinning need the guard itself or `&mut`; other guards of the thread are counted.
unsafe impl Section<Epoch> for Guard {}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

/// A guard of the collector of a [`Domain`](crate::Domain) of the flavour [`Epoch`], which it borrows. Everything said of [`Guard`]
/// holds for it, for the objects of its own domain.
///
/// ```compile_fail,E0308
/// use quietus::{Domain, Epoch, Rcu, epoch::crossbeam_epoch::Collector};
/// let limit: Rcu<u64, Epoch> = Rcu::in_flavour(10);
/// let domain = Domain::epoch(&Collector::new());
/// limit.load(&domain.guard());
/// ```
///
/// ```compile_fail,E0505
/// let domain = quietus::Domain::epoch(&quietus::epoch::crossbeam_epoch::Collector::new());
/// let mut guard = domain.guard();
/// drop(domain);
/// guard.repin();
/// ```
///
/// ```
/// let domain = quietus::Domain::epoch(&quietus::epoch::crossbeam_epoch::Collector::new());
/// let mut guard = domain.guard();
/// guard.repin();
/// drop(guard);
/// drop(domain);
/// ```
#[must_use = "the section ends when the guard is dropped"]
#[repr(transparent)]
pub struct DomainGuard<'d> {
    guard: Inner,
    _domain: PhantomData<&'d ()>,
}

impl<'d> DomainGuard<'d> {
    #[inline]
    pub(super) fn pin(source: &'d EpochRef) -> Self {
        DomainGuard { guard: source.pin(), _domain: PhantomData }
    }

    #[inline]
    pub(super) fn accept(source: &'d EpochRef, guard: &'d Inner) -> Option<&'d Self> {
        if guard.collector()? != source.collector() {
            return None;
        }
        // SAFETY: `DomainGuard` is a transparent wrapper; what it stands for was just checked, and holds while the guard is borrowed.
        Some(unsafe { &*std::ptr::from_ref(guard).cast::<DomainGuard<'d>>() })
    }

    /// The same, for crossbeam's own structures.
    #[inline]
    pub fn as_crossbeam(&self) -> &Inner {
        &self.guard
    }

    /// Ends the section and opens a new one; see [`Guard::repin`].
    #[inline]
    pub fn repin(&mut self) {
        self.guard.repin();
    }
}

impl Sealed for DomainGuard<'_> {}

// SAFETY: (1) and (2) as for Guard, for the collector that the domain was made over.
unsafe impl Section<Epoch> for DomainGuard<'_> {}

impl fmt::Debug for DomainGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DomainGuard").finish_non_exhaustive()
    }
}
