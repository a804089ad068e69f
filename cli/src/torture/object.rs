//! What is replaced and retired: a head by which readers know whether they may still look, and the types that begin with one.
//!
//! `doors` makes and ends them, `crowd`, `stall` and handlers look. All words are atomics, so that even where a check fails, and the
//! memory is still mapped, a look is a look at some number.
//!
//! # Ordering
//! Relaxed: an object's words are published with the pointer to it, and what a reader must not see lies behind a grace period.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use quietus::kvfree::RcuHead;

use super::ledger::LEDGER;
use super::tally::{self, Count, Wrong};

const LIVE: u64 = 0x11fe_11fe_11fe_11fe;
const DEAD: u64 = 0xdead_dead_dead_dead;
/// The entry of an object that has no destructor.
const NO_ENTRY: u64 = u64::MAX;

/// What every object begins with.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Head {
    canary: AtomicU64,
    /// Grace periods since it was unlinked: 0 linked, 1 unlinked, 2 after the grace period.
    pipe: AtomicU64,
    /// Never used twice in a leg.
    id: AtomicU64,
    /// Its number once more, turned round.
    check: AtomicU64,
    /// Whose it is: the number of its link.
    owner: AtomicU64,
    /// Where it stands in the ledger.
    entry: AtomicU64,
}

/// The last object's number.
static IDS: AtomicU64 = AtomicU64::new(0);

impl Head {
    /// Of an object without destructor.
    pub(super) fn plain(owner: u64) -> Head {
        Head::with(IDS.fetch_add(1, Relaxed) + 1, owner, NO_ENTRY)
    }

    /// Of one whose destructor says so; none if there are too many.
    pub(super) fn counted(owner: u64) -> Option<Head> {
        let id = IDS.fetch_add(1, Relaxed) + 1;
        Some(Head::with(id, owner, LEDGER.open(id)?))
    }

    fn with(id: u64, owner: u64, entry: u64) -> Head {
        Head {
            canary: AtomicU64::new(LIVE),
            pipe: AtomicU64::new(0),
            id: AtomicU64::new(id),
            check: AtomicU64::new(!id),
            owner: AtomicU64::new(owner),
            entry: AtomicU64::new(entry),
        }
    }

    /// Its number.
    pub(super) fn id(&self) -> u64 {
        self.id.load(Relaxed)
    }

    /// Whether a section that found it through this link, under this number, may still see what it sees.
    pub(super) fn look(&self, owner: u64, id: u64) -> Result<(), Seen> {
        let (canary, pipe) = (self.canary.load(Relaxed), self.pipe.load(Relaxed));
        let is = self.id.load(Relaxed);
        let entry = self.entry.load(Relaxed);
        if canary != LIVE {
            Err(Seen::Canary(canary))
        } else if is != id || self.check.load(Relaxed) != !id || self.owner.load(Relaxed) != owner {
            Err(Seen::Another(is))
        } else if pipe > 1 {
            Err(Seen::Old(pipe))
        } else if entry != NO_ENTRY && !LEDGER.holds(entry, id) {
            Err(Seen::Freed)
        } else {
            Ok(())
        }
    }

    /// It was unlinked, and is about to be retired. It has to be what its owner has made; otherwise somebody else has got the same
    /// memory.
    pub(super) fn retired(&self, owner: u64) {
        let (id, entry) = (self.id.load(Relaxed), self.entry.load(Relaxed));
        let sound = self.look(owner, id).is_ok() && self.pipe.load(Relaxed) == 0;
        if !sound || (entry != NO_ENTRY && !LEDGER.retire(entry, id)) {
            tally::fail_quietly(Wrong::Twice);
        }
        self.pipe.store(1, Relaxed);
    }

    /// Its grace period is over, says whoever ends it by hand.
    pub(super) fn elapsed(&self) {
        self.pipe.store(2, Relaxed);
    }

    /// Its destructor.
    fn die(&self) {
        let (canary, id, entry) = (self.canary.swap(DEAD, Relaxed), self.id.load(Relaxed), self.entry.load(Relaxed));
        if canary != LIVE || !LEDGER.free(entry, id) {
            tally::fail(Wrong::Twice, format_args!("object {id} with canary {canary:#x}"));
        }
        self.pipe.store(2, Relaxed);
        tally::add(Count::Freed, 1);
    }
}

/// What a section must not see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// A canary that is not alive.
    Canary(u64),
    /// Another object's number.
    Another(u64),
    /// More than one generation dead.
    Old(u64),
    /// The ledger says that it is free.
    Freed,
}

/// Memory only: freed in whole blocks, or by size class.
#[repr(C)]
pub(super) struct Plain {
    pub(super) head: Head,
    pub(super) rest: [u64; 4],
}

impl Plain {
    pub(super) fn new(head: Head) -> Plain {
        Plain { rest: [head.id(); 4], head }
    }
}

/// With a destructor.
#[repr(C)]
pub(super) struct Counted {
    pub(super) head: Head,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.head.die();
    }
}

/// With a destructor, and a head to be queued by.
#[repr(C)]
pub(super) struct Headed {
    pub(super) counted: Counted,
    pub(super) rcu: RcuHead,
}

quietus::rcu_head!(Headed, rcu);

impl Headed {
    pub(super) fn new(head: Head) -> Headed {
        Headed { counted: Counted { head }, rcu: RcuHead::new() }
    }

    /// The object around a head that was handed in by its address.
    ///
    /// # Safety
    /// 1. `rcu` is the head of a `Headed`, and the pointer may be used for all of it.
    pub(super) unsafe fn around(rcu: NonNull<RcuHead>) -> NonNull<Headed> {
        // SAFETY: by (1).
        unsafe { rcu.byte_sub(std::mem::offset_of!(Headed, rcu)).cast() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_section_must_not_see() {
        let head = Head::plain(3);
        let id = head.id();
        assert_eq!(head.look(3, id), Ok(()));
        assert_eq!(head.look(4, id), Err(Seen::Another(id)), "found through another link");
        assert_eq!(head.look(3, id + 1), Err(Seen::Another(id)), "used again");
        head.retired(3);
        assert_eq!(head.look(3, id), Ok(()), "a generation dead is allowed");
        head.elapsed();
        assert_eq!(head.look(3, id), Err(Seen::Old(2)));
        head.canary.store(DEAD, Relaxed);
        assert_eq!(head.look(3, id), Err(Seen::Canary(DEAD)));
    }

    #[test]
    fn a_destructor_closes_the_entry() {
        let object = Counted { head: Head::counted(0).expect("room") };
        let (id, entry) = (object.head.id(), object.head.entry.load(Relaxed));
        object.head.retired(0);
        assert!(LEDGER.holds(entry, id) && object.head.look(0, id).is_ok());
        drop(object);
        assert!(!LEDGER.holds(entry, id));
    }

    #[test]
    fn the_ledger_knows_more_than_the_object() {
        let object = Counted { head: Head::counted(0).expect("room") };
        let (id, entry) = (object.head.id(), object.head.entry.load(Relaxed));
        object.head.retired(0);
        assert!(LEDGER.free(entry, id), "freed, and not overwritten");
        assert_eq!(object.head.look(0, id), Err(Seen::Freed));
        std::mem::forget(object);
    }
}
