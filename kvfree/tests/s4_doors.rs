//! Lines 8, 14 and 15 of S4: the forms of `kvfree_rcu`, what debug mode catches, and life without batches.

#[path = "support/memory.rs"]
mod memory;
mod support;

use quietus_kvfree::{Callback, Config, Kvfree, RcuHead, rcu_head};
use quietus_slab::SlabBox;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use support::doors::{Door, House, live};
use support::pages::{Exhausted, no_worker, turn};
use support::{Instant_, Manual, Opens, Tally};

fn debug() -> Config {
    Config { debug: true, ..no_worker() }
}

/// The form with one argument: null is a no-op, an object is freed after its grace period.
#[test]
fn s4_8_one_argument_null_does_nothing() {
    let _turn = turn();
    let gp = Manual::default();
    let kvfree = Kvfree::new(gp.clone(), no_worker());
    let _opens = Opens(&gp);
    // SAFETY: null.
    unsafe {
        kvfree.kvfree_rcu::<[u64; 8]>(null_mut());
        kvfree.kvfree_rcu::<support::Object>(null_mut());
    }
    assert_eq!(kvfree.stats().pending_objects, 0);
    kvfree.tick();
    assert_eq!((gp.started(), kvfree.stats().queued_objects), (1, 0), "nothing was queued");
    let house = House::new();
    let p = house.make(Door::Rcu, &Tally::new(1), 0);
    // SAFETY: nobody else knows it.
    unsafe { house.retire(&kvfree, Door::Rcu, p) };
    kvfree.tick();
    assert_eq!((kvfree.stats().pending_objects, kvfree.stats().reclaimed_objects), (1, 0));
    gp.open();
    kvfree.tick();
    assert_eq!((kvfree.stats().pending_objects, kvfree.stats().reclaimed_objects), (0, 1));
}

/// The form with two: whatever the offset of the head, the object that ends is the one that was retired. With pages it goes
/// through a block, without by its head; neither allocates or waits, inside a section as outside.
#[test]
fn s4_8_two_arguments_find_the_object_by_its_head() {
    struct First {
        head: RcuHead,
        _object: support::Object,
    }
    struct Middle {
        _before: u8,
        head: RcuHead,
        _object: support::Object,
    }
    #[repr(C)]
    struct Last {
        _object: support::Object,
        _between: [u8; 100],
        head: RcuHead,
    }
    rcu_head!(First, head);
    rcu_head!(Middle, head);
    rcu_head!(Last, head);
    let _turn = turn();
    for pages in [true, false] {
        let tally = Tally::new(6);
        let kvfree = Kvfree::new(Instant_::default(), no_worker());
        let first = |id| First { head: RcuHead::new(), _object: tally.object(id) };
        let middle = |id| Middle { _before: 1, head: RcuHead::new(), _object: tally.object(id) };
        let last = |id| Last { _object: tally.object(id), _between: [7; 100], head: RcuHead::new() };
        let a = SlabBox::into_raw(SlabBox::new(first(0)));
        let b = SlabBox::into_raw(SlabBox::new(middle(1)));
        let c = SlabBox::into_raw(SlabBox::new(last(2)));
        let boxes = (Box::leak(Box::new(first(3))), Box::leak(Box::new(middle(4))), Box::leak(Box::new(last(5))));
        let exhausted = (!pages).then(Exhausted::now);
        let inside = support::Inside::enter();
        // SAFETY: fresh, known to nobody else.
        unsafe {
            kvfree.retire_linked(a);
            kvfree.retire_linked(b);
            kvfree.retire_linked(c);
            kvfree.retire_linked_box(NonNull::from(boxes.0));
            kvfree.retire_linked_box(NonNull::from(boxes.1));
            kvfree.retire_linked_box(NonNull::from(boxes.2));
        }
        drop(inside);
        let s = kvfree.stats();
        assert_eq!((s.linked, s.links, s.inline_waits), (if pages { 0 } else { 6 }, 0, 0), "{s:?}");
        drop(exhausted);
        kvfree.barrier();
        tally.each_once();
    }
}

/// `call_rcu`: the callback gets the head it was queued with, once, after its grace period.
#[test]
fn s4_8_call_head_calls_back_once_after_a_grace_period() {
    static SUM: AtomicU64 = AtomicU64::new(0);
    unsafe fn called(head: NonNull<RcuHead>) {
        // SAFETY: the second field of the pair that was queued, a Box.
        let pair = unsafe {
            Box::from_raw(head.byte_sub(std::mem::offset_of!((u64, RcuHead), 1)).cast::<(u64, RcuHead)>().as_ptr())
        };
        SUM.fetch_add(pair.0, SeqCst);
    }
    static CALLED: Callback = Callback::new(called, 100);
    let _turn = turn();
    let gp = Manual::default();
    let kvfree = Kvfree::new(gp.clone(), no_worker());
    let _opens = Opens(&gp);
    for n in 1..=10_u64 {
        let pair = Box::into_raw(Box::new((n, RcuHead::new())));
        // SAFETY: a fresh Box that the callback frees.
        unsafe { kvfree.call_head(NonNull::new_unchecked(&raw mut (*pair).1), &CALLED) };
    }
    kvfree.tick();
    let s = kvfree.stats();
    assert_eq!((SUM.load(SeqCst), s.pending_objects, s.pending_bytes, s.callbacks), (0, 10, 1000, 10), "{s:?}");
    gp.open();
    kvfree.tick();
    assert_eq!((SUM.load(SeqCst), kvfree.stats().pending_objects), (55, 0));
}

/// What a situation does to a retire.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Situation {
    /// Into the open block.
    Open,
    /// The block has been closed and queued before the second retire.
    Queued,
    /// No page: the bitmap, heads, allocated heads.
    NoPages,
    /// No page, and taken by a sweep before the second retire.
    Swept,
    /// Each its own callback.
    Unbatched,
    /// Through the doors for handlers.
    Constrained,
}

/// A second retire of an object is noticed whichever way it went, and it ends once. Memory that has been through a grace
/// period may be retired again without a complaint, whichever way it was freed: whole blocks among them.
#[test]
fn s4_14_a_second_retire_is_caught_on_every_path() {
    use Situation::*;
    let _turn = turn();
    let house = House::new();
    for situation in [Open, Queued, NoPages, Swept, Unbatched, Constrained] {
        for door in Door::ALL.into_iter().filter(|d| situation != Constrained || d.is_constrained()) {
            let what = format!("{door:?}, {situation:?}");
            let gp = Manual::default();
            let kvfree = Kvfree::new(gp.clone(), Config { batching: situation != Unbatched, ..debug() });
            let _opens = Opens(&gp);
            let tally = Tally::new(1);
            let p = house.make(door, &tally, 0);
            let exhausted = matches!(situation, NoPages | Swept).then(Exhausted::now);
            // SAFETY: made for the door; that the object is retired twice is what this is about.
            let retire = |p| unsafe {
                if situation == Constrained {
                    house.retire_constrained(&kvfree, door, p)
                } else {
                    house.retire(&kvfree, door, p)
                }
            };
            retire(p);
            if matches!(situation, Queued | Swept) {
                kvfree.tick();
            }
            assert_eq!(kvfree.stats().retired_twice, 0, "{what}");
            retire(p);
            retire(p);
            let s = kvfree.stats();
            assert_eq!((s.retired_twice, s.pending_objects), (2, 1), "{what}: {s:?}");
            gp.open();
            kvfree.barrier();
            let s = kvfree.stats();
            assert_eq!((s.reclaimed_objects, s.pending_objects, s.leaked), (1, 0, 0), "{what}: {s:?}");
            assert_eq!(tally.dropped(), usize::from(door.drops()), "{what}");
            drop(exhausted);
            // The same memory again: the first hundred allocations hand it out many times over.
            let exhausted = matches!(situation, NoPages | Swept).then(Exhausted::now);
            let again = Tally::new(100);
            for id in 0..100 {
                retire(house.make(door, &again, id));
                kvfree.barrier();
            }
            let s = kvfree.stats();
            assert_eq!((s.retired_twice, s.reclaimed_objects), (2, 101), "{what}: a first retire was called a second");
            drop(exhausted);
        }
    }
    assert_eq!((house.plain.stats().live, house.dropped.stats().live), (0, 0));
}

/// Blocks that go to a barn whole are forgotten whole; what they held is allocated, retired, and caught again.
#[test]
fn s4_14_whole_blocks_are_forgotten_and_caught_again() {
    let _turn = turn();
    for door in [Door::In, Door::InDrop, Door::Ptr, Door::Retire, Door::PtrLarge, Door::Boxed] {
        let gp = Manual::willing();
        let kvfree = Kvfree::new(gp.clone(), debug());
        let house = House::new();
        for round in 0..3 {
            let tally = Tally::new(1100);
            let all: Vec<_> = (0..1100).map(|id| house.make(door, &tally, id)).collect();
            for &p in &all {
                // SAFETY: made for the door.
                unsafe { house.retire(&kvfree, door, p) };
            }
            assert_eq!(kvfree.stats().retired_twice, 0, "round {round} of {door:?}");
            kvfree.barrier();
            let s = kvfree.stats();
            assert_eq!((s.reclaimed_objects, s.retired_twice), (1100 * (round + 1), 0), "round {round} of {door:?}");
        }
        // None is pending, so that none may be retired now; a fresh one still is caught.
        let p = house.make(door, &Tally::new(1), 0);
        // SAFETY: made for the door; twice on purpose.
        unsafe {
            house.retire(&kvfree, door, p);
            house.retire(&kvfree, door, p);
        }
        assert_eq!(kvfree.stats().retired_twice, 1, "{door:?}");
    }
}

/// The mark is the process's: retired to two of them, an object is caught by the second.
#[test]
fn s4_14_a_second_retire_elsewhere_is_caught_too() {
    let _turn = turn();
    for door in Door::ALL {
        let house = House::new();
        let (first, second) = (Kvfree::new(Instant_::default(), debug()), Kvfree::new(Instant_::default(), debug()));
        let tally = Tally::new(1);
        let p = house.make(door, &tally, 0);
        // SAFETY: made for the door; twice on purpose.
        unsafe {
            house.retire(&first, door, p);
            house.retire(&second, door, p);
        }
        assert_eq!((first.stats().retired_twice, second.stats().retired_twice), (0, 1), "{door:?}");
        second.barrier();
        first.barrier();
        assert_eq!(tally.dropped(), usize::from(door.drops()), "{door:?}");
    }
}

/// Without batches every object is a callback of its own, by its head if it has one; all are freed, none before its time.
#[test]
fn s4_15_unbatched_each_object_is_its_own_callback() {
    let _turn = turn();
    let before = live();
    for pages in [true, false] {
        for door in Door::ALL {
            let gp = Manual::default();
            let kvfree = Kvfree::new(gp.clone(), Config { batching: false, debug: false, ..no_worker() });
            let _opens = Opens(&gp);
            let house = House::new();
            let tally = Tally::new(700);
            let exhausted = (!pages).then(Exhausted::now);
            let all: Vec<_> = (0..700).map(|id| house.make(door, &tally, id)).collect();
            let allocated = memory::calls();
            // SAFETY: made for the door.
            all.into_iter().for_each(|p| unsafe { house.retire(&kvfree, door, p) });
            // (And the list itself is freed.)
            let heads = memory::calls() - allocated - 1;
            assert_eq!(heads, if door.has_head() { 0 } else { 700 }, "{door:?}: allocated heads");
            kvfree.tick();
            let s = kvfree.stats();
            assert_eq!((s.callbacks, s.pending_objects, s.calls_run), (700, 700, 0), "{door:?}: {s:?}");
            assert_eq!((s.batches, s.strays, s.deferred, tally.dropped()), (0, 0, 0, 0), "{door:?}: {s:?}");
            gp.open();
            kvfree.tick();
            let s = kvfree.stats();
            assert_eq!(
                (s.calls_run, s.reclaimed_objects, s.pending_objects, s.pending_bytes),
                (700, 700, 0, 0),
                "{door:?}"
            );
            assert_eq!(tally.dropped(), if door.drops() { 700 } else { 0 }, "{door:?}");
            assert_eq!((house.plain.stats().live, house.dropped.stats().live), (0, 0), "{door:?}");
            drop(exhausted);
        }
    }
    assert_eq!(live(), before, "size classes too");
}

/// And from several threads at once, with a worker.
#[test]
fn s4_15_unbatched_under_load_frees_each_once() {
    let _turn = turn();
    let kvfree = Arc::new(Kvfree::new(Manual::willing(), Config { batching: false, ..Config::default() }));
    let tally = Tally::new(8000);
    let house = House::new();
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (kvfree, tally, house) = (&kvfree, &tally, &house);
            scope.spawn(move || {
                for id in part * 2000..(part + 1) * 2000 {
                    let door = [Door::InDrop, Door::Linked, Door::Boxed, Door::LinkedBox][id % 4];
                    // SAFETY: made for the door.
                    unsafe { house.retire(kvfree, door, house.make(door, tally, id)) };
                }
            });
        }
    });
    kvfree.barrier();
    tally.each_once();
    let s = kvfree.stats();
    assert_eq!((s.callbacks, s.calls_run, s.batches, s.pending_objects), (8000, 8000, 0, 0), "{s:?}");
}
