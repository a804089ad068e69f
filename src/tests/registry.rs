//! Chunks of slots: where they lie, who gets which, and walks that stop and go on.

use crate::registry::{Registry, Slot};
use std::collections::HashSet;
use std::ptr;
use std::sync::Barrier;

fn walk(registry: &Registry, from: *const Slot) -> Vec<*const Slot> {
    registry.claimed_from(from).map(ptr::from_ref).collect()
}

fn claims(registry: &Registry, n: u64) -> Vec<*const Slot> {
    (1..=n).map(|thread| ptr::from_ref(registry.claim(thread, None))).collect()
}

#[test]
fn slots_lie_side_by_side() {
    let registry = Registry::new();
    let slots = claims(&registry, 4096);
    let gaps = slots.windows(2).filter(|pair| pair[1] != pair[0].wrapping_add(1)).count();
    assert!(gaps <= 16, "{gaps} gaps between 4096 slots");
    assert_eq!(HashSet::<_>::from_iter(&slots).len(), 4096);
    assert!(slots.iter().all(|slot| slot.addr() % 128 == 0), "a pair of cache lines each");
}

#[test]
fn vacant_slots_of_any_chunk_are_used_again() {
    let registry = Registry::new();
    // As many as a few chunks have: none is vacant.
    let slots = claims(&registry, 128);
    for at in [0, 3, 40, 99] {
        // SAFETY: the registry lives.
        registry.give_up(unsafe { &*slots[at] });
    }
    let left = HashSet::<_>::from_iter(walk(&registry, ptr::null()));
    assert_eq!(left.len(), 124, "who owns nothing is not looked at");
    assert!([0, 3, 40, 99].iter().all(|&at| !left.contains(&slots[at])));
    let again = claims(&registry, 4);
    assert_eq!(HashSet::<_>::from_iter(again), HashSet::from([slots[0], slots[3], slots[40], slots[99]]));
    assert_eq!(registry.used(), 128);
}

#[test]
fn a_walk_goes_on_where_it_stopped() {
    let registry = Registry::new();
    claims(&registry, 50);
    let all = walk(&registry, ptr::null());
    assert_eq!(all.len(), 50);
    for (at, &slot) in all.iter().enumerate() {
        assert_eq!(walk(&registry, slot), all[at..]);
    }
    // Chunks that are pushed meanwhile are no part of a walk that has begun.
    claims(&registry, 500);
    assert_eq!(walk(&registry, all[49]), all[49..]);
    let nowhere = Slot::new(0);
    assert_eq!(walk(&registry, &nowhere), walk(&registry, ptr::null()), "rather too much than too little");
}

#[test]
fn threads_that_come_at_once_have_a_slot_each() {
    const THREADS: u64 = 16;
    for _ in 0..50 {
        let (registry, ready) = (Registry::new(), Barrier::new(THREADS as usize));
        let slots: HashSet<usize> = std::thread::scope(|scope| {
            let claim = |thread| {
                ready.wait();
                ptr::from_ref(registry.claim(thread, None)).addr()
            };
            let crew: Vec<_> = (1..=THREADS).map(|thread| scope.spawn(move || claim(thread))).collect();
            crew.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let seen: HashSet<usize> = registry.claimed_from(ptr::null()).map(|slot| ptr::from_ref(slot).addr()).collect();
        assert_eq!(slots.len() as u64, THREADS);
        assert_eq!(seen, slots);
        assert!(registry.used() == THREADS);
    }
}
