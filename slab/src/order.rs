//! The three long locks and their order: the list of CPUs, then the list of caches, then the flush.
//!
//! Handed to by [`flush`](crate::flush), [`chain`](crate::chain) and [`hotplug`](crate::hotplug). Each belongs to one process
//! ([`process`](crate::process)). Unlike the short ones of [`lock`](crate::lock) they are held while others work, so they do not
//! mark their holder: a signal handler never asks for them.
//!
//! Debug builds check the order: whoever asks for a lock while holding it, or one that comes later, panics at once rather than
//! hang some day. A function whose name ends in `_locked` asserts what its caller has to hold.
//!
//! # Ordering
//! That of the mutexes. What a thread holds is its own word.

use crate::lock::long;
use crate::process::here;
use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The locks in the order in which they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rank {
    /// Which CPUs are down (`cpus_read_lock`).
    Cpus = 0,
    /// Who ends, chains or walks caches (`slab_mutex`).
    Caches = 1,
    /// Who has the work items of the CPUs (`flush_lock`).
    Flush = 2,
}

/// One set of them for each process.
#[derive(Default)]
pub(crate) struct Locks {
    /// Regions of CPUs that are down: for real ones, their numbers.
    cpus: RwLock<Vec<u32>>,
    caches: Mutex<()>,
    flush: Mutex<()>,
}

thread_local! {
    /// One bit for each rank that this thread holds (debug builds).
    static HELD: Cell<u8> = const { Cell::new(0) };
}

/// The mark of a rank that is held.
struct Mark(Rank);

impl Mark {
    fn new(rank: Rank) -> Mark {
        if cfg!(debug_assertions) {
            let held = HELD.try_with(Cell::get).unwrap_or(0);
            assert!(held >> rank as u8 == 0, "lock order: {rank:?} is asked for while {held:#05b} are held");
            let _ = HELD.try_with(|h| h.set(held | 1 << rank as u8));
        }
        Mark(rank)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let _ = HELD.try_with(|h| h.set(h.get() & !(1 << self.0 as u8)));
    }
}

/// Asserts, in debug builds, that this thread holds the lock.
pub(crate) fn assert_held(rank: Rank) {
    if cfg!(debug_assertions) {
        let held = HELD.try_with(|h| h.get() & 1 << rank as u8 != 0).unwrap_or(true);
        assert!(held, "lock order: {rank:?} has to be held here");
    }
}

/// A lock that is held. (The guard goes before its mark.)
pub(crate) struct Guard<G>(G, #[allow(dead_code)] Mark);

impl Guard<RwLockReadGuard<'static, Vec<u32>>> {
    /// Is this CPU down?
    pub(crate) fn is_down(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }
}

impl Guard<RwLockWriteGuard<'static, Vec<u32>>> {
    /// Is this CPU down?
    pub(crate) fn is_down(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }
    /// Notes whether a CPU is down. False: it was so already.
    pub(crate) fn set_down(&mut self, cpu: u32, down: bool) -> bool {
        let known = self.0.iter().position(|&c| c == cpu);
        match (known, down) {
            (None, true) => self.0.push(cpu),
            (Some(i), false) => drop(self.0.swap_remove(i)),
            _ => return false,
        }
        true
    }
}

/// Keeps CPUs from going down or coming up.
pub(crate) fn cpus() -> Guard<RwLockReadGuard<'static, Vec<u32>>> {
    let mark = Mark::new(Rank::Cpus);
    Guard(here().locks.cpus.read().unwrap_or_else(PoisonError::into_inner), mark)
}

/// Changes which CPUs are down.
pub(crate) fn cpus_changing() -> Guard<RwLockWriteGuard<'static, Vec<u32>>> {
    let mark = Mark::new(Rank::Cpus);
    Guard(here().locks.cpus.write().unwrap_or_else(PoisonError::into_inner), mark)
}

/// Keeps caches from ending and from being chained.
pub(crate) fn caches() -> Guard<MutexGuard<'static, ()>> {
    let mark = Mark::new(Rank::Caches);
    Guard(long(&here().locks.caches), mark)
}

/// The CPUs' work items are the caller's.
pub(crate) fn flush() -> Guard<MutexGuard<'static, ()>> {
    let mark = Mark::new(Rank::Flush);
    Guard(long(&here().locks.flush), mark)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    fn message(f: impl FnOnce() + std::panic::UnwindSafe) -> String {
        *catch_unwind(f).unwrap_err().downcast::<String>().unwrap()
    }

    #[test]
    #[cfg(debug_assertions)]
    fn s1_5_the_order_is_checked() {
        {
            let _a = cpus();
            let _b = caches();
            let _c = flush();
        }
        // Each pair the wrong way round, and each lock twice: a panic, before anything is waited for.
        let wrong: [fn(); 6] = [
            || drop((caches(), cpus())),
            || drop((flush(), cpus())),
            || drop((flush(), caches())),
            || drop((cpus(), cpus_changing())),
            || drop((caches(), caches())),
            || drop((flush(), flush())),
        ];
        for f in wrong {
            assert!(message(f).contains("lock order"));
        }
        // Nothing is left marked, or locked.
        drop((cpus_changing(), caches(), flush()));
    }

    #[test]
    #[cfg(debug_assertions)]
    fn s1_5_locked_variants_assert() {
        assert!(message(|| assert_held(Rank::Cpus)).contains("Cpus has to be held"));
        let _a = cpus();
        assert_held(Rank::Cpus);
        assert!(message(|| assert_held(Rank::Caches)).contains("Caches has to be held"));
    }
}
