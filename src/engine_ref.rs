//! A handle on an engine: the global one, which is a static, or a private one, which is shared.
//!
//! Domains, cells and everything that waits hold an [`EngineRef`] and use the engine through it. What needs to know the
//! *calling thread's* part in the engine (its slot, whether it is inside a section) is asked here rather than of the
//! engine, because the answer comes from thread-locals.

use crate::engine::Engine;
use crate::local;
use crate::registry::Slot;
use crate::wait::InsideSection;
use std::ops::Deref;
use std::sync::Arc;

/// The global engine, or a shared private one.
#[derive(Clone)]
pub(crate) enum EngineRef {
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

    /// Waits until every section that is open now has ended.
    ///
    /// # Panics
    ///
    /// If the calling thread is inside one of them.
    pub(crate) fn synchronize(&self) {
        Engine::synchronize(self);
    }

    /// The same; an error instead of a panic.
    pub(crate) fn try_synchronize(&self) -> Result<(), InsideSection> {
        Engine::try_synchronize(self)
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
