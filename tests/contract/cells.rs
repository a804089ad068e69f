//! `Rcu` and `Retired`, which belong to the global domain.

use crate::flavour::{Flavour, Global};
use crate::objects::{Object, Tally, message, until};
use quietus::slab::{Cache, SlabBox};
use quietus::{Domain, Rcu, pin};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

#[test]
fn what_was_replaced_comes_back_after_a_grace_period() {
    let _alone = Global::alone();
    let tally = Tally::new(2);
    let cell = Rcu::new(tally.object(0));
    let old = cell.replace(tally.object(1));
    assert_eq!(old.id, 0, "still to be read");
    let old = old.wait();
    assert_eq!((old.id, tally.dropped()), (0, 0));
    drop(old);
    assert_eq!(tally.dropped(), 1);
    drop(cell);
    tally.each_once();
}

#[test]
fn try_reclaim_gives_back_when_it_may() {
    let _alone = Global::alone();
    let tally = Tally::new(2);
    let cell = Rcu::new(tally.object(0));
    let guard = pin();
    let seen = cell.load(&guard);
    let mut old = Some(cell.replace(tally.object(1)));
    for _ in 0..10 {
        let Err(again) = old.take().unwrap().try_reclaim() else { panic!("reclaimed inside a section") };
        assert!(!again.cookie().is_elapsed());
        old = Some(again);
    }
    assert_eq!((seen.id, cell.load(&guard).id), (0, 1));
    drop(guard);
    let mut back = None;
    until("it comes back", std::thread::yield_now, || match old.take().unwrap().try_reclaim() {
        Ok(b) => {
            back = Some(b);
            true
        }
        Err(again) => {
            old = Some(again);
            false
        }
    });
    let back = back.unwrap();
    assert_eq!((back.id, tally.dropped()), (0, 0));
    drop(back);
    drop(cell);
    tally.each_once();
}

#[test]
fn dropping_what_was_replaced_frees_it_later() {
    let _alone = Global::alone();
    let tally = Tally::new(101);
    let cell = Rcu::new(tally.object(0));
    let guard = pin();
    for id in 1..=100 {
        drop(cell.replace(tally.object(id)));
    }
    Domain::global().flush();
    std::thread::sleep(std::time::Duration::from_millis(150));
    assert_eq!(tally.dropped(), 0, "freed inside a section");
    drop(guard);
    until("the replaced are freed", std::thread::yield_now, || tally.dropped() == 100);
    drop(cell);
    Domain::global().barrier();
    tally.each_once();
}

#[test]
fn waiting_inside_a_section_panics_and_frees_later() {
    let _alone = Global::alone();
    let tally = Tally::new(2);
    let cell = Rcu::new(tally.object(0));
    let guard = pin();
    let old = cell.replace(tally.object(1));
    let text = message(catch_unwind(AssertUnwindSafe(|| drop(old.wait()))).expect_err("no panic"));
    assert!(text.contains("read-side section"), "{text}");
    Domain::global().flush();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(tally.dropped(), 0);
    drop(guard);
    Domain::global().barrier();
    assert_eq!(tally.dropped(), 1);
    drop(cell);
    tally.each_once();
}

#[test]
fn compare_replace_replaces_what_was_seen() {
    let _alone = Global::alone();
    let tally = Tally::new(3);
    let cell = Rcu::new(tally.object(0));
    let guard = pin();
    let seen = cell.load(&guard);
    let old = cell.compare_replace(seen, SlabBox::new(tally.object(1)), &guard).unwrap();
    assert_eq!(old.id, 0);
    let back = cell.compare_replace(seen, SlabBox::new(tally.object(2)), &guard).unwrap_err();
    assert_eq!((back.id, cell.load(&guard).id), (2, 1), "the new one comes back");
    drop((old, back, guard));
    drop(cell.into_box());
    Domain::global().barrier();
    tally.each_once();
}

/// Readers always see a whole value; each value is dropped once, whichever way its writer gave it up.
#[test]
fn cells_under_load() {
    let _alone = Global::alone();
    const EACH: usize = 4000;
    struct Value {
        words: [u64; 6],
        _object: Object,
    }
    let cache: Cache<Value> = Cache::new("cells");
    let tally = Tally::new(2 * EACH + 1);
    let value = |id: usize| Value { words: [id as u64; 6], _object: tally.object(id) };
    let cell = Rcu::from_box(cache.alloc(value(2 * EACH)));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    let guard = pin();
                    let v = cell.load(&guard);
                    assert!(v.words.iter().all(|&w| w == v.words[0]), "a torn or freed value");
                }
            });
        }
        let writers: Vec<_> = (0..2)
            .map(|part| {
                let (cell, cache, value) = (&cell, &cache, &value);
                scope.spawn(move || {
                    for i in 0..EACH {
                        let new = cache.alloc(value(part * EACH + i));
                        let old = cell.replace_box(new);
                        match i % 100 {
                            0 => drop(old.wait()),
                            1..10 => drop(old.try_reclaim()),
                            _ => drop(old),
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        stop.store(true, SeqCst);
    });
    drop(cell);
    Domain::global().barrier();
    tally.each_once();
    assert_eq!(cache.stats().live, 0);
}
