//! What the drop-in packages under `compat/` need beyond the public interface: a reader that is entered and left by hand, and the
//! doors of `kvfree` for pairs and turns. No part of the interface that semver covers.
//!
//! A [`Participant`] has a slot of its own in a private domain of the flavour [`Qsbr`](crate::Qsbr): its readers come online behind a
//! full fence, so that no grace period of such a domain issues a membarrier. Handed to by the packages; hands to `engine` and `kvfree`.
//!
//! # Ordering
//! C, K and L of docs/ORDERING.md, in `engine`.

use crate::domain::Domain;
use crate::flavour::Qsbr;
use crate::qsbr::QsbrRef;
use crate::registry::Slot;
use crate::sync::thread_number;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// One thread's registration with a private domain, outside until it is [entered](Self::enter).
///
/// It keeps the domain's grace periods alive, not the domain.
pub struct Participant {
    /// Keeps the slot's list.
    source: QsbrRef,
    slot: NonNull<Slot>,
    /// Neither Send nor Sync: the slot is the thread's.
    _thread: PhantomData<*mut ()>,
}

impl Participant {
    #[inline(always)]
    fn slot(&self) -> &Slot {
        // SAFETY: the slot is on the list of `source`, which frees its slots when it goes.
        unsafe { self.slot.as_ref() }
    }

    /// Begins a section: a load and, on x86-64, a locked exchange. A full fence between everything before and everything after.
    #[inline(always)]
    pub fn enter(&self) {
        self.source.online_often(self.slot());
    }

    /// Ends the section: a store.
    #[inline(always)]
    pub fn leave(&self) {
        self.source.offline(self.slot());
    }

    /// Ends the section and begins a new one. Two plain instructions, no fence.
    #[inline]
    pub fn repin(&self) {
        self.source.quiescent(self.slot());
    }
}

impl Drop for Participant {
    fn drop(&mut self) {
        self.source.give_back(self.slot());
    }
}

impl fmt::Debug for Participant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Participant").finish_non_exhaustive()
    }
}

impl Domain<Qsbr> {
    /// Registers the calling thread once more, under a name for reports. Allocates at most a chunk of slots (half a KiB; where there are many readers up to 64), which later participants use again. Sections do
    /// not borrow the domain: what is read in one is safe only as long as the domain lives.
    pub fn participant(&self, name: Option<&str>) -> Participant {
        let source = self.source().clone();
        let slot = NonNull::from(source.claim(thread_number(), name.map(Box::from)));
        Participant { source, slot, _thread: PhantomData }
    }

    /// Calls `function(word)` once, after a grace period. `bytes` count against the budget.
    ///
    /// # Safety
    /// 1. The call is valid once, from any thread, at any time after a grace period that begins now, up to a barrier, or the drop of
    ///    this domain outside its sections and deferred functions.
    #[inline]
    pub unsafe fn call(&self, word: NonNull<u8>, function: unsafe fn(*mut u8), bytes: usize) {
        // SAFETY: the contracts are the same.
        unsafe { self.kvfree.call(word, function, bytes) }
    }

    /// A bounded share of the worker's duties: [`Kvfree::turn`](crate::kvfree::Kvfree::turn).
    pub fn turn(&self) {
        self.kvfree.turn();
    }

    /// Closes what is open and frees what has elapsed: [`Kvfree::settle`](crate::kvfree::Kvfree::settle).
    pub fn settle(&self) {
        self.kvfree.settle();
    }
}
