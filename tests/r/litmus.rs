//! R3, litmus tests on real threads, each in the four combinations of restartable sequences and membarrier, in a process of its own: what the
//! models of docs/ORDERING.md say of every interleaving, said once more by the processor. Each is a hundred thousand rounds or more of
//! two threads that meet at every stage of each other's steps. What a processor does seldom is made likely: stores to lines that are in no
//! cache go before the interesting one, which then waits in the store buffer behind them.
//!
//! A round that finds a forbidden outcome proves a bug; that none does proves little where the two threads share a processor. So one round
//! of each sweep is staged: there the threads wait for each other, and what is looked for happens for certain, on any machine.

use crate::support::in_child_with;
use quietus::{Cookie, Domain};
use std::cell::UnsafeCell;
use std::hint::{black_box, spin_loop};
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::{Duration, Instant};

/// So many rounds, unless they take so long; but as long as nothing of what is looked for has happened by chance, so long.
const ROUNDS: u64 = 200_000;
const LONG: Duration = Duration::from_millis(1500);
const LONGEST: Duration = Duration::from_secs(5);
/// Stages of the other's steps that one meets.
const STAGES: u64 = 256;

/// Runs `body` in a process for each combination.
#[track_caller]
fn in_each_mode(test: &str, body: fn()) {
    for rseq in ["on", "off"] {
        for membarrier in ["on", "off"] {
            let env = [("QUIETUS_RSEQ", rseq), ("QUIETUS_MEMBARRIER", membarrier)];
            if in_child_with(test, &env, body).is_none() {
                return; // the child, which has run it
            }
        }
    }
}

/// A cache line of its own.
#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU64);

/// Lines that are in no cache.
#[derive(Default)]
struct Cold([Line; 8]);

impl Cold {
    fn chill(&self) {
        #[cfg(target_arch = "x86_64")]
        for line in &self.0 {
            // SAFETY: the line is there, and flushing it changes no value.
            unsafe { std::arch::x86_64::_mm_clflush(std::ptr::from_ref(line).cast()) };
        }
    }
    /// Stores that take their time, and keep those that follow waiting.
    fn write(&self, round: u64) {
        self.0.iter().for_each(|line| line.0.store(round, Relaxed));
    }
}

#[derive(Default)]
struct Stage {
    turn: Line,
    inside: Line,
    value: Line,
    seen: Line,
    concluded: Line,
    cold: Cold,
    old: AtomicBool,
}

const OVER: u64 = u64::MAX;

/// Waits for `round`. False: there are no more.
fn meet(word: &Line, round: u64) -> bool {
    for spins in 0.. {
        let now = word.0.load(Acquire);
        if now >= round {
            return now != OVER;
        }
        if spins < 2_000 { spin_loop() } else { std::thread::yield_now() }
    }
    unreachable!()
}

fn dawdle(steps: u64) {
    (0..steps).for_each(|step| _ = black_box(step));
}

/// Whether the threads wait for each other in this round.
fn staged(round: u64) -> bool {
    round.is_multiple_of(STAGES)
}

/// `round` again and again; then ends the other thread. `round` answers whether what is looked for has happened.
fn rounds(stage: &Stage, mut round: impl FnMut(u64) -> bool) -> String {
    let (start, mut n, mut met, mut missed) = (Instant::now(), 0, 0u64, 0u64);
    while n < ROUNDS && start.elapsed() < if met > 0 { LONG } else { LONGEST } {
        for _ in 1..STAGES {
            n += 1;
            met += u64::from(round(n));
        }
        n += 1;
        missed += u64::from(!round(n));
    }
    stage.turn.0.store(OVER, Release);
    assert_eq!(missed, 0, "of the staged rounds");
    format!("of {n} rounds, {met} of them to the point by chance")
}

/// A reader that sees the old value is inside, and stays there: then the grace period that began after the new one was stored is not over. (B)
fn store_buffering() {
    let (domain, stage) = (Domain::builder().workers(false).build(), Stage::default());
    let mut wrong = 0;
    let n = std::thread::scope(|scope| {
        let (domain, stage) = (&domain, &stage);
        scope.spawn(move || {
            drop(domain.pin());
            for round in 1.. {
                stage.cold.chill();
                if !meet(&stage.turn, round) {
                    return;
                }
                black_box(stage.value.0.load(Relaxed)); // at hand, where the slot is not
                stage.cold.write(round);
                let guard = domain.pin();
                let old = stage.value.0.load(Relaxed) < round;
                stage.old.store(old, Relaxed);
                stage.seen.0.store(round, Release);
                if old {
                    meet(&stage.concluded, round);
                }
                drop(guard);
            }
        });
        rounds(stage, |round| {
            stage.turn.0.store(round, Release);
            dawdle(4 * (round % STAGES));
            if staged(round) {
                meet(&stage.seen, round);
            }
            stage.value.0.store(round, Relaxed);
            let elapsed = domain.cookie().is_elapsed();
            meet(&stage.seen, round);
            let old = stage.old.load(Relaxed);
            wrong += u64::from(elapsed && old);
            stage.concluded.0.store(round, Release);
            old
        })
    });
    assert_eq!(wrong, 0, "{n}");
}

/// What a section has stored is seen after a grace period that has met it, the last as the first. (C, G)
fn message_passing() {
    let (domain, stage) = (Domain::builder().workers(false).build(), Stage::default());
    let mut wrong = 0;
    let n = std::thread::scope(|scope| {
        let (domain, stage) = (&domain, &stage);
        scope.spawn(move || {
            for round in 1.. {
                stage.cold.chill();
                if !meet(&stage.turn, round) {
                    return;
                }
                let guard = domain.pin();
                stage.value.0.store(round, Relaxed);
                stage.cold.write(round);
                dawdle(round % 64);
                if staged(round) {
                    meet(&stage.concluded, round);
                }
                stage.seen.0.store(round, Relaxed);
                drop(guard);
            }
        });
        rounds(stage, |round| {
            stage.turn.0.store(round, Release);
            dawdle(8 * (round % STAGES));
            if staged(round) {
                meet(&stage.value, round);
            }
            let begun = stage.value.0.load(Relaxed) == round;
            let cookie = domain.cookie();
            let ended_before = stage.seen.0.load(Relaxed) == round;
            let elapsed = cookie.is_elapsed();
            let ended = stage.seen.0.load(Relaxed) == round;
            wrong += u64::from(begun && elapsed && !ended);
            stage.concluded.0.store(round, Release);
            meet(&stage.seen, round);
            begun && !ended_before
        })
    });
    assert_eq!(wrong, 0, "{n}");
}

/// A place that is handed over by a flag alone: a lock would empty the store buffer.
struct Place<'d>(UnsafeCell<Option<Cookie<'d>>>);

// SAFETY: written before the flag is stored (Release), read after it was seen (Acquire).
unsafe impl Sync for Place<'_> {}

/// A cookie that was taken after a store, and is polled by another thread, covers the store: whoever has seen what was before is still
/// inside. The other thread completes a grace period at the same moment, that knows nothing of the store, and reads. (E, F)
fn cookies() {
    let (domain, stage) = (Domain::builder().workers(false).build(), Stage::default());
    let place = Place(UnsafeCell::new(None));
    let mut wrong = 0;
    let n = std::thread::scope(|scope| {
        let (domain, stage, place) = (&domain, &stage, &place);
        let reader = scope.spawn(move || {
            let mut wrong = 0;
            for round in 1.. {
                if !meet(&stage.turn, round) {
                    return wrong;
                }
                dawdle(round / STAGES % 64);
                domain.synchronize();
                let guard = domain.pin();
                let old = stage.value.0.load(Relaxed) < round;
                stage.inside.0.store(round, Release);
                meet(&stage.seen, round);
                // SAFETY: written before `seen` was stored, and not again before `concluded` is.
                let cookie = unsafe { *place.0.get() }.unwrap();
                wrong += u64::from(old && cookie.is_elapsed());
                drop(guard);
                stage.concluded.0.store(round, Release);
            }
            unreachable!()
        });
        let n = rounds(stage, |round| {
            stage.cold.chill();
            stage.turn.0.store(round, Release);
            dawdle(2 * (round % STAGES));
            if staged(round) {
                meet(&stage.inside, round);
            }
            stage.cold.write(round);
            stage.value.0.store(round, Relaxed);
            let cookie = domain.cookie();
            // SAFETY: the reader looks after `seen`, and has concluded the round before.
            unsafe { *place.0.get() = Some(cookie) };
            stage.seen.0.store(round, Release);
            let elapsed = cookie.is_elapsed();
            meet(&stage.concluded, round);
            elapsed || staged(round)
        });
        wrong += reader.join().unwrap();
        n
    });
    assert_eq!(wrong, 0, "{n}");
}

#[test]
fn r_3_store_buffering() {
    in_each_mode("litmus::r_3_store_buffering", store_buffering);
}

#[test]
fn r_3_message_passing() {
    in_each_mode("litmus::r_3_message_passing", message_passing);
}

#[test]
fn r_3_cookies() {
    in_each_mode("litmus::r_3_cookies", cookies);
}
