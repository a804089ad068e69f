//! The concurrency primitives this crate is built from: the standard library's and the allocator's lock, behind one set of names, so
//! that models can put others in their place.
//!
//! Nobody hands anything to this module; atomics that are no statistics, locks, waiting and clocks (but the coarse one of
//! `ages`, which no schedule asks for) come from here. Under
//! `--cfg quietus_shuttle` they are scheduling points, and tests/schedule_shuttle.rs runs this crate as it is; the models of quietus's
//! tests/kvfree_loom include some of the modules as they are, beside a `sync` of their own.
//!
//! # Ordering
//! None of its own.

#[cfg(not(quietus_shuttle))]
mod imp {
    pub(crate) use parking_lot::Mutex;
    pub(crate) use quietus_slab::raw::{Held, Lock};
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize};
    use std::time::Duration;
    pub(crate) use std::time::Instant;
    pub(crate) use std::{thread, thread_local};

    /// Waits for a mutex under which user code runs, without sleeping on it: a thread that sleeps there leaves a mark, which in a fork child
    /// nobody would take away.
    pub(crate) fn hold_mutex<T>(mutex: &Mutex<T>) -> parking_lot::MutexGuard<'_, T> {
        loop {
            match mutex.try_lock() {
                Some(held) => return held,
                None => thread::sleep(Duration::from_micros(100)),
            }
        }
    }
}

#[cfg(quietus_shuttle)]
#[path = "sync/scheduled.rs"]
pub(crate) mod imp;

pub(crate) use imp::*;
pub(crate) use std::sync::atomic::Ordering;
