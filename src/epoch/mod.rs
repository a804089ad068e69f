//! Grace periods of crossbeam-epoch (feature `epoch`): code that already pins a [`Collector`] is protected, and what it unlinks goes
//! through blocks and batches instead of one deferred function each.
//!
//! ```
//! use quietus::{Epoch, Rcu, epoch};
//! let limit: Rcu<u64, Epoch> = Rcu::in_flavour(10);
//! let guard = epoch::pin();                    // crossbeam_epoch::pin(), in a type of its own
//! assert_eq!(limit.load(&guard), &10);
//! drop(limit.replace(20));                     // freed after crossbeam's grace period, in a batch
//! assert_eq!(limit.load(&guard), &20);
//! ```
//!
//! Code that defers boxes today retires them instead (same crossbeam-epoch 0.9: `quietus::epoch::crossbeam_epoch` is it for certain):
//!
//! ```text
//! // was: guard.defer_destroy(old)
//! epoch::domain().retire_box(NonNull::new(old.as_raw().cast_mut()).unwrap());
//! ```
//!
//! | for | there is |
//! | --- | --- |
//! | code on crossbeam's default collector | [`pin`], [`domain`], `Rcu<T, Epoch>`; [`Guard::from_crossbeam`] for guards it has already |
//! | a collector of one's own | [`Domain::epoch`], [`Domain::guard`], [`Domain::accept`] |
//!
//! # What is different here
//!
//! crossbeam-epoch allocates to defer, and runs whatever else was deferred while it looks for elapsed epochs. Neither may happen
//! to a thread that retires. So retiring only says how far it wants grace periods to go, and a thread of the domain,
//! `quietus-epoch`, pushes them there (without workers: [`Domain::tick`]). Whoever waits or asks a cookie pushes, too, and may
//! then run functions that others have deferred to the collector; a panic of one of those is caught there.
//!
//! A grace period may also wait for sections that began a little later than its cookie: epochs are coarser than numbers. Who holds
//! one up is not known: [`Cookie::holdouts`](crate::Cookie::holdouts) is empty.
//!
//! Waiting inside a section panics where it can be seen: if the section was opened through us, or by `crossbeam_epoch::pin`. With a
//! guard that comes from another [`LocalHandle`](crossbeam_epoch::LocalHandle) of the thread it would hang, as waiting for a leaked
//! guard does. That includes dropping a private domain: others may still read through the collector, so its
//! end waits for them (inside a section it leaks what is pending).
//!
//! None of this is for signal handlers, which crossbeam-epoch does not support.

mod driver;
mod guard;
mod handles;
mod source;

pub use ::crossbeam_epoch;
pub use guard::{DomainGuard, Guard, pin};

use crate::builder::Builder;
use crate::domain::{Domain, Flavour};
use crate::flavour::Epoch;
use crate::section::sealed::Sealed;
use crossbeam_epoch::Collector;
use quietus_slab::raw::once;
use source::EpochRef;
use std::sync::OnceLock;

impl Sealed for Epoch {}

impl Flavour for Epoch {
    type Guard = Guard;
    type Source = EpochRef;
    #[inline]
    fn domain() -> &'static Domain<Epoch> {
        domain()
    }
    fn in_section<R>(f: impl FnOnce(&Guard) -> R) -> R {
        f(&pin())
    }
}

/// The process's epoch domain, made at first use, over crossbeam-epoch's default collector: the one that [`pin`] and
/// `Rcu<T, Epoch>` use.
#[inline]
pub fn domain() -> &'static Domain<Epoch> {
    static DOMAIN: OnceLock<Domain<Epoch>> = OnceLock::new();
    once(&DOMAIN, || over(crossbeam_epoch::default_collector(), Builder::default()))
}

fn over(collector: &Collector, settings: Builder) -> Domain<Epoch> {
    Domain::over(EpochRef::new(collector, settings.config.workers), settings)
}

impl Domain<Epoch> {
    /// A domain over the grace periods of `collector`, with the default settings.
    ///
    /// # Panics
    /// As [`Builder::build`]; this domain has a second thread.
    pub fn epoch(collector: &Collector) -> Domain<Epoch> {
        Domain::builder().build_epoch(collector)
    }

    /// Pins the calling thread in the domain's collector. The thread's first call registers it.
    #[inline]
    pub fn guard(&self) -> DomainGuard<'_> {
        DomainGuard::pin(self.source())
    }

    /// A guard that crossbeam-epoch has given out, as a section of this domain; `None` if it is of another collector, or of none
    /// (`unprotected`).
    ///
    /// ```
    /// use quietus::{Domain, epoch::crossbeam_epoch::Collector};
    /// let (collector, other) = (Collector::new(), Collector::new());
    /// let domain = Domain::epoch(&collector);
    /// let (ours, theirs) = (collector.register().pin(), other.register().pin());
    /// assert!(domain.accept(&ours).is_some());
    /// assert!(domain.accept(&theirs).is_none());
    /// # drop((ours, theirs));
    /// ```
    #[inline]
    pub fn accept<'g>(&'g self, guard: &'g crossbeam_epoch::Guard) -> Option<&'g DomainGuard<'g>> {
        DomainGuard::accept(self.source(), guard)
    }
}

impl Builder {
    /// Makes a domain over the grace periods of `collector`.
    ///
    /// # Panics
    /// As [`build`](Builder::build).
    pub fn build_epoch(self, collector: &Collector) -> Domain<Epoch> {
        over(collector, self)
    }
}
