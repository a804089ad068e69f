//! The doors to RCU that a program may use, behind one trait: the global domain, a private one, a private one without a worker.

use quietus::{Domain, DomainGuard, Guard, Section};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// One way to read, wait and retire.
pub(crate) trait Flavour: Sync + Sized + 'static {
    type Guard<'f>: Section
    where
        Self: 'f;
    /// Alone: nobody else uses the same readers and queues meanwhile.
    fn alone() -> Self;
    fn domain(&self) -> &Domain;
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
