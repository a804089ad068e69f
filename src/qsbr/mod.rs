//! Quiescent-state-based RCU: reading costs nothing, because a registered thread is inside all the time and only says now and
//! then that it holds nothing any more (liburcu's *qsbr*, the kernel's own way).
//!
//! | for | there is |
//! | --- | --- |
//! | threads with a loop of their own | [`reader`] and [`Domain::reader`]: register, then [`Reader::quiescent`] once a round |
//! | executors, thread pools | [`local`]: a reader in a thread-local, with hooks for parking |
//! | cells | `Rcu<T, Qsbr>`, made by [`Rcu::in_flavour`](crate::Rcu::in_flavour) |
//! | readers and garbage of one's own | [`Domain::qsbr`] |
//!
//! ```
//! use quietus::{Qsbr, Rcu, qsbr};
//! let limit: Rcu<u64, Qsbr> = Rcu::in_flavour(10);
//! let mut reader = qsbr::reader();            // online: inside, from here on
//! for _ in 0..3 {
//!     assert!(*limit.load(&reader) >= 10);    // a load, nothing else
//!     drop(limit.replace(11));
//!     reader.quiescent();                     // once a round: nothing from before is used any more
//! }
//! reader.offline(|| qsbr::domain().barrier()); // whoever blocks or waits goes offline meanwhile
//! ```
//!
//! The price: a thread that is online and does not say [`quiescent`](Reader::quiescent) holds up every grace period. Whoever
//! blocks goes offline before. Waiting for a grace period while online, through a domain or a cookie, would be waiting for
//! oneself, and panics; [`Reader::synchronize`] goes offline for it.
//!
//! No grace period of this flavour issues a membarrier: coming online is rare enough for a fence on either side.
//!
//! The readers' side is in `reader` and `local`, the grace periods are the engine's.
//!
//! # Ordering
//! K: a quiescent state acquires the sequence and is released to the scan, without a fence. L: coming online, and a driver.

pub mod local;
mod reader;
mod source;

pub use reader::{DomainReader, Reader, reader};

use crate::builder::Builder;
use crate::domain::{Domain, Flavour};
use crate::engine::Engine;
use crate::flavour::Qsbr;
use crate::fork;
use crate::section::sealed::Sealed;
use quietus_slab::raw::once;
pub(crate) use source::QsbrRef;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

pub(crate) use crate::local::QSBR as GLOBAL;

/// Before a slot of [`GLOBAL`] is claimed.
fn tell_of_forks() {
    extern "C" fn forked() {
        // SAFETY: (1) called by fork, in the child.
        unsafe { GLOBAL.forked() };
    }
    static DONE: AtomicBool = AtomicBool::new(false);
    fork::install(&DONE, forked);
}

impl Sealed for Qsbr {}

impl Flavour for Qsbr {
    type Guard = Reader;
    type Source = QsbrRef;
    #[inline]
    fn domain() -> &'static Domain<Qsbr> {
        domain()
    }
    fn in_section<R>(f: impl FnOnce(&Reader) -> R) -> R {
        local::with(f)
    }
}

/// The process's qsbr domain, made at first use: the one that [`reader`], [`local`] and `Rcu<T, Qsbr>` use.
#[inline]
pub fn domain() -> &'static Domain<Qsbr> {
    static DOMAIN: OnceLock<Domain<Qsbr>> = OnceLock::new();
    once(&DOMAIN, || Domain::over(QsbrRef::Global, Builder::default()))
}

impl Domain<Qsbr> {
    /// A private qsbr domain with the default settings.
    ///
    /// # Panics
    /// As [`Builder::build`].
    pub fn qsbr() -> Domain<Qsbr> {
        Domain::builder().build_qsbr()
    }

    /// Registers the calling thread with this domain once more, and puts it online.
    ///
    /// Allocates at most a chunk of slots (half a KiB; where there are many readers up to 64), which later readers use again; never blocks.
    pub fn reader(&self) -> DomainReader<'_> {
        DomainReader::new(self.source())
    }
}

impl Builder {
    /// Makes a private domain of the flavour [`Qsbr`].
    ///
    /// # Panics
    /// As [`build`](Builder::build).
    pub fn build_qsbr(self) -> Domain<Qsbr> {
        Domain::over(QsbrRef::Private(Arc::new(Engine::qsbr())), self)
    }
}
