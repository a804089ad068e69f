//! Nanoseconds for an allocation and a free of 64 bytes, single, in batches, and across threads.
use quietus_slab::{Cache, SlabBox, rseq_report};
use std::hint::black_box;
use std::time::Instant;

fn time(name: &str, n: u64, mut f: impl FnMut()) {
    let best = (0..5)
        .map(|_| {
            let t = Instant::now();
            for _ in 0..n {
                f();
            }
            t.elapsed().as_nanos() as f64 / n as f64
        })
        .fold(f64::MAX, f64::min);
    println!("{best:8.2} ns  {name}");
}

fn main() {
    println!("{:?}", rseq_report());
    let cache: Cache<[u64; 8]> = Cache::new("pair");
    time("Cache alloc + drop", 10_000_000, || drop(black_box(cache.alloc([1; 8]))));
    time("SlabBox::new + drop", 10_000_000, || drop(black_box(SlabBox::new([1u64; 8]))));
    let mut held = Vec::with_capacity(1000);
    time("1000 allocs, 1000 frees (each pair)", 10_000, || {
        for _ in 0..1000 {
            held.push(cache.alloc([1; 8]));
        }
        held.clear();
    });
    println!("{:?}", cache.stats());
}
