//! Barriers: what this thread has retired or deferred before is free after, through whichever door, and what that retires, too.
//!
//! One thread, started by `leg`.
//!
//! # Ordering
//! The count is Release where something is freed, Acquire after the barrier; the barrier has to see to the rest.

use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::thread;
use std::time::Duration;

use quietus::Domain;
use quietus::kvfree::RcuHead;
use quietus::slab::{Cache, SlabBox};

use super::flavours::Flavour;
use super::random::Random;
use super::tally::{self, Count, Wrong};
use super::watch::Beat;
use super::world::World;

/// Objects between two barriers, at most.
const MOST: u64 = 1500;

/// What has been retired and not freed.
static OWED: AtomicU64 = AtomicU64::new(0);
/// The same, of the cache of a barrier of its own.
static OWED_IN_CACHE: AtomicU64 = AtomicU64::new(0);

/// Owes until it is dropped.
struct Debt {
    to: &'static AtomicU64,
    rcu: RcuHead,
}

quietus::rcu_head!(Debt, rcu);

impl Debt {
    fn new(to: &'static AtomicU64) -> Debt {
        // Relaxed: this thread counts.
        to.fetch_add(1, Relaxed);
        Debt { to, rcu: RcuHead::new() }
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        // Release: see the module.
        self.to.fetch_sub(1, Release);
    }
}

/// A domain for a function that runs in it.
struct Its<F: Flavour>(NonNull<Domain<F>>);

// SAFETY: only used as a reference to the domain, which is Sync, by functions that the domain runs.
unsafe impl<F: Flavour> Send for Its<F> {}

impl<F: Flavour> Its<F> {
    /// Retires a box from within a function that the domain runs.
    fn retire_another(self) {
        // SAFETY: the domain runs what is deferred to it before it is gone.
        let domain = unsafe { self.0.as_ref() };
        // SAFETY: from a Box, and nobody else knows it.
        unsafe { domain.retire_box(NonNull::from(Box::leak(Box::new(Debt::new(&OWED))))) };
    }
}

/// Caches of this thread's own.
struct Caches {
    counted: Cache<Debt>,
    plain: Cache<[u64; 6]>,
}

/// The thread.
pub(super) fn check<F: Flavour>(world: &World<'_, F>, beat: &Beat, mut random: Random) {
    let domain = world.domain;
    let caches = Caches { counted: Cache::new("torture-barrier"), plain: Cache::new("torture-barrier-plain") };
    loop {
        let objects = 1 + random.below(MOST);
        beat.begin("retiring for a barrier");
        (0..objects).for_each(|n| retire(domain, &caches, n + random.below(2)));
        if random.one_in(3) || tally::count(Count::CacheBarriers) == 0 {
            beat.begin("a barrier on a cache");
            domain.barrier_on(&caches.counted);
            // Acquire: see the module.
            settled("on the cache", OWED_IN_CACHE.load(Acquire), caches.counted.stats().live);
            domain.barrier_on(&caches.plain);
            settled("on the plain cache", 0, caches.plain.stats().live);
            tally::add(Count::CacheBarriers, 2);
        }
        beat.begin("a barrier");
        domain.barrier();
        // Acquire: see the module.
        let owed = OWED.load(Acquire) + OWED_IN_CACHE.load(Acquire);
        settled("of everything", owed, caches.counted.stats().live + caches.plain.stats().live);
        tally::add(Count::Barriers, 1);
        if world.stopped() {
            return;
        }
        match random.below(4) {
            0 => domain.flush(),
            1 => drop(domain.relieve()),
            2 => drop(domain.tick()),
            _ => thread::sleep(Duration::from_micros(random.below(1000))),
        }
    }
}

/// Retires one by one of the doors.
fn retire<F: Flavour>(domain: &Domain<F>, caches: &Caches, door: u64) {
    let owe = || Debt::new(&OWED);
    // SAFETY: each object is made here as its door wants it, and nobody else knows it.
    unsafe {
        match door % 8 {
            0 => domain.retire_in(&caches.plain, SlabBox::into_raw(caches.plain.alloc([door; 6]))),
            1 => domain.retire(SlabBox::into_raw(caches.counted.alloc(Debt::new(&OWED_IN_CACHE)))),
            2 => domain.retire(SlabBox::into_raw(SlabBox::new(owe()))),
            3 => domain.retire_box(NonNull::from(Box::leak(Box::new(owe())))),
            4 => domain.retire_linked(SlabBox::into_raw(SlabBox::new(owe()))),
            5 => domain.retire_linked_box(NonNull::from(Box::leak(Box::new(owe())))),
            6 => {
                let debt = owe();
                domain.defer(move || drop(debt));
            }
            _ => {
                let (debt, its) = (owe(), Its(NonNull::from(domain)));
                domain.defer(move || {
                    its.retire_another();
                    drop(debt);
                });
            }
        }
    }
}

fn settled(which: &str, owed: u64, live: u64) {
    if (owed, live) != (0, 0) {
        tally::fail(
            Wrong::Barrier,
            format_args!("after the barrier {which} {owed} destructors had not run, {live} objects were not free"),
        );
    }
}
