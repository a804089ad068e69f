//! A side table: what has become of each object that has a destructor, kept outside the object, where nobody frees it.
//!
//! `object` writes it: alive, retired, free again, in this order and once each. An entry is used again for the next object; a second free
//! of the one before then finds another number.
//!
//! # Ordering
//! Relaxed: each entry is one word, whose changes are all exchanges; that a retired object is seen retired by who frees it is what
//! is being tested.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Objects at the same time.
const ENTRIES: usize = 1 << 16;
/// Places looked at before it is said to be full.
const TRIES: usize = 64;

const ALIVE: u64 = 1;
const RETIRED: u64 = 2;

/// The table: an object's number times 4, and its state. 0: nobody's.
pub(super) struct Ledger<const N: usize = ENTRIES> {
    entries: [AtomicU64; N],
    next: AtomicU64,
}

/// That of a leg.
pub(super) static LEDGER: Ledger = Ledger::new();

impl<const N: usize> Ledger<N> {
    const fn new() -> Self {
        Ledger { entries: [const { AtomicU64::new(0) }; N], next: AtomicU64::new(0) }
    }

    /// An entry for an object that is alive from now on; none if there is hardly room.
    pub(super) fn open(&self, id: u64) -> Option<u64> {
        (0..TRIES.min(N)).find_map(|_| {
            let at = self.next.fetch_add(1, Relaxed) as usize % N;
            self.entries[at].compare_exchange(0, id << 2 | ALIVE, Relaxed, Relaxed).ok().map(|_| at as u64)
        })
    }

    /// It is retired: was it alive?
    pub(super) fn retire(&self, at: u64, id: u64) -> bool {
        self.step(at, id << 2 | ALIVE, id << 2 | RETIRED)
    }

    /// It is freed: was it retired, and not freed before?
    pub(super) fn free(&self, at: u64, id: u64) -> bool {
        self.step(at, id << 2 | RETIRED, 0)
    }

    /// Is it there, alive or retired?
    pub(super) fn holds(&self, at: u64, id: u64) -> bool {
        self.entries.get(at as usize).is_some_and(|entry| entry.load(Relaxed) >> 2 == id)
    }

    fn step(&self, at: u64, from: u64, to: u64) -> bool {
        // The number comes from memory that may be somebody else's by now.
        self.entries.get(at as usize).is_some_and(|entry| entry.compare_exchange(from, to, Relaxed, Relaxed).is_ok())
    }

    /// Objects that are not free.
    pub(super) fn left(&self) -> usize {
        self.entries.iter().filter(|entry| entry.load(Relaxed) != 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_once_and_in_order() {
        let ledger: Ledger<4> = Ledger::new();
        let at = ledger.open(7).expect("room");
        assert!(ledger.holds(at, 7) && !ledger.holds(at, 8));
        assert!(!ledger.free(at, 7), "freed without being retired");
        assert!(ledger.retire(at, 7) && !ledger.retire(at, 7), "retired twice");
        assert_eq!(ledger.left(), 1, "lost, if this is the end");
        assert!(ledger.free(at, 7) && !ledger.free(at, 7), "freed twice");
        assert!(!ledger.holds(at, 7));
        assert_eq!(ledger.left(), 0);
    }

    #[test]
    fn a_second_free_does_not_hit_the_next_object() {
        let ledger: Ledger<1> = Ledger::new();
        let at = ledger.open(1).expect("room");
        assert!(ledger.retire(at, 1) && ledger.free(at, 1));
        assert_eq!(ledger.open(2), Some(at));
        assert!(!ledger.free(at, 1) && ledger.holds(at, 2));
        assert_eq!(ledger.open(3), None, "full");
        assert!(!ledger.free(99, 1) && !ledger.holds(99, 1), "no such entry");
    }
}
