//! [`QsbrRef`]: a handle on a qsbr engine, the global one or a private one, as `engine_ref` is for the default flavour.
//!
//! Handed to by domains, cookies and `kvfree`; hands to `engine`. Whether the calling thread is inside is asked of the list of
//! slots, since any number of them may be the thread's.

use crate::engine::{Counts, Engine};
use crate::qsbr::GLOBAL;
use crate::registry::Holdout;
use crate::source::{self, Source};
use crate::wait::InsideSection;
use crate::watch::Watch;
use quietus_kvfree::{Cookie, GracePeriods};
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The global qsbr engine, or a shared private one.
#[derive(Clone)]
pub enum QsbrRef {
    /// The one behind [`reader`].
    Global,
    /// One that belongs to a domain.
    Private(Arc<Engine>),
}

impl Deref for QsbrRef {
    type Target = Engine;
    #[inline]
    fn deref(&self) -> &Engine {
        match self {
            QsbrRef::Global => &GLOBAL,
            QsbrRef::Private(engine) => engine,
        }
    }
}

// SAFETY: as for `EngineRef`, except that the driver's fence of 2 is a plain one, against the one in `online`: L. 1: C, G, K.
// 3 and 4: the same sequence. 5: `advance` only tries the lock; nothing here allocates or retires.
unsafe impl GracePeriods for QsbrRef {
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
        GracePeriods::inside(self) == Some(true) || crate::local::is_inside_any_global()
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
        Some(self.is_inside())
    }
}

// SAFETY: 1: `push` and `try_wait_until` ask the engine's `advance`, as above.
unsafe impl Source for QsbrRef {
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
        if let QsbrRef::Private(engine) = self {
            // SAFETY: (1) is contract 1.
            unsafe { engine.abandon_sections() };
        }
    }
}
