//! The doors to RCU that a program may use, behind one trait: the global domain, a private one, a private one without a worker.

use quietus::{Domain, DomainGuard, Guard, Memb, Section};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// One way to read, wait and retire.
pub(crate) trait Flavour: Sync + Sized + 'static {
    type Kind: quietus::Flavour;
    type Guard<'f>: Section<Self::Kind>
    where
        Self: 'f;
    /// Guards of one thread share a section, which a `repin` leaves alone while there are several. Readers that each have a
    /// registration of their own move by themselves.
    const SHARED: bool = true;
    /// A section that began after a cookie is never in its way. Epochs are coarser than that: a guard has to be repinned twice or
    /// three times.
    const EXACT: bool = true;
    /// Alone: nobody else uses the same readers and queues meanwhile.
    fn alone() -> Self;
    fn domain(&self) -> &Domain<Self::Kind>;
    fn pin(&self) -> Self::Guard<'_>;
    fn repin(guard: &mut Self::Guard<'_>);
    fn synchronize(&self) {
        self.domain().synchronize();
    }
    /// Lets some work be done: by this thread, or by the worker.
    fn drive(&self) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// `quietus::pin` and the global domain.
pub(crate) struct Global(#[allow(dead_code)] MutexGuard<'static, ()>);

impl Flavour for Global {
    type Kind = Memb;
    type Guard<'f> = Guard;
    fn alone() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Domain::global().barrier();
        Global(turn)
    }
    fn domain(&self) -> &Domain {
        Domain::global()
    }
    fn pin(&self) -> Guard {
        quietus::pin()
    }
    fn repin(guard: &mut Guard) {
        guard.repin();
    }
    fn synchronize(&self) {
        quietus::synchronize();
    }
}

/// A domain of one's own.
pub(crate) struct Private(Domain);

impl Flavour for Private {
    type Kind = Memb;
    type Guard<'f> = DomainGuard<'f>;
    fn alone() -> Self {
        Private(Domain::new())
    }
    fn domain(&self) -> &Domain {
        &self.0
    }
    fn pin(&self) -> DomainGuard<'_> {
        self.0.pin()
    }
    fn repin(guard: &mut DomainGuard<'_>) {
        guard.repin();
    }
}

/// A domain of one's own, whose work is done by `tick`.
pub(crate) struct Ticked(Domain);

impl Flavour for Ticked {
    type Kind = Memb;
    type Guard<'f> = DomainGuard<'f>;
    fn alone() -> Self {
        Ticked(Domain::builder().workers(false).build())
    }
    fn domain(&self) -> &Domain {
        &self.0
    }
    fn pin(&self) -> DomainGuard<'_> {
        self.0.pin()
    }
    fn repin(guard: &mut DomainGuard<'_>) {
        guard.repin();
    }
    fn drive(&self) {
        self.0.tick();
    }
}
