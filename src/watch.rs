//! [`Watch`]: who waits for grace periods without a thread of their own, and what is said when one takes too long.
//!
//! Each source has one. Handed to by `future` (wakers) and, through `source`, by whoever drives: the worker, `tick`, waiting threads.
//! Hands to the wakers, and to the hook for stalls.
//!
//! No lock here is ever waited for in the kernel, and no user code runs under the wakers' one: a fork child finds nobody asleep on it,
//! and a waker may register again.
//!
//! # Ordering
//! A waker is put on the list before its owner looks at the number once more and wakes the worker; the worker goes to sleep only
//! after it has found the list empty, behind the swap of its bell (pair *bell* in `kvfree/worker.rs`).

use crate::registry::Holdout;
use crate::stall::{Hook, Reports};
use crate::sync::stat::{AtomicU64, Relaxed};
use crate::sync::{Mutex, contain, hold, thread_number};
use std::collections::BTreeMap;
use std::task::Waker;
use std::time::Duration;

/// The number that is waited for, and one of the waiter's own.
pub(crate) type Key = (u64, u64);

/// Waiters, and stalls reported.
pub struct Watch {
    waiters: Mutex<Waiters>,
    reports: Mutex<Reports>,
    stalls: AtomicU64,
    /// The thread that is telling the hook.
    teller: AtomicU64,
}

struct Waiters {
    by_number: BTreeMap<Key, Waker>,
    last: u64,
    /// In a fork child, whose worker nobody has woken yet, whatever is on the list.
    forked: bool,
}

impl Watch {
    /// Nobody waits; the defaults.
    pub(crate) const fn new() -> Watch {
        Watch {
            waiters: Mutex::new(Waiters { by_number: BTreeMap::new(), last: 0, forked: false }),
            reports: Mutex::new(Reports::new()),
            stalls: AtomicU64::new(0),
            teller: AtomicU64::new(0),
        }
    }

    /// When a grace period counts as stalled, and who is told.
    pub(crate) fn configure(&self, after: Duration, hook: Option<Hook>) {
        let mut reports = hold(&self.reports);
        (reports.after, reports.hook) = (after, hook);
    }

    /// Stalls reported, each once.
    pub(crate) fn stalls(&self) -> u64 {
        // Relaxed: a statistic.
        self.stalls.load(Relaxed)
    }

    /// Puts a waker on the list, or another one in its place. Returns its key, and whether the worker is to be told: nobody
    /// was there before.
    pub(crate) fn register(&self, number: u64, key: Option<Key>, waker: Waker) -> (Key, bool) {
        let mut waiters = hold(&self.waiters);
        let first = std::mem::take(&mut waiters.forked) || waiters.by_number.is_empty();
        let key = key.unwrap_or_else(|| {
            waiters.last += 1;
            (number, waiters.last)
        });
        let before = waiters.by_number.insert(key, waker);
        drop(waiters);
        drop(before); // its owner's code
        (key, first)
    }

    /// Takes a waker off the list, if it is still there.
    pub(crate) fn forget(&self, key: Key) {
        let waker = hold(&self.waiters).by_number.remove(&key);
        drop(waker);
    }

    /// The greatest number that anybody waits for.
    pub(crate) fn wanted(&self) -> Option<u64> {
        hold(&self.waiters).by_number.last_key_value().map(|(key, _)| key.0)
    }

    /// Wakes those whose number has elapsed, each once. Returns whether others are left.
    pub(crate) fn wake(&self, elapsed: impl Fn(u64) -> bool) -> bool {
        let mut ready = Vec::new();
        let mut waiters = hold(&self.waiters);
        while let Some(first) = waiters.by_number.first_entry().filter(|first| elapsed(first.key().0)) {
            ready.push(first.remove());
        }
        let left = !waiters.by_number.is_empty();
        drop(waiters);
        for waker in ready {
            // An executor's panic is its own, and has been reported.
            contain(|| waker.wake());
        }
        left
    }

    /// Reports a stall that has begun, goes on, or is over, unless somebody else is just doing so. `running` and `readers` as in
    /// [`Source`](crate::source::Source).
    pub(crate) fn look(
        &self,
        running: impl FnOnce() -> Option<Option<(u64, Duration)>>,
        readers: impl FnOnce(u64) -> Option<Vec<Holdout>>,
    ) {
        let Some(mut reports) = self.reports.try_lock() else { return };
        let Some(running) = running() else { return };
        let again = reports.is_stalled();
        let Some(stall) = reports.look(running, readers) else { return };
        if !stall.over && !again {
            // Relaxed: a statistic.
            self.stalls.fetch_add(1, Relaxed);
        }
        // Under the lock, so that reports come one by one; whoever comes here from the hook finds it taken.
        // Relaxed: for this thread, should it fork in the hook.
        self.teller.store(thread_number(), Relaxed);
        reports.tell(&stall);
        // Relaxed: as above.
        self.teller.store(0, Relaxed);
    }

    /// The process is about to fork: nobody is to be in the middle of the list.
    pub(crate) fn before_fork(&self) {
        std::mem::forget(hold(&self.waiters));
    }

    /// # Safety
    /// 1. This thread has called [`before_fork`](Self::before_fork), and has forked; if this is the child, it has one thread.
    pub(crate) unsafe fn after_fork(&self, child: bool) {
        // SAFETY: by (1) this thread holds the lock.
        unsafe { self.waiters.force_unlock() };
        if child {
            hold(&self.waiters).forked = true;
        }
        // Relaxed: this thread's own store, or that of one that is gone.
        if child && self.reports.is_locked() && self.teller.load(Relaxed) != thread_number() {
            // SAFETY: by (1) its holder does not exist; it was looking, or in the hook, which comes after the last change.
            unsafe { self.reports.force_unlock() };
        }
    }
}
