//! The refill flag: one of N simultaneous misses asks, a miss during the work does not, and one after it asks again.

use crate::raw::Site;
use crate::reserve::Reserve;
use crate::sync::Plant;
use crate::world::{explore, world};
use loom::thread;
use quietus::model::StandIn;
use std::sync::Arc;

/// A block is wanted, and there is none. Returns whether this one asks.
fn miss(reserve: &Reserve) -> bool {
    let (_, kick) = reserve.get(Site, false);
    assert!(!kick || !world().filling.get(), "a miss has asked again for work in progress");
    kick
}

/// As many threads miss at a time; one asks.
fn simultaneous(bug: Plant) {
    explore(StandIn::Sc, 0, 3, bug, || {
        let reserve = Arc::new(Reserve::new(1, 1));
        let others: Vec<_> = (0..2)
            .map(|_| {
                let reserve = reserve.clone();
                thread::spawn(move || miss(&reserve))
            })
            .collect();
        let mine = miss(&reserve);
        let asked = others.into_iter().filter_map(|t| t.join().unwrap().then_some(())).count() + usize::from(mine);
        assert_eq!(asked, 1, "runs asked for by simultaneous misses");
        assert!(reserve.wanted());
    });
}

#[test]
fn one_of_many_misses_asks() {
    simultaneous(Plant::Nothing);
}

#[test]
#[should_panic(expected = "runs asked for by simultaneous misses")]
fn a_store_instead_of_a_swap_is_found() {
    simultaneous(Plant::SwapTorn);
}

/// A retirer takes blocks until it misses, again and again, beside the worker's refill.
fn beside_the_work(bug: Plant) {
    explore(StandIn::Sc, 0, 3, bug, || {
        let reserve = Arc::new(Reserve::new(1, 1));
        assert!(miss(&reserve));
        let retirer = {
            let reserve = reserve.clone();
            thread::spawn(move || (0..3).filter(|_| miss(&reserve)).count())
        };
        let mut runs = 0;
        reserve.refill();
        runs += reserve.refills.get();
        let asked = 1 + retirer.join().unwrap() as u64;
        // Asked and not yet done is what the flag says: nothing else is lost or doubled.
        assert_eq!(asked, runs + u64::from(reserve.wanted()), "runs asked for, done, and wanted");
        while reserve.wanted() {
            reserve.refill();
        }
        while reserve.get(Site, false).0.is_some() {}
        assert!(reserve.wanted(), "a miss after the work did not ask");
    });
}

#[test]
fn a_miss_after_the_work_asks_again() {
    beside_the_work(Plant::Nothing);
}

#[test]
#[should_panic(expected = "runs asked for, done, and wanted")]
fn clearing_the_flag_first_is_found() {
    beside_the_work(Plant::ClearedFirst);
}
