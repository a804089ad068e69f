//! Many threads at once: objects freed elsewhere, flushes and shrinks under load, handles dropped while objects are out.

use quietus_slab::{Cache, SlabBox, all_stats};
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Barrier, mpsc};
use std::time::{Duration, Instant};

/// A generator of its own for each thread.
struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Sets the flag when it goes, so that others end too if this thread panics.
struct Stop<'a>(&'a AtomicBool);
impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// One thread allocates, another frees, both for long: every value arrives whole, and memory is used again.
#[test]
fn producers_and_consumers() {
    let cache: Cache<[u64; 16]> = Cache::new("across");
    let (send, receive) = mpsc::sync_channel::<SlabBox<[u64; 16]>>(200);
    const COUNT: u64 = 100_000;
    std::thread::scope(|scope| {
        for producer in 0..2 {
            let (send, cache) = (send.clone(), &cache);
            scope.spawn(move || {
                for i in 0..COUNT {
                    send.send(cache.alloc([producer * COUNT + i; 16])).unwrap();
                }
            });
        }
        drop(send);
        let mut sum = 0;
        for b in receive {
            assert!(b.iter().all(|&w| w == b[0]));
            sum += b[0];
        }
        assert_eq!(sum, (0..2 * COUNT).sum());
    });
    let s = cache.stats();
    assert_eq!(s.live, 0);
    assert!(s.objects < 20_000, "memory was not used again: {s:?}");
}

/// Flush and shrink are never wrong, whoever uses the cache meanwhile.
#[test]
fn flushes_and_shrinks_under_load() {
    for poison in [false, true] {
        let cache: Cache<[AtomicU64; 4]> = Cache::builder("flushed").poison(poison).build().unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for me in 1..=4u64 {
                let (cache, stop) = (&cache, &stop);
                scope.spawn(move || {
                    let _stop = Stop(stop);
                    let mut random = Random(me * 77);
                    let mut held = Vec::new();
                    while !stop.load(Relaxed) {
                        let n = random.next() % 200;
                        held.extend((0..n).map(|i| cache.alloc([me, i, me ^ i, 3].map(AtomicU64::new))));
                        let keep = random.next() as usize % (held.len() + 1);
                        for b in held.drain(keep..) {
                            let [a, i, x, three] = b.each_ref().map(|w| w.load(Relaxed));
                            assert_eq!((a, x, three), (me, me ^ i, 3), "an object changed hands");
                        }
                    }
                });
            }
            let _stop = Stop(&stop);
            let end = Instant::now() + Duration::from_millis(400);
            while Instant::now() < end && !stop.load(Relaxed) {
                cache.flush();
                cache.shrink();
            }
        });
        cache.flush();
        let s = cache.stats();
        assert_eq!((s.live, s.refused, s.objects), (0, 0, s.free_in_slabs), "{s:?}");
    }
}

/// The handle goes on one thread while the last object is freed on another: of neither is anything left. (The number of a cache
/// that is never given back could be missed for a while; there are 4,095.)
#[test]
fn handles_dropped_while_the_last_object_is_freed() {
    let meet = Barrier::new(2);
    let (send, receive) = mpsc::channel::<(SlabBox<[u64; 64]>, u64)>();
    std::thread::scope(|scope| {
        let meet = &meet;
        scope.spawn(move || {
            for (last, after) in receive {
                meet.wait();
                let begin = Instant::now();
                while begin.elapsed() < Duration::from_nanos(after) {
                    std::hint::spin_loop();
                }
                drop(last);
                meet.wait();
            }
        });
        let mut random = Random(12345);
        let end = Instant::now() + Duration::from_millis(2500);
        let (mut rounds, mut took) = (0, 50_000);
        while Instant::now() < end || rounds <= 20 {
            rounds += 1;
            let cache: Cache<[u64; 64]> = Cache::new("raced");
            // At any time while the handle goes, and somewhat later.
            send.send((cache.alloc([7; 64]), random.next() % (took + took / 4 + 1))).unwrap();
            meet.wait();
            let begin = Instant::now();
            drop(cache);
            took = (took * 15 + begin.elapsed().as_nanos() as u64) / 16;
            meet.wait();
            assert!(!all_stats().iter().any(|s| s.name == "raced"), "a cache is left behind in round {rounds}");
        }
        drop(send);
    });
}

/// Caches are made, used and dropped by many threads; their numbers and memory go round.
#[test]
fn caches_come_and_go_on_many_threads() {
    std::thread::scope(|scope| {
        for me in 1..=4u64 {
            scope.spawn(move || {
                let mut random = Random(me * 991);
                let mut left = Vec::new();
                for _ in 0..300 {
                    let cache: Cache<[u64; 8]> = Cache::new("storm");
                    left.extend((0..random.next() % 300).map(|_| cache.alloc([me; 8])));
                    if random.next().is_multiple_of(8) {
                        cache.shrink();
                    }
                    drop(cache);
                    let keep = random.next() as usize % (left.len() + 1);
                    assert!(left.drain(keep..).all(|b: SlabBox<[u64; 8]>| b.iter().all(|&w| w == me)));
                }
                assert!(left.iter().all(|b| b.iter().all(|&w| w == me)));
            });
        }
    });
    assert!(!all_stats().iter().any(|s| s.name == "storm"), "a cache is left behind");
}
