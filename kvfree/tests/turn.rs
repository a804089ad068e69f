//! Turns and settling: a worker's duties taken by callers, in portions.

mod support;

use quietus_kvfree::Kvfree;
use quietus_slab::SlabBox;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use support::machine::in_one_place;
use support::pages::{Exhausted, no_worker, turn};
use support::{Manual, Opens, Tally};

#[test]
fn settling_takes_what_is_open_and_what_is_closed() {
    let _turn = turn();
    in_one_place(|| {
        let gp = Manual::default();
        let kvfree = Kvfree::new(gp.clone(), no_worker());
        let _opens = Opens(&gp);
        let tally = Tally::new(1600);
        for id in 0..1600 {
            let object = SlabBox::into_raw(SlabBox::new(tally.object(id)));
            // SAFETY: nobody else knows it. Like this, full blocks stay where they are, closed.
            unsafe { kvfree.constrained().retire(object) };
        }
        assert_eq!((gp.started(), kvfree.stats().batches), (0, 0), "nothing was queued");
        kvfree.settle();
        assert_eq!(gp.asked(), gp.started(), "the grace period of everything is pushed");
        assert_eq!((tally.dropped(), kvfree.stats().queued_objects), (0, 1600), "freed before its grace period");
        gp.open();
        kvfree.settle();
        tally.each_once();
        assert_eq!(kvfree.stats().pending_objects, 0);
    });
}

#[test]
fn a_turn_is_a_bounded_share_of_what_has_elapsed() {
    const N: usize = 20_000;
    let _turn = turn();
    let gp = Manual::default();
    let kvfree = Kvfree::new(gp.clone(), no_worker());
    let _opens = Opens(&gp);
    let run = Arc::new(AtomicUsize::new(0));
    for _ in 0..N {
        let run = run.clone();
        kvfree.defer(move || {
            run.fetch_add(1, SeqCst);
        });
    }
    kvfree.turn();
    assert_eq!(run.load(SeqCst), 0, "run before its grace period");
    gp.open();
    let mut turns = 0;
    loop {
        let before = run.load(SeqCst);
        kvfree.turn();
        turns += 1;
        let now = run.load(SeqCst) - before;
        assert!(now < N / 4, "{now} functions in one turn");
        if now == 0 {
            break;
        }
    }
    // What is in blocks that are not full is left.
    assert!(turns > 5 && run.load(SeqCst) < N && run.load(SeqCst) > N / 2, "{turns} turns, {run:?} functions");
    kvfree.settle();
    assert_eq!(run.load(SeqCst), N);
}

#[test]
fn inside_a_deferred_function_nothing_runs() {
    let _turn = turn();
    let gp = Manual::willing();
    let kvfree = Arc::new(Kvfree::new(gp.clone(), no_worker()));
    let (run, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    {
        let (inner, run, seen) = (kvfree.clone(), run.clone(), seen.clone());
        kvfree.defer(move || {
            let count = run.clone();
            inner.defer(move || {
                count.fetch_add(1, SeqCst);
            });
            inner.settle();
            inner.turn();
            seen.store(1 + run.load(SeqCst), SeqCst);
        });
    }
    kvfree.settle();
    assert_eq!((seen.load(SeqCst), run.load(SeqCst)), (1, 0));
    kvfree.settle();
    assert_eq!(run.load(SeqCst), 1);
}

#[test]
fn settling_finds_what_has_no_block() {
    let _turn = turn();
    let gp = Manual::default();
    let kvfree = Kvfree::new(gp.clone(), no_worker());
    let _opens = Opens(&gp);
    let run = Arc::new(AtomicUsize::new(0));
    let exhausted = Exhausted::now();
    let count = run.clone();
    kvfree.defer(move || {
        count.fetch_add(1, SeqCst);
    });
    drop(exhausted);
    assert_eq!(kvfree.stats().links, 1, "it went by a head");
    kvfree.settle();
    assert_eq!(run.load(SeqCst), 0, "run before its grace period");
    gp.open();
    kvfree.settle();
    assert_eq!(run.load(SeqCst), 1);
}
