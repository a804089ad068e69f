//! What a compare-exchange says when it fails, and the older names for the same.

use crate::pointable::Pointable;
use crate::pointer::Pointer;
use crate::shared::Shared;
use std::fmt;
use std::sync::atomic::Ordering;

/// A compare-exchange has failed: what was there, and the pointer that was not stored.
pub struct CompareExchangeError<'g, T: ?Sized + Pointable, P: Pointer<T>> {
    /// What the atomic held.
    pub current: Shared<'g, T>,
    /// What was to be stored: the caller's again.
    pub new: P,
}

impl<T, P: Pointer<T> + fmt::Debug> fmt::Debug for CompareExchangeError<'_, T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompareExchangeError").field("current", &self.current).field("new", &self.new).finish()
    }
}

/// The older name of [`CompareExchangeError`].
#[deprecated(note = "use `CompareExchangeError`")]
pub type CompareAndSetError<'g, T, P> = CompareExchangeError<'g, T, P>;

/// The orderings of `compare_and_set`: one, or one each for success and failure.
#[deprecated(note = "use `compare_exchange`, which takes both")]
pub trait CompareAndSetOrdering {
    /// When it stores.
    fn success(&self) -> Ordering;
    /// When it only loads.
    fn failure(&self) -> Ordering;
}

#[allow(deprecated, reason = "it is there for those who still use it")]
impl CompareAndSetOrdering for Ordering {
    #[inline]
    fn success(&self) -> Ordering {
        *self
    }
    /// The strongest that a load can have beside it.
    #[inline]
    fn failure(&self) -> Ordering {
        match self {
            Ordering::AcqRel => Ordering::Acquire,
            Ordering::Release => Ordering::Relaxed,
            other => *other,
        }
    }
}

#[allow(deprecated, reason = "it is there for those who still use it")]
impl CompareAndSetOrdering for (Ordering, Ordering) {
    #[inline]
    fn success(&self) -> Ordering {
        self.0
    }
    #[inline]
    fn failure(&self) -> Ordering {
        self.1
    }
}
