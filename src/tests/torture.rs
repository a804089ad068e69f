//! A torture in the manner of rcutorture: objects carry the number of grace periods since they were unlinked, readers
//! look at it. A build with `--cfg quietus_no_grace_periods` has to fail here.

use crate::atomic::{Atomic, Shared};
use crate::engine_ref::EngineRef;
use crate::memb::{DomainGuard, pin};
use crate::section::Section;
use crate::sync::Line;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Held by each test here: timing is what they are about.
static ALONE: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

struct Object {
    /// 0: linked. 1: unlinked. 2: a grace period later, which a reader must not see.
    age: AtomicU64,
}

struct Torture {
    link: Atomic<Object>,
    stop: AtomicBool,
    reads: AtomicU64,
    early: AtomicU64,
}

impl Torture {
    /// One section: load, dawdle, look.
    fn read(&self, section: &impl Section, dawdle: u32) {
        let object = self.link.load(Ordering::Acquire, section);
        for _ in 0..dawdle {
            std::hint::spin_loop();
        }
        // SAFETY: (1), (3) the objects live as long as the torture, and are only changed through atomics. (2) Acquire.
        let age = unsafe { object.deref() }.age.load(Ordering::Relaxed);
        if age > 1 {
            self.early.fetch_add(1, Ordering::Relaxed);
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
    }
}

/// `wait` returns when a grace period has passed since it was called.
fn torture(engine: &EngineRef, wait: impl Fn(&EngineRef)) {
    let _alone = ALONE.lock();
    let objects: Vec<Object> = (0..8).map(|_| Object { age: AtomicU64::new(0) }).collect();
    // SAFETY: (1), (2) the vector outlives every thread below.
    let shared = |index: usize| unsafe { Shared::from_raw(NonNull::from(&objects[index])) };
    let torture = Torture {
        link: Atomic::new(shared(0)),
        stop: AtomicBool::new(false),
        reads: AtomicU64::new(0),
        early: AtomicU64::new(0),
    };
    let mut grace_periods = 0;
    std::thread::scope(|scope| {
        for reader in 0..3_u32 {
            let torture = &torture;
            scope.spawn(move || {
                let mut round = reader;
                while !torture.stop.load(Ordering::Relaxed) {
                    round = round.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let dawdle = if round >> 24 == 0 { 2_000 } else { round >> 29 };
                    match engine {
                        EngineRef::Global => torture.read(&pin(), dawdle),
                        EngineRef::Private(_) => torture.read(&DomainGuard::pin(engine), dawdle),
                    }
                }
            });
        }
        let end = Instant::now() + Duration::from_millis(700);
        let mut at = 0;
        while Instant::now() < end {
            let next = (at + 1) % objects.len();
            objects[next].age.store(0, Ordering::Relaxed);
            torture.link.store(shared(next), Ordering::Release);
            objects[at].age.store(1, Ordering::Relaxed);
            wait(engine);
            objects[at].age.store(2, Ordering::Relaxed);
            grace_periods += 1;
            at = next;
        }
        torture.stop.store(true, Ordering::Relaxed);
    });
    let (reads, early) = (torture.reads.into_inner(), torture.early.into_inner());
    assert_eq!(early, 0, "of {reads} reads during {grace_periods} grace periods");
    assert!(reads > 0 && grace_periods > 0, "{reads} reads, {grace_periods} grace periods");
}

#[test]
#[cfg_attr(quietus_no_grace_periods, should_panic)]
fn readers_and_a_waiter_global() {
    torture(&EngineRef::Global, |engine| engine.synchronize());
}

#[test]
#[cfg_attr(quietus_no_grace_periods, should_panic)]
fn readers_and_a_waiter_private() {
    torture(&EngineRef::private(), |engine| engine.synchronize());
}

#[test]
#[cfg_attr(quietus_no_grace_periods, should_panic)]
fn readers_and_a_poller_driven_by_another_thread() {
    let engine = EngineRef::private();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                engine.advance(engine.start());
                std::thread::yield_now();
            }
        });
        let done = Done(&stop);
        torture(&engine, |engine| {
            let cookie = engine.start();
            while !engine.elapsed(cookie) {
                std::thread::yield_now();
            }
        });
        drop(done);
    });
}

/// Stops the driver, also when the torture has panicked: the scope joins it.
struct Done<'s>(&'s AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Store buffering, bare: a section's slot store and pointer load against the unlink and the scan, with nothing else in
/// between. A reader that saw the old value stays inside until the writer has come to its conclusion, which therefore
/// must not be that the grace period is over. Without either fence it is, now and then.
#[test]
#[cfg(not(quietus_no_grace_periods))] // there its reader may be late in every round
fn store_buffering() {
    let _alone = ALONE.lock();
    let engine = EngineRef::private();
    let [Line(turn), Line(value), Line(seen), Line(concluded)] = &[const { Line(AtomicU64::new(0)) }; 4];
    let await_round = |word: &AtomicU64, round: u64| {
        for spins in 0.. {
            if word.load(Ordering::Acquire) >= round {
                break;
            }
            if spins < 2_000 { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    };
    let saw_old = AtomicBool::new(false);
    let (mut wrong, mut rounds) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            drop(DomainGuard::pin(&engine));
            for round in 1.. {
                await_round(turn, round);
                if turn.load(Ordering::Relaxed) == u64::MAX {
                    break;
                }
                // The old value is at hand, the slot is not: that makes the store wait longer than the load.
                std::hint::black_box(value.load(Ordering::Relaxed));
                let guard = DomainGuard::pin(&engine);
                let old = value.load(Ordering::Relaxed) < round;
                saw_old.store(old, Ordering::Relaxed);
                seen.store(round, Ordering::Release);
                if old {
                    await_round(concluded, round);
                }
                drop(guard);
            }
        });
        let end = Instant::now() + Duration::from_secs(2);
        while rounds % 256 != 0 || Instant::now() < end {
            rounds += 1;
            turn.store(rounds, Ordering::Release);
            // The reader needs a moment to notice: meet it at every stage of its entry.
            for step in 0..rounds % 256 {
                std::hint::black_box(step);
            }
            value.store(rounds, Ordering::Relaxed);
            let elapsed = engine.advance(engine.start());
            await_round(seen, rounds);
            wrong += u64::from(elapsed && saw_old.load(Ordering::Relaxed));
            concluded.store(rounds, Ordering::Release);
        }
        turn.store(u64::MAX, Ordering::Release);
    });
    assert_eq!(wrong, 0, "of {rounds} rounds");
}
