//! A handle on an engine: the global one, which is a static, or a private one, which is shared.
//!
//! Domains, cells and everything that waits hold an [`EngineRef`] and use the engine through it. What needs to know the
//! *calling thread's* part in the engine (its slot, whether it is inside a section) is asked here rather than of the
//! engine, because the answer comes from thread-locals.

use crate::engine::{Counts, Engine};
use crate::local;
use crate::registry::{Holdout, Slot};
use crate::source::{self, Source};
use crate::wait::InsideSection;
use crate::watch::Watch;
use quietus_kvfree::{Cookie, GracePeriods};
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The global engine, or a shared private one.
#[derive(Clone)]
pub enum EngineRef {
    /// The one behind [`pin`](crate::memb::pin).
    Global,
    /// One that belongs to a domain.
    Private(Arc<Engine>),
}

impl EngineRef {
    /// A new private engine.
    pub(crate) fn private() -> EngineRef {
        EngineRef::Private(Arc::new(Engine::new()))
    }

    /// The calling thread's slot, claimed if it has none.
    #[inline]
    pub(crate) fn slot(&self) -> &Slot {
        match self {
            EngineRef::Global => local::global_slot(),
            EngineRef::Private(engine) => local::private_slot(engine),
        }
    }

    /// Whether the calling thread is inside a section of this engine.
    pub(crate) fn inside(&self) -> bool {
        match self {
            EngineRef::Global => local::is_inside_global(),
            EngineRef::Private(engine) => local::is_inside_private(engine),
        }
    }
}

impl Deref for EngineRef {
    type Target = Engine;

    #[inline]
    fn deref(&self) -> &Engine {
        match self {
            EngineRef::Global => &local::GLOBAL,
            EngineRef::Private(engine) => engine,
        }
    }
}

// SAFETY: 1: `elapsed` is true when a grace period with that number or a later one has completed: B, C, G. 2: `start` is a
// read-modify-write of the sequence, and the driver's heavy fence follows its load of it: A, B, E. 3: `completed` only grows.
// 4: so does the sequence. 5: `advance` only tries the lock; nothing here allocates or retires.
unsafe impl GracePeriods for EngineRef {
    #[inline]
    fn start(&self) -> Cookie {
        Cookie((**self).start())
    }
    #[inline]
    fn poll(&self, cookie: Cookie) -> bool {
        self.elapsed(cookie.0)
    }
    fn advance(&self, cookie: Cookie) -> bool {
        (**self).advance(cookie.0)
    }
    fn is_cheap(&self) -> bool {
        (**self).is_cheap()
    }
    fn synchronize(&self, cookie: Cookie) {
        Source::wait_for(self, cookie.0);
    }
    fn attend(&self) -> bool {
        source::attend(self)
    }
    fn inside_any(&self) -> bool {
        GracePeriods::inside(self) == Some(true) || local::is_inside_any_global()
    }
    fn before_fork(&self) {
        self.watch.before_fork();
    }
    unsafe fn after_fork(&self, child: bool) {
        // SAFETY: (1) is contract 1.
        unsafe { self.watch.after_fork(child) };
        if child {
            // SAFETY: (1) is part of contract 1.
            unsafe { self.forked() };
        }
    }
    fn inside(&self) -> Option<bool> {
        Some(EngineRef::inside(self))
    }
}

// SAFETY: 1: `push` and `try_wait_until` ask the engine's `advance`, as above.
unsafe impl Source for EngineRef {
    fn push(&self, number: u64) -> bool {
        (**self).advance(number)
    }
    fn try_wait_until(&self, number: u64, deadline: Option<Instant>) -> Result<bool, InsideSection> {
        (**self).try_wait(number, deadline, || source::look(self))
    }
    fn holdouts(&self, number: u64) -> Vec<Holdout> {
        (**self).holdouts(number)
    }
    fn watch(&self) -> &Watch {
        &self.watch
    }
    fn running(&self) -> Option<Option<(u64, Duration)>> {
        (**self).running()
    }
    fn counts(&self) -> Counts {
        (**self).counts()
    }
    unsafe fn end(&self) {
        if let EngineRef::Private(engine) = self {
            // SAFETY: (1) is contract 1.
            unsafe { engine.abandon_sections() };
        }
    }
}
