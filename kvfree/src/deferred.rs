//! The deferred bitmap: slab objects retired when there is no block. A bit for each, outside the object: no header, no allocation,
//! no waiting.
//!
//! Handed to by [`resort`](crate::resort); hands to [`sweep`](crate::sweep).
//!
//! # Ordering
//! Pair **Q**. [`mark`](Deferred::mark): the segment's address, then the object's bit, then the segment's dirty mark (AcqRel each); the
//! object is not touched after its bit is set. [`take`](Deferred::take), under the sweep's lock: dirty, then bits (swaps, AcqRel), into a
//! separate *waiting* plane, only while that is empty; then comes the cookie. Whoever swaps a dirty mark sees the bits set before it;
//! bits set later come with a mark of their own.

use crate::plane::{self, Plane, Table, WORDS};
use crate::sync::{
    AtomicPtr, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use quietus_slab::raw::{self, GRANULE};
use std::ptr::null_mut;

/// Words for 1/64 of a segment: what one dirty bit stands for.
const PART: usize = WORDS / 64;

/// One segment.
#[derive(Default)]
struct Entry {
    base: AtomicPtr<u8>,
    /// Parts in which bits may be set.
    dirty: AtomicU64,
    /// Parts in which bits are waiting (the sweep's lock).
    waiting: AtomicU64,
}

/// How a mark went.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Mark {
    Done,
    /// The bit was set already: the object has been retired twice.
    Twice,
    /// The object's segment is not covered.
    Impossible,
}

pub(crate) struct Deferred {
    entries: Table<Entry>,
    bits: Plane,
    waiting: Plane,
    /// One above the greatest segment number marked.
    high: AtomicUsize,
}

impl Deferred {
    pub(crate) fn new() -> Self {
        let (bits, waiting) = (Plane::new(), Plane::new());
        let segments = bits.segments().min(waiting.segments());
        // SAFETY: (1) three words, each an atomic.
        let entries = unsafe { Table::new(segments) };
        Deferred { entries, bits, waiting, high: AtomicUsize::new(0) }
    }

    /// Notes a retired object. Lock-free; touches the directory only.
    ///
    /// # Safety
    /// 1. `p` is an object of the slab allocator that is not free.
    pub(crate) unsafe fn mark(&self, p: *mut u8) -> Mark {
        // SAFETY: by (1).
        let (segment, base, offset) = unsafe { raw::place(p) };
        let (Some(entry), Some(words)) = (self.entries.entries().get(segment), self.bits.words(segment)) else {
            return Mark::Impossible;
        };
        let (word, bit) = plane::at(offset);
        // AcqRel: before the mark, so that who looks for the mark looks far enough (Q).
        self.high.fetch_max(segment + 1, AcqRel);
        // Relaxed: seen by whoever sees the bit (Q).
        entry.base.store(base, Relaxed);
        // AcqRel: then dirty (Q).
        if words[word].fetch_or(bit, AcqRel) & bit != 0 {
            return Mark::Twice;
        }
        // The object may be gone from here on. AcqRel: after the bit (Q).
        entry.dirty.fetch_or(1 << (word / PART), AcqRel);
        Mark::Done
    }

    /// Is anything marked and not taken?
    pub(crate) fn any(&self) -> bool {
        // Acquire: pairs with the mark (Q).
        self.marked().iter().any(|entry| entry.dirty.load(Acquire) != 0)
    }

    fn marked(&self) -> &[Entry] {
        // Acquire: pairs with `mark` (Q).
        &self.entries.entries()[..self.high.load(Acquire)]
    }

    /// Moves what is marked to the waiting plane, which is empty. Returns whether there was anything. The cookie comes after.
    ///
    /// Called under the sweep's lock only.
    pub(crate) fn take(&self) -> bool {
        let mut some = false;
        for (segment, entry) in self.marked().iter().enumerate() {
            // AcqRel: dirty, then bits (Q).
            let parts = entry.dirty.swap(0, AcqRel);
            if parts == 0 {
                continue;
            }
            let (Some(bits), Some(waiting)) = (self.bits.words(segment), self.waiting.words(segment)) else { continue };
            for part in ones(parts) {
                let part = part * PART..(part + 1) * PART;
                for (bits, waiting) in bits[part.clone()].iter().zip(&waiting[part]) {
                    // AcqRel: sees the object's segment and whatever its retirer did before (Q).
                    let taken = bits.swap(0, AcqRel);
                    // Relaxed: the waiting plane is the sweep's, under its lock.
                    waiting.store(taken, Relaxed);
                    some |= taken != 0;
                }
            }
            // Relaxed: as above.
            entry.waiting.store(parts, Relaxed);
        }
        some
    }

    /// Takes objects that wait out of the waiting plane, some at a time, and hands them to `free`, until it says stop. Returns
    /// whether none is left. Their grace period is over.
    ///
    /// Called under the sweep's lock only.
    pub(crate) fn release(&self, mut free: impl FnMut(&[*mut u8]) -> bool) -> bool {
        for (segment, entry) in self.marked().iter().enumerate() {
            // Relaxed: the sweep's, under its lock.
            let mut parts = entry.waiting.load(Relaxed);
            let Some(waiting) = self.waiting.words(segment) else { continue };
            while parts != 0 {
                let part = parts.trailing_zeros() as usize;
                for (i, waiting) in (part * PART..).zip(&waiting[part * PART..(part + 1) * PART]) {
                    // Relaxed: as above.
                    let word = waiting.load(Relaxed);
                    if word == 0 {
                        continue;
                    }
                    // Relaxed: as above.
                    waiting.store(0, Relaxed);
                    // Relaxed: stored before the bit that was taken (Q); an object that waits keeps its segment.
                    let base = entry.base.load(Relaxed).addr();
                    let (mut objects, mut n) = ([null_mut(); 64], 0);
                    for bit in ones(word) {
                        objects[n] = std::ptr::with_exposed_provenance_mut(base + (i * 64 + bit) * GRANULE);
                        n += 1;
                    }
                    if !free(&objects[..n]) {
                        return false;
                    }
                }
                parts &= parts - 1;
                // Relaxed: as above.
                entry.waiting.store(parts, Relaxed);
            }
        }
        true
    }
}

/// Numbers of the bits that are set.
fn ones(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = bits.trailing_zeros() as usize;
        bits &= bits.wrapping_sub(1);
        (bit < 64).then_some(bit)
    })
}

#[cfg(all(test, not(quietus_loom)))]
mod tests {
    use super::*;
    use crate::reserve::tests::turn;
    use quietus_slab::{Cache, SlabBox};

    fn drain(deferred: &Deferred) -> Vec<*mut u8> {
        let mut all = Vec::new();
        assert!(deferred.release(|objects| {
            all.extend_from_slice(objects);
            true
        }));
        all
    }

    /// Every address comes back as itself, whatever the size: smallest, odd strides, largest, a mapping of its own.
    #[test]
    fn what_is_marked_comes_back() {
        let _turn = turn();
        let deferred = Deferred::new();
        let mut expected = Vec::new();
        for size in [1usize, 16, 48, 640, 7168, 32768, 100_000, 5 << 20] {
            let layout = std::alloc::Layout::from_size_align(size, 8).unwrap();
            expected.extend((0..40).map(|_| quietus_slab::alloc(layout).unwrap().as_ptr()));
        }
        for &p in &expected {
            // SAFETY: just allocated.
            assert_eq!(unsafe { deferred.mark(p) }, Mark::Done);
        }
        // SAFETY: as above.
        assert_eq!(unsafe { deferred.mark(expected[3]) }, Mark::Twice);
        assert!(deferred.any());
        assert!(deferred.take());
        assert!(!deferred.any());
        let mut back = drain(&deferred);
        back.sort();
        expected.sort();
        assert_eq!(back, expected);
        // SAFETY: allocated above, each once.
        unsafe { quietus_slab::free_bulk(&back) };
        assert!(!deferred.take());
    }

    /// What is marked while others wait stays where it is until they are gone.
    #[test]
    fn a_release_may_stop_and_go_on() {
        let _turn = turn();
        let cache: Cache<[u64; 2]> = Cache::new("deferred");
        let deferred = Deferred::new();
        let objects: Vec<_> = (0..1000).map(|_| SlabBox::into_raw(cache.alloc([7; 2])).as_ptr().cast::<u8>()).collect();
        // SAFETY: live objects.
        objects.iter().for_each(|&p| unsafe { assert_eq!(deferred.mark(p), Mark::Done) });
        assert!(deferred.take());
        let mut seen = 0;
        while !deferred.release(|objects| {
            seen += objects.len();
            false
        }) {}
        assert_eq!(seen, 1000);
        // SAFETY: allocated above, each once.
        unsafe { quietus_slab::free_bulk(&objects) };
    }
}
