//! The outermost pin is a full fence: crossbeam-deque's thieves build on it.
//!
//! Two threads store, pin, and load what the other stores: that both miss the other's store is what a full fence forbids, and what a
//! processor does within some hundred rounds without one (x86-64, too), if the code is optimised (`profile.test` in Cargo.toml).

use crossbeam_epoch::{self as epoch, Collector, Guard};
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::thread;
use std::time::Instant;

/// Rounds, or seconds, whatever is over first: on a busy machine a round takes as long as the other thread does not run.
const ROUNDS: u64 = 300_000;
const SECONDS: u64 = 3;

#[derive(Default)]
#[repr(align(128))]
struct Word(AtomicU64);

/// Rounds in which both threads missed the other's store.
fn both_missed(pin: impl Fn() -> Box<dyn Fn() -> Guard> + Sync) -> u64 {
    let (mine, seen, ready) = (<[Word; 2]>::default(), <[Word; 2]>::default(), <[Word; 2]>::default());
    let (missed, last, began) = (AtomicU64::new(0), AtomicU64::new(ROUNDS), Instant::now());
    thread::scope(|s| {
        for i in 0..2 {
            let (mine, seen, ready, missed, last, pin) = (&mine, &seen, &ready, &missed, &last, &pin);
            s.spawn(move || {
                let pin = pin();
                // Waits for the other; gives way where there is one processor only.
                let meet = |n: u64| {
                    ready[i].0.store(n, SeqCst);
                    let mut spins = 0u32;
                    while ready[1 - i].0.load(SeqCst) < n {
                        spins += 1;
                        if spins.is_multiple_of(256) { thread::yield_now() } else { spin_loop() }
                    }
                };
                for round in 1..=ROUNDS {
                    meet(2 * round - 1);
                    // Relaxed, all of it: the fence is the pin's.
                    mine[i].0.store(round, Relaxed);
                    let guard = pin();
                    seen[i].0.store(mine[1 - i].0.load(Relaxed), Relaxed);
                    drop(guard);
                    if i == 0 && round.is_multiple_of(64) && began.elapsed().as_secs() >= SECONDS {
                        last.store(round, SeqCst);
                    }
                    meet(2 * round);
                    if i == 0 && seen.iter().all(|word| word.0.load(Relaxed) < round) {
                        missed.fetch_add(1, Relaxed);
                    }
                    // Stored before the meeting.
                    if last.load(SeqCst) == round {
                        break;
                    }
                }
            });
        }
    });
    missed.into_inner()
}

#[test]
fn pinning_orders_what_comes_before_with_what_comes_after() {
    assert_eq!(both_missed(|| Box::new(epoch::pin)), 0);
    let collector = Collector::new();
    let handles = || {
        let handle = collector.register();
        Box::new(move || handle.pin()) as Box<dyn Fn() -> Guard>
    };
    assert_eq!(both_missed(handles), 0);
}
