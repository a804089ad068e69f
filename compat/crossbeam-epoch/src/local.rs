//! [`Local`]: one registration, and the sections that are open through it.
//!
//! Handed to by `guard`, `collector` and `default` as a raw pointer, because a guard may outlive its handle: whoever lets go last frees it.
//! Hands to `global`, and to the participant for entering and leaving.
//!
//! # Ordering
//! The outermost pin is a full fence, because callers build on it: the thief's side of a work-stealing deque reads one end, pins, and
//! reads the other, and must not have these two loads reordered. An asymmetric fence (compiler's here, membarrier in the one who frees)
//! would order the section against frees only, not against another thread's stores. So it cannot be used here; and since there is a full fence
//! in any case, no grace period needs a membarrier. On x86-64 the fence and the store that says "inside" are one exchange. Pairs C, K
//! and L of docs/ORDERING.md. Borne by `tests/fence.rs`.

use crate::collector::Collector;
use crate::deferred::Deferred;
use quietus::embed::Participant;
use std::cell::Cell;

/// Outermost pins from one turn to the next.
const PINS: u32 = 128;
/// What deferring counts in pins.
const DEFER: u32 = 3;
/// Turns from one look at the clock to the next.
const LOOKS: u32 = 32;

/// A thread's registration with a collector. Used by one thread only.
pub(crate) struct Local {
    // Dropped first: gives the slot back while the domain is there.
    participant: Participant,
    collector: Collector,
    guards: Cell<usize>,
    /// The handle, and whoever else needs it to stay.
    holds: Cell<usize>,
    /// Pins until the next turn.
    credit: Cell<u32>,
    turns: Cell<u32>,
}

impl Local {
    /// Registers the calling thread. It is held once.
    pub(crate) fn new(collector: Collector, name: Option<&str>) -> *const Local {
        Box::into_raw(Box::new(Local {
            participant: collector.global().participant(name),
            collector,
            guards: Cell::new(0),
            holds: Cell::new(1),
            credit: Cell::new(PINS),
            turns: Cell::new(0),
        }))
    }

    pub(crate) fn collector(&self) -> &Collector {
        &self.collector
    }

    #[inline]
    pub(crate) fn is_pinned(&self) -> bool {
        self.guards.get() != 0
    }

    /// Opens a section, or one more within it. The caller owes a [`leave`](Self::leave).
    #[inline]
    pub(crate) fn enter(&self) {
        if self.guards.get() == 0 && self.credit.get() == 0 {
            self.turn_slow();
        }
        // Looked at only now: a deferred function may have leaked a guard of this very registration.
        let guards = self.guards.get();
        if guards == 0 {
            self.credit.set(self.credit.get().saturating_sub(1));
            self.participant.enter();
        }
        self.guards.set(guards.checked_add(1).expect("too many guards"));
    }

    /// A turn at what has to be done, outside sections.
    #[cold]
    #[inline(never)]
    fn turn_slow(&self) {
        self.credit.set(PINS);
        let turns = self.turns.get().wrapping_add(1);
        self.turns.set(turns);
        if turns.is_multiple_of(LOOKS) {
            self.collector.global().age();
        }
        self.collector.global().turn();
    }

    /// Closes a section, and ends the registration if nobody holds it.
    ///
    /// # Safety
    /// 1. `this` is live, belongs to this thread, and the caller owes a leave. It must not be used afterwards, unless it is held.
    #[inline]
    pub(crate) unsafe fn leave(this: *const Local) {
        // SAFETY: live by (1).
        let local = unsafe { &*this };
        let guards = local.guards.get() - 1;
        local.guards.set(guards);
        if guards == 0 {
            local.participant.leave();
            if local.holds.get() == 0 {
                // SAFETY: the last guard, and nobody holds it.
                unsafe { Local::end(this) };
            }
        }
    }

    /// Keeps the registration from ending.
    pub(crate) fn hold(&self) {
        self.holds.set(self.holds.get() + 1);
    }

    /// The end of a hold, and of the registration if that was the last and no guard is left.
    ///
    /// # Safety
    /// 1. `this` is live, belongs to this thread, and the caller has a hold. It must not be used afterwards, unless a guard of it is alive.
    pub(crate) unsafe fn let_go(this: *const Local) {
        // SAFETY: live by (1).
        let local = unsafe { &*this };
        local.holds.set(local.holds.get() - 1);
        if local.holds.get() == 0 && local.guards.get() == 0 {
            // SAFETY: nobody is left.
            unsafe { Local::end(this) };
        }
    }

    /// # Safety
    /// 1. Nobody knows `this` any more.
    #[cold]
    unsafe fn end(this: *const Local) {
        // SAFETY: from Box::into_raw in `new`, and by (1) ours.
        drop(unsafe { Box::from_raw(this.cast_mut()) });
    }

    /// Moves the section on, if there is only one guard.
    #[inline]
    pub(crate) fn repin(&self) {
        if self.guards.get() == 1 {
            self.participant.repin();
        }
    }

    /// Makes a call after a grace period.
    ///
    /// # Safety
    /// 1. As [`Global::defer`](crate::global::Global::defer).
    #[inline]
    pub(crate) unsafe fn defer(&self, deferred: Deferred) {
        self.credit.set(self.credit.get().saturating_sub(DEFER));
        // SAFETY: (1).
        unsafe { self.collector.global().defer(deferred) };
    }

    /// Closes what is open, pushes the grace period on, frees what has elapsed.
    pub(crate) fn flush(&self) {
        self.collector.global().settle();
    }
}
