//! What belongs to this process and not to the one that it was forked from: the long locks, the work queue and its threads, the reaper.
//!
//! Handed to by [`order`](crate::order) and [`work`](crate::work). A child has none of its parent's threads, and a lock that another
//! thread held in that moment is held for ever: so the child finds, by its id, that what there is is its parent's, and makes its
//! own. Work that was queued comes along.
//!
//! # Ordering
//! Acquire to find, Release to publish: the fields of a fresh value.

use crate::order::Locks;
use crate::reap::Reaper;
use crate::work::Office;
use std::ptr::null_mut;
use std::sync::atomic::{
    AtomicPtr,
    Ordering::{AcqRel, Acquire},
};

/// One for each process. Lives for ever.
pub(crate) struct Process {
    pid: u32,
    pub(crate) locks: Locks,
    pub(crate) office: Office,
    pub(crate) reaper: Reaper,
}

static HERE: AtomicPtr<Process> = AtomicPtr::new(null_mut());

/// This process's. Costs a `getpid`.
pub(crate) fn here() -> &'static Process {
    // Acquire: pairs with the exchange in `make`.
    let now = HERE.load(Acquire);
    let pid = std::process::id();
    // SAFETY: what was published lives for ever.
    match unsafe { now.as_ref() } {
        Some(here) if here.pid == pid => here,
        _ => make(now, pid),
    }
}

#[cold]
fn make(old: *mut Process, pid: u32) -> &'static Process {
    let new = Box::into_raw(Box::new(Process {
        pid,
        locks: Locks::default(),
        office: Office::new(),
        reaper: Reaper::default(),
    }));
    // AcqRel: publishes the fields; a failed exchange reads another's.
    match HERE.compare_exchange(old, new, AcqRel, Acquire) {
        Ok(_) => {
            // SAFETY: published just now; the old one lives for ever.
            let (new, old) = unsafe { (&*new, old.as_ref()) };
            if let Some(old) = old {
                new.office.inherit(&old.office);
            }
            new
        }
        Err(other) => {
            // SAFETY: ours, and nobody has seen it; the other was published.
            unsafe {
                drop(Box::from_raw(new));
                &*other
            }
        }
    }
}
