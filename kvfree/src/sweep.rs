//! The sweep: what was retired without a block — bits and lists — through its grace period, one set at a time.
//!
//! Handed to by [`resort`](crate::resort) through [`deferred`](crate::deferred) and [`linked`](crate::linked); run by workers, ticks and
//! barriers, since it may run user code.
//!
//! # Ordering
//! **Q** and **U**: everything is taken first, then one cookie. Sweeps take turns by a mutex; while a set waits, what comes later stays
//! where it is. The mutex does not mark its holder, unlike the allocator's: deferred functions run under it, and may allocate.

use crate::check;
use crate::deferred::Deferred;
use crate::grace::{Cookie, GracePeriods};
use crate::linked::{self, Chain, Linked};
use crate::reclaim::Function;
use crate::shared::Shared;
use crate::stats::Count;
use crate::sync::{Instant, Mutex, hold_mutex};
use quietus_slab::raw::{self, WEIGHT_UNIT};

/// What has no block.
pub(crate) struct Overflow {
    pub(crate) deferred: Deferred,
    pub(crate) linked: Linked,
    pub(crate) set: Mutex<Set>,
    /// What is just being freed, should that be lost in a fork: objects, and their bytes.
    in_hand: [Count; 2],
}

/// The set that waits for its grace period.
pub(crate) struct Set {
    /// `None`: there is none.
    cookie: Option<Cookie>,
    chain: Chain,
    /// Its grace period was seen to be over, and freeing has begun.
    begun: bool,
    /// Sets taken so far.
    taken: u64,
}

impl Overflow {
    pub(crate) fn new() -> Self {
        Overflow {
            deferred: Deferred::new(),
            linked: Linked::new(),
            set: Mutex::new(Set { cookie: None, chain: Chain::EMPTY, begun: false, taken: 0 }),
            in_hand: Default::default(),
        }
    }

    /// The cookie of the set that waits, if there is one and nobody is at it.
    pub(crate) fn waiting(&self) -> Option<Cookie> {
        self.set.try_lock().and_then(|set| set.cookie)
    }

    fn hold(&self, objects: u64, bytes: u64) {
        self.in_hand[0].set(objects);
        self.in_hand[1].set(bytes);
    }

    /// In a fork's child: objects and bytes that whoever swept had in hand.
    #[cfg(not(quietus_shuttle))]
    pub(crate) fn lose(&self) -> [u64; 2] {
        let lost = self.in_hand.each_ref().map(Count::get);
        self.hold(0, 0);
        lost
    }

    /// Is anything retired and not taken?
    fn any(&self) -> bool {
        self.deferred.any() || self.linked.any()
    }

    /// Is anything retired and not free? True, too, while a sweep runs.
    pub(crate) fn pending(&self) -> bool {
        self.any() || self.set.try_lock().is_none_or(|set| set.cookie.is_some())
    }
}

impl<G: GracePeriods> Shared<G> {
    /// Frees the waiting set if its grace period is over, takes the next one, and pushes its grace period. Never waits. Stops between
    /// two objects once `until` has passed. Returns whether something is left.
    pub(crate) fn sweep(&self, until: Option<Instant>) -> bool {
        let Some(mut set) = self.overflow.set.try_lock() else { return true };
        if self.is_still() {
            return true;
        }
        // Twice: others may go on retiring faster than this thread frees.
        for _ in 0..2 {
            if let Some(cookie) = set.cookie {
                if !self.gp.poll(cookie) && !self.gp.advance(cookie) || !self.release(&mut set, cookie, until) {
                    return true;
                }
            }
            let bits = self.overflow.deferred.take();
            set.chain = self.overflow.linked.take();
            if !bits && set.chain.is_empty() {
                return false;
            }
            set.taken += 1;
            set.begun = false;
            // After everything was taken (Q, U).
            set.cookie = Some(self.gp.start());
        }
        true
    }

    /// Frees what is waiting. Returns whether that is done.
    fn release(&self, set: &mut Set, cookie: Cookie, until: Option<Instant>) -> bool {
        // Asked again, as for a batch (G); objects that are left for another call have been asked about before.
        let over = set.begun || self.gp.poll(cookie);
        set.begun = over;
        let c = &self.counters;
        let late = || until.is_some_and(|end| Instant::now() >= end);
        let mut leaked = 0;
        let mut count = |objects: u64, bytes: u64, freed: bool| {
            c.overflow_objects.sub(objects);
            c.overflow_bytes.sub(bytes);
            if freed {
                c.swept_objects.add(objects);
                c.swept_bytes.add(bytes);
            } else {
                c.leaked.add(objects);
                leaked += objects;
            }
        };
        let done = self.overflow.deferred.release(|objects| {
            // SAFETY: objects that wait are not free; those of one word lie in one slab.
            let slab = unsafe { raw::slab(objects[0]) };
            let (weight, dropper) = (slab.weight(), slab.dropper());
            let bytes = |objects: &[*mut u8]| objects.len() as u64 * u64::from(weight) * WEIGHT_UNIT as u64;
            self.overflow.hold(objects.len() as u64, bytes(objects));
            let ended = |p: &*mut u8| {
                // SAFETY: a slab's dropper is null or a `drop_value` of its type, for which alone objects of it are deferred.
                let drop = unsafe { std::mem::transmute::<*mut (), Option<Function>>(dropper) };
                // SAFETY: retired once, and its grace period is over.
                drop.is_none_or(|drop| self.run(|| unsafe { drop(*p) }))
            };
            // One of the destructors may end the handle: the rest, whose values are there, is given up.
            let n = if over { objects.iter().take_while(|p| ended(p)).count() } else { 0 };
            let (gone, left) = objects.split_at(n);
            gone.iter().for_each(|&p| check::freed(p));
            // SAFETY: marked once each, their values are gone, and their grace period is over.
            unsafe { quietus_slab::free_bulk(gone) };
            self.overflow.hold(0, 0);
            for (some, freed) in [(gone, true), (left, false)] {
                count(some.len() as u64, bytes(some), freed);
            }
            !late()
        });
        if !done {
            return false;
        }
        while let Some((head, callback)) = set.chain.pop() {
            // SAFETY: it was queued with this callback, and has just been taken off.
            let bytes = unsafe { linked::bytes(head, callback) };
            self.overflow.hold(1, bytes as u64);
            // SAFETY: queued once, and its grace period is over: the contract of the callback.
            let freed = over && self.run(|| unsafe { (callback.run)(head) });
            self.overflow.hold(0, 0);
            count(1, bytes as u64, freed);
            if late() && !set.chain.is_empty() {
                return false;
            }
        }
        set.cookie = None;
        if leaked > 0 && !over {
            self.report_taken_back(cookie, leaked);
        }
        true
    }

    /// Frees everything that is retired without a block by now. Waits for grace periods.
    pub(crate) fn sweep_all(&self, mut pause: impl FnMut()) {
        if !self.overflow.pending() {
            return;
        }
        // A set that is taken from now on has everything that was marked or queued before.
        let last = hold_mutex(&self.overflow.set).taken + 1;
        loop {
            let left = self.sweep(None);
            let set = hold_mutex(&self.overflow.set);
            if !left || set.taken > last || set.taken == last && set.cookie.is_none() {
                return;
            }
            let cookie = set.cookie;
            drop(set);
            match cookie {
                Some(cookie) => self.gp.synchronize(cookie),
                None => pause(),
            }
        }
    }
}
