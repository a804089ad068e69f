//! From one thread to another: a ring of pointers with one producer and one consumer, cheap enough not to hide the free.

use super::{Handed, Node};
use std::ptr::{self, NonNull};
use std::sync::atomic::{
    AtomicPtr,
    Ordering::{Acquire, Relaxed, Release},
};

const ENTRIES: usize = 1024;

/// Null: empty. The producer fills entries in turn, the consumer empties them in turn.
pub(crate) struct Ring(Vec<AtomicPtr<Node>>);

/// One end's place.
#[derive(Default)]
pub(crate) struct Place(usize);

impl Ring {
    pub(crate) fn new() -> Ring {
        Ring((0..ENTRIES).map(|_| AtomicPtr::new(ptr::null_mut())).collect())
    }

    /// By the producer, waiting for room.
    #[inline(always)]
    pub(crate) fn push(&self, place: &mut Place, node: Handed) {
        let entry = &self.0[place.0];
        // Relaxed: only emptiness matters; the consumer is done with the entry.
        wait_until(|| entry.load(Relaxed).is_null());
        // Release: pairs with `pop`'s load.
        entry.store(node.0.as_ptr(), Release);
        place.0 = (place.0 + 1) % ENTRIES;
    }

    /// By the consumer, waiting for a node.
    #[inline(always)]
    pub(crate) fn pop(&self, place: &mut Place) -> Handed {
        let entry = &self.0[place.0];
        loop {
            // Acquire: pairs with `push`'s store.
            if let Some(node) = NonNull::new(entry.load(Acquire)) {
                // Relaxed: gives an empty entry back, nothing else.
                entry.store(ptr::null_mut(), Relaxed);
                place.0 = (place.0 + 1) % ENTRIES;
                return Handed(node);
            }
            // Relaxed: looked at again above.
            wait_until(|| !entry.load(Relaxed).is_null());
        }
    }
}

/// Spins a little, then gives way: there may be more threads than processors.
#[inline(always)]
fn wait_until(condition: impl Fn() -> bool) {
    let mut spins = 0;
    while !condition() {
        spins += 1;
        if spins < 64 {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}
