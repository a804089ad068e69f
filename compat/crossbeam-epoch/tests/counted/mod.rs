//! What the tests defer: values that count their drops.

use crossbeam_epoch::{Guard, LocalHandle, Owned};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Counts its own drop.
#[derive(Default)]
pub(crate) struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// How many have been dropped.
#[derive(Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    pub(crate) fn one(&self) -> Counted {
        Counted(self.0.clone())
    }

    pub(crate) fn dropped(&self) -> usize {
        self.0.load(SeqCst)
    }

    /// Defers the ends of `n` objects.
    pub(crate) fn defer(&self, guard: &Guard, n: usize) {
        for _ in 0..n {
            // SAFETY: nobody else knows the object.
            unsafe { guard.defer_destroy(Owned::new(self.one()).into_shared(guard)) };
        }
    }
}

/// Calls what was deferred before, if nobody else is pinned.
pub(crate) fn flush_twice(handle: &LocalHandle) {
    handle.pin().flush();
    handle.pin().flush();
}
