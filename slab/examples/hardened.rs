//! What checks cost: an object allocated, written and freed, in a cache as it is, poisoned, hardened, and with each of the kernel's checks.
//! Prints nanoseconds a pair (the median of interleaved rounds) and the ratio to the first row.
//!
//! `cargo run --release -p quietus-slab --example hardened`

use quietus_slab::{Cache, DebugFlags};
use std::hint::black_box;
use std::time::Instant;

type Object = [u64; 8];
const ROUNDS: usize = 31;

/// Nanoseconds for one of `pairs`, each of a batch of 32 objects.
fn time(cache: &Cache<Object>, pairs: usize) -> f64 {
    let mut held = Vec::with_capacity(32);
    let start = Instant::now();
    for i in 0..pairs / 32 {
        held.extend((0..32).map(|_| cache.alloc(black_box([i as u64; 8]))));
        held.clear();
    }
    start.elapsed().as_nanos() as f64 / (pairs / 32 * 32) as f64
}

fn main() {
    let debug = |flags| Cache::builder("timed").debug(flags);
    let rows = [
        ("as it is", Cache::builder("timed")),
        ("poison(true)", Cache::builder("timed").poison(true)),
        ("hardened", Cache::builder("timed").hardened(true)),
        ("F consistency", debug(DebugFlags::CONSISTENCY)),
        ("Z red zones", debug(DebugFlags::RED_ZONES)),
        ("P poison", debug(DebugFlags::POISON)),
        ("FZP", debug(DebugFlags::CONSISTENCY | DebugFlags::RED_ZONES | DebugFlags::POISON)),
        ("U owners", debug(DebugFlags::OWNERS)),
    ];
    let rows = rows.map(|(name, builder)| (name, builder.build().expect("a cache"), Vec::new()));
    let mut rows: Vec<(_, Cache<Object>, Vec<f64>)> = rows.into_iter().collect();
    for _ in 0..ROUNDS {
        for (name, cache, times) in &mut rows {
            times.push(time(cache, if name.starts_with('U') { 320 } else { 32_000 }));
        }
    }
    let mut first = None;
    for (name, _, times) in &mut rows {
        times.sort_by(f64::total_cmp);
        let (low, median, high) = (times[3], times[ROUNDS / 2], times[ROUNDS - 4]);
        let first = *first.get_or_insert(median);
        println!("{name:<14} {median:>9.1} ns a pair ({low:.1} to {high:.1})   {:>7.1} times", median / first);
    }
}
