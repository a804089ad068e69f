//! Does a per-CPU array of a fixed size need anything behind it? Nanoseconds for one allocation and one free, for a cache with blocks
//! (the default) and for one with an array of the same capacity (`CacheBuilder::array`), which has neither spare block nor barn.
//!
//!     cargo run --release -p quietus-slab --example array_or_blocks

use quietus_slab::{Cache, SlabBox, workers};
use std::hint::black_box;
use std::sync::mpsc;
use std::time::Instant;

type Object = [u64; 8];

/// The best of several runs of `f`, which does `n` pairs.
fn best(n: u64, mut f: impl FnMut()) -> f64 {
    let run = |f: &mut dyn FnMut()| {
        let begin = Instant::now();
        f();
        begin.elapsed().as_nanos() as f64 / n as f64
    };
    (0..7).map(|_| run(&mut f)).fold(f64::MAX, f64::min)
}

/// Allocates `depth` objects, frees them newest first, again and again.
fn bursts(cache: &Cache<Object>, depth: u64) -> f64 {
    let mut held = Vec::with_capacity(depth as usize);
    let rounds = 400_000 / depth;
    best(rounds * depth, || {
        for _ in 0..rounds {
            held.extend((0..depth).map(|i| cache.alloc([i; 8])));
            while let Some(b) = held.pop() {
                drop(black_box(b));
            }
        }
    })
}

/// The number of live objects wanders between 0 and 4,000.
fn wander(cache: &Cache<Object>) -> f64 {
    let mut held: Vec<SlabBox<Object>> = Vec::with_capacity(4000);
    let mut x = 88_172_645_463_325_252u64;
    best(200_000, || {
        for _ in 0..2000 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            let up = held.len() < 100 || held.len() < 3900 && x & 1 == 0;
            for i in 0..100 {
                if up {
                    held.push(cache.alloc([i; 8]));
                } else {
                    drop(held.pop());
                }
            }
        }
    }) * 2.0 // each round is an allocation or a free
}

/// One thread allocates, another frees.
fn across(cache: &Cache<Object>) -> f64 {
    best(400_000, || {
        let (send, receive) = mpsc::sync_channel::<Vec<SlabBox<Object>>>(8);
        std::thread::scope(|scope| {
            scope.spawn(move || receive.into_iter().for_each(drop));
            for _ in 0..400 {
                send.send((0..1000).map(|i| cache.alloc([i; 8])).collect()).unwrap();
            }
            drop(send);
        });
    })
}

fn bulk(cache: &Cache<Object>) -> f64 {
    best(400_000, || {
        for _ in 0..1000 {
            let held: Vec<_> = (0..400).map(|i| cache.alloc([i; 8])).collect();
            cache.free_bulk(held);
        }
    })
}

fn main() {
    let blocks: Cache<Object> = Cache::builder("blocks").block_capacity(504).build().expect("a cache");
    let array: Cache<Object> = Cache::builder("array").array(504).build().expect("a cache");
    println!("{:<34} {:>8} {:>8}", "ns per allocation and free", "blocks", "array");
    for depth in [1, 100, 500, 600, 1000, 4000] {
        let name = format!("bursts of {depth}");
        println!("{name:<34} {:>8.1} {:>8.1}", bursts(&blocks, depth), bursts(&array, depth));
    }
    println!("{:<34} {:>8.1} {:>8.1}", "0 to 4,000 live, wandering", wander(&blocks), wander(&array));
    println!("{:<34} {:>8.1} {:>8.1}", "freed by another thread", across(&blocks), across(&array));
    println!("{:<34} {:>8.1} {:>8.1}", "400 at a time, freed in bulk", bulk(&blocks), bulk(&array));
    for on in [true, false] {
        workers(on);
        let flush = best(1, || {
            for _ in 0..200 {
                drop((0..10).map(|i| blocks.alloc([i; 8])).collect::<Vec<_>>());
                blocks.flush();
            }
        }) / 200.0;
        println!("a flush, workers {:<17} {:>8.0}", if on { "on" } else { "off" }, flush);
    }
}
