//! Chained caches: a cache that ends while objects of it are out leaves its slabs to another one.
//!
//! Handed to by [`typed`](crate::typed) (`destroy_into`) and by frees in [`cache`](crate::cache); hands to [`node`](crate::node).
//!
//! The order: *dead*, so that no barn and no CPU takes anything in → the words marked and taken by one stop of all CPUs, which is the
//! grace period of whoever frees (a section in flight restarts, and finds the mark) → what was taken goes back to the slabs → under
//! both nodes' locks, by address, partial slabs move to the parent's end, and the node says whose they are → the parent is
//! published. Full slabs are on no list: each moves with its first free, which finds the node's word.
//!
//! A chained cache is empty-handed, but its id, its word and its core stay until every slab that it handed over has become empty: a
//! thread that frees or retires an object of it may have read any of them before, and be stopped since. Then its end is queued as work. It
//! keeps its parent in turn.
//!
//! # Ordering
//! What a node says is under its lock. The parent is Release and Acquire ([`Core::set_parent`]).

use crate::cache::Core;
use crate::life::alive;
use crate::node::{Moved, Node};
use crate::order::{self, Rank};
use std::sync::atomic::Ordering::Relaxed;

impl Core {
    /// Chains this cache, whose handle goes, to a live one with objects of the same size. False: the kernel refused the fence, and
    /// nothing has changed. Keeps caches from ending meanwhile.
    pub(crate) fn chain_to(&'static self, parent: &'static Core) -> bool {
        order::assert_held(Rank::Cpus);
        order::assert_held(Rank::Caches);
        let Some(taken) = self.mark_dead() else { return false };
        // Relaxed: as in `close`.
        self.dead.store(true, Relaxed);
        self.take_back(taken);
        self.empty_barns();
        self.take_tables(true);
        self.release_empty();
        let held = parent.hold(); // for as long as this one is there
        debug_assert!(held);
        (0..self.nodes.len()).for_each(|n| self.leave_node(n, parent));
        self.set_parent(parent);
        self.drop_handle();
        true
    }

    /// Moves the partial slabs of one node.
    fn leave_node(&'static self, n: usize, parent: &'static Core) {
        loop {
            // Accounts are not called under locks, and charged before: so in as many goes as it takes.
            let most = self.nodes[n].movable();
            parent.charge(most);
            let (moved, kept, done) = Node::move_partial(n, self, parent, most);
            parent.uncharge(most - moved);
            self.uncharge(moved);
            self.drop_lives(moved - kept);
            if done {
                return;
            }
        }
    }

    /// Frees an object of this chained cache, whose slab was full. Returns how many were freed: 0 if the slab was moved meanwhile.
    pub(crate) fn free_chained(&'static self, heir: &'static Core, p: *mut u8) -> usize {
        let held = self.hold(); // the object may be the last
        debug_assert!(held);
        let freed = self.free_and_move(heir, p);
        self.drop_lives(1);
        freed
    }

    fn free_and_move(&'static self, mut heir: &'static Core, p: *mut u8) -> usize {
        // SAFETY: the caller owns the object.
        let n = usize::from(unsafe { crate::segment::slab_of(p) }.node());
        while let Some(next) = heir.nodes[n].heir() {
            heir = next; // chained itself
        }
        heir.charge(1);
        match Node::move_full(p, self, heir) {
            Moved::Yes { stays } => {
                heir.counters.cpu_chained_free.add(1);
                self.uncharge(1);
                self.drop_lives(u32::from(!stays));
                1
            }
            Moved::Not => {
                heir.uncharge(1);
                0
            }
            Moved::Refused => {
                heir.uncharge(1);
                self.refuse(1);
                1
            }
        }
    }

    /// Frees an object that must not be parked: of a guest slab, or in bulk past an array.
    ///
    /// # Safety
    /// 1. As for [`free_direct`](Self::free_direct).
    pub(crate) unsafe fn free_unparked(&'static self, p: *mut u8) {
        if crate::lock::held() {
            return crate::orphan::leave(p);
        }
        // SAFETY: by (1).
        unsafe { self.free_direct(&[p]) }
    }

    /// The caches that are chained to this one, directly or not. They are kept from ending until the caller drops a life of each.
    pub(crate) fn descendants(&'static self) -> Vec<&'static Core> {
        let above = |core: &'static Core| std::iter::successors(core.parent(), |c| c.parent());
        let mut all = alive();
        all.retain(|core| core.hold());
        let (mine, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|&core| above(core).any(|c| std::ptr::eq(c, self)));
        others.into_iter().for_each(|core| core.drop_lives(1));
        mine
    }
}
