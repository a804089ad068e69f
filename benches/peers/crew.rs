//! Threads that do the same, timed from the first that starts to the end of the barrier.

use super::{Cycles, Random, Readers, Reclaims, SLOTS};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Barrier, RwLock, mpsc};
use std::time::{Duration, Instant};

/// Reads `n` times.
#[inline(never)]
pub(crate) fn reads<P: Readers>(peer: &P, local: &mut P::Local, slot: &P::Slot, n: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..n {
        black_box(peer.read(local, slot));
    }
    start.elapsed()
}

/// Allocates and retires `n` nodes, until all are free.
#[inline(never)]
pub(crate) fn cycles<P: Cycles>(peer: &P, local: &mut P::Local, n: u64) -> Duration {
    let start = Instant::now();
    for i in 0..n {
        peer.cycle(local, [i; 8]);
    }
    peer.barrier(local);
    start.elapsed()
}

/// `threads` threads publish `each` nodes in random slots, until all that was replaced is free.
pub(crate) fn replaces<P: Reclaims>(peer: &P, slots: &[P::Slot], threads: usize, each: u64) -> Duration {
    assert_eq!(slots.len(), SLOTS);
    let ready = Barrier::new(threads);
    let work = |seed: usize| {
        let mut local = peer.local();
        let mut random = Random::new(seed);
        ready.wait();
        let start = Instant::now();
        for i in 0..each {
            peer.replace(&mut local, &slots[random.below(SLOTS)], [i; 8]);
        }
        peer.flush(&mut local);
        start
    };
    let start = std::thread::scope(|scope| {
        let crew: Vec<_> = (0..threads).map(|seed| scope.spawn(move || work(seed))).collect();
        crew.into_iter().map(|thread| thread.join().expect("no panic")).min()
    });
    peer.barrier(&mut peer.local());
    start.map_or(Duration::ZERO, |start| start.elapsed())
}

/// Does `work` while `readers` threads open and close sections without a pause.
pub(crate) fn beside_readers<P: Readers, R>(peer: &P, slot: &P::Slot, readers: usize, work: impl FnOnce() -> R) -> R {
    /// Stops the readers even if the work panics: the scope waits for them.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            // Relaxed: a flag; nothing is handed over.
            self.0.store(true, Relaxed);
        }
    }
    let (stop, ready) = (AtomicBool::new(false), Barrier::new(readers + 1));
    let busy = || {
        let mut local = peer.local();
        ready.wait();
        // Relaxed: as above.
        while !stop.load(Relaxed) {
            for _ in 0..64 {
                black_box(peer.read(&mut local, slot));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..readers {
            scope.spawn(busy);
        }
        let _stop = Stop(&stop);
        ready.wait();
        work()
    })
}

/// Does `work` while `threads` threads do nothing: each in the middle of its `visit`, which waits when it calls what it gets.
pub(crate) fn beside_idle<R>(threads: usize, visit: impl Fn(&dyn Fn()) + Sync, work: impl FnOnce() -> R) -> R {
    let (gate, (arrived, all)) = (RwLock::new(()), mpsc::channel());
    std::thread::scope(|scope| {
        let closed = gate.write().expect("not poisoned");
        for _ in 0..threads {
            let (arrived, gate, visit) = (arrived.clone(), &gate, &visit);
            let wait = move || {
                arrived.send(()).expect("somebody counts");
                drop(gate.read());
            };
            let builder = std::thread::Builder::new().stack_size(64 << 10);
            builder.spawn_scoped(scope, move || visit(&wait)).expect("a thread");
        }
        all.iter().take(threads).for_each(drop);
        let result = work();
        drop(closed);
        result
    })
}

/// A time for `did` operations, as it would be for `asked`: criterion's count is not always a whole number of rounds.
pub(crate) fn scale(time: Duration, asked: u64, did: u64) -> Duration {
    time.mul_f64(asked as f64 / did as f64)
}
