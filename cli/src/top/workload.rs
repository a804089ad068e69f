//! Something to look at: writers that replace objects as fast as they can, by lanes of their own for memory, values and boxes, and
//! readers that look them up.
//!
//! # Ordering
//! A link is swapped with AcqRel and loaded with Acquire: the object's words.

use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

use quietus::slab::{Cache, SlabBox};
use quietus::{Atomic, Domain, Shared, pin};

/// Links.
const LINKS: usize = 256;
/// Steps between two looks whether it is over.
const GLANCE: u64 = 64;
/// Of so many objects, one is a box with a destructor.
const BOXED: u64 = 16;

/// Memory of a cache.
type Plain = [u64; 8];

/// What the threads work on.
pub(super) struct Workload {
    links: Vec<Atomic<Plain>>,
    cache: Cache<Plain>,
    reads: AtomicU64,
    writes: AtomicU64,
    over: AtomicBool,
}

/// Ends the threads when it goes.
pub(super) struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        // Relaxed: it only says to stop.
        self.0.store(true, Relaxed);
    }
}

impl Workload {
    pub(super) fn new() -> Workload {
        let cache: Cache<Plain> = Cache::new("top");
        let link = |n| Atomic::new(Shared::from_box(cache.alloc([n; 8])));
        Workload {
            links: (0..LINKS as u64).map(link).collect(),
            cache,
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            over: AtomicBool::new(false),
        }
    }

    pub(super) fn stop_at_the_end(&self) -> Stop<'_> {
        Stop(&self.over)
    }

    /// Sections so far, and objects retired.
    pub(super) fn done(&self) -> (u64, u64) {
        (self.reads.load(Relaxed), self.writes.load(Relaxed))
    }

    fn is_over(&self) -> bool {
        // Relaxed: it only says to stop.
        self.over.load(Relaxed)
    }

    /// A reader's work. Panics when it sees an object that was freed.
    pub(super) fn read(&self) {
        for n in (0_u64..).step_by(GLANCE as usize) {
            for at in n..n + GLANCE {
                let guard = pin();
                let object = self.links[(at.wrapping_mul(0x9e37_79b9) >> 8) as usize % LINKS].load(Acquire, &guard);
                // SAFETY: published with AcqRel, retired after it was unlinked, never changed.
                let words = unsafe { object.deref() };
                assert_eq!(words[0], words[7], "an object was freed under a reader");
            }
            self.reads.fetch_add(GLANCE, Relaxed);
            if self.is_over() {
                return;
            }
        }
    }

    /// A writer's work.
    pub(super) fn write(&self) {
        let domain = Domain::global();
        for n in (0_u64..).step_by(GLANCE as usize) {
            for at in n..n + GLANCE {
                let guard = pin();
                let new = Shared::from_box(self.cache.alloc([at; 8]));
                let old = self.links[at as usize % LINKS].swap(new, AcqRel, &guard);
                if let Some(old) = old.as_non_null() {
                    // SAFETY: unlinked by this thread alone; all objects of the links come from this cache.
                    unsafe { domain.retire_in(&self.cache, old) };
                }
                if at % BOXED == 0 {
                    // SAFETY: from a Box, and nobody else knows it.
                    unsafe { domain.retire_box(NonNull::from(Box::leak(Box::new(vec![at; 4])))) };
                }
            }
            self.writes.fetch_add(GLANCE + GLANCE / BOXED, Relaxed);
            if self.is_over() {
                return;
            }
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        Domain::global().barrier();
        for link in &mut self.links {
            if let Some(last) = link.take() {
                // SAFETY: from the cache; the threads are gone, and nobody else knows it.
                drop(unsafe { SlabBox::from_raw(last) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn it_gets_on_until_it_is_stopped() {
        let workload = Workload::new();
        thread::scope(|scope| {
            scope.spawn(|| workload.read());
            scope.spawn(|| workload.write());
            let stop = workload.stop_at_the_end();
            while workload.done().0 == 0 || workload.done().1 == 0 {
                thread::yield_now();
            }
            drop(stop);
        });
        let (_, writes) = workload.done();
        assert_eq!(writes % (GLANCE + GLANCE / BOXED), 0);
        Domain::global().barrier();
        assert_eq!(workload.cache.stats().live, LINKS as u64);
    }
}
