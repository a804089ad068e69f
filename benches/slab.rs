//! What memory costs, without grace periods: ours beside mimalloc and the system's `malloc` (and jemalloc, with
//! `RUSTFLAGS="--cfg quietus_jemalloc"`).
//!
//! `pair`: 64 bytes allocated, written and freed. `batch`: 1,000 allocated, then 1,000 freed. `bulk`: the same with 64
//! through the bulk calls, where there are any. `handover`: one thread allocates, another frees. `mixed`: 16 to 2,048
//! bytes, one of 256 live ones replaced at a time. All figures are for one object.

mod peers;

use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
#[cfg(quietus_jemalloc)]
use peers::allocators::Jemalloc;
use peers::allocators::{Classes, Malloc, Mimalloc, Nodes, Raw, Typed, pairs};
use peers::ring::{Place, Ring};
use peers::{Handed, Node, Random, crew::scale};
use quietus::slab::{self, SlabBox};
use std::alloc::Layout;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Barrier;
use std::time::{Duration, Instant};

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn pair<A: Nodes>(group: &mut Group<'_>) {
    let allocator = A::new();
    group.bench_function(A::NAME, |bencher| bencher.iter_custom(|n| pairs(&allocator, n)));
}

const BATCH: usize = 1000;

fn batch<A: Nodes>(group: &mut Group<'_>) {
    let allocator = A::new();
    let mut nodes: Vec<NonNull<Node>> = Vec::with_capacity(BATCH);
    group.bench_function(A::NAME, |bencher| {
        bencher.iter_custom(|n| {
            let rounds = n.div_ceil(BATCH as u64);
            let start = Instant::now();
            for round in 0..rounds {
                nodes.extend((0..BATCH).map(|_| allocator.get([round; 8])));
                for node in black_box(&mut nodes).drain(..) {
                    // SAFETY: (1) from above.
                    unsafe { allocator.put(node) };
                }
            }
            scale(start.elapsed(), n, rounds * BATCH as u64)
        });
    });
}

const BULK: usize = 64;

fn bulk_typed(group: &mut Group<'_>) {
    let Typed(cache) = Typed::new();
    let mut nodes: Vec<SlabBox<Node>> = Vec::with_capacity(BULK);
    group.bench_function("quietus Cache::alloc_bulk", |bencher| {
        bencher.iter_custom(|n| {
            let rounds = n.div_ceil(BULK as u64);
            let start = Instant::now();
            for round in 0..rounds {
                let got = cache.alloc_bulk(std::iter::repeat_n([round; 8], BULK), &mut nodes);
                assert!(got.is_ok());
                cache.free_bulk(black_box(&mut nodes).drain(..));
            }
            scale(start.elapsed(), n, rounds * BULK as u64)
        });
    });
}

fn bulk_raw(group: &mut Group<'_>) {
    let layout = Layout::new::<Node>();
    let mut nodes = [MaybeUninit::<NonNull<u8>>::uninit(); BULK];
    group.bench_function("quietus alloc_bulk", |bencher| {
        bencher.iter_custom(|n| {
            let rounds = n.div_ceil(BULK as u64);
            let start = Instant::now();
            for round in 0..rounds {
                assert_eq!(slab::alloc_bulk(layout, &mut nodes), BULK);
                let pointers = nodes.map(|node| {
                    // SAFETY: all of them were filled.
                    let node = unsafe { node.assume_init() }.as_ptr();
                    // SAFETY: fresh memory of a node's layout.
                    unsafe { node.cast::<Node>().write([round; 8]) };
                    node
                });
                // SAFETY: (1) from above, each there once.
                unsafe { slab::free_bulk(black_box(&pointers)) };
            }
            scale(start.elapsed(), n, rounds * BULK as u64)
        });
    });
}

fn bulk_by_one<A: Nodes>(group: &mut Group<'_>) {
    let allocator = A::new();
    group.bench_function(A::NAME, |bencher| {
        bencher.iter_custom(|n| {
            let rounds = n.div_ceil(BULK as u64);
            let start = Instant::now();
            for round in 0..rounds {
                let nodes: [NonNull<Node>; BULK] = std::array::from_fn(|_| allocator.get([round; 8]));
                for &node in black_box(&nodes) {
                    // SAFETY: (1) from above.
                    unsafe { allocator.put(node) };
                }
            }
            scale(start.elapsed(), n, rounds * BULK as u64)
        });
    });
}

fn handover<A: Nodes>(group: &mut Group<'_>) {
    let allocator = A::new();
    let run = |n: u64| -> Duration {
        let (ring, ready) = (Ring::new(), Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut place = Place::default();
                ready.wait();
                for i in 0..n {
                    ring.push(&mut place, Handed(allocator.get([i; 8])));
                }
            });
            let mut place = Place::default();
            ready.wait();
            let start = Instant::now();
            for _ in 0..n {
                let node = ring.pop(&mut place);
                // SAFETY: (1) from the producer, which has let go of it.
                unsafe { allocator.put(node.0) };
            }
            start.elapsed()
        })
    };
    group.bench_function(A::NAME, |bencher| bencher.iter_custom(run));
}

const LIVE: usize = 256;

fn mixed<A: Raw>(group: &mut Group<'_>) {
    let mut random = Random::new(1);
    // More small ones than large ones: 16 << (0 to 7), and something in between.
    let layouts: Vec<Layout> = (0..1024)
        .map(|_| {
            let most = 16 << random.below(8);
            Layout::from_size_align(16.max(most - random.below(most / 2)), 8).expect("a small layout")
        })
        .collect();
    let mut live: Vec<(*mut u8, Layout)> = layouts[..LIVE].iter().map(|&layout| (A::get(layout), layout)).collect();
    group.bench_function(A::NAME, |bencher| {
        bencher.iter_custom(|n| {
            let start = Instant::now();
            for i in 0..n {
                let entry = &mut live[random.below(LIVE)];
                // SAFETY: (1) from `get`, with this layout.
                unsafe { A::put(entry.0, entry.1) };
                let layout = layouts[i as usize % layouts.len()];
                let memory = A::get(layout);
                assert!(!memory.is_null());
                // SAFETY: fresh memory, at least 16 bytes, aligned to 8.
                unsafe { memory.cast::<u64>().write(i) };
                *entry = (memory, layout);
            }
            start.elapsed()
        });
    });
    for (memory, layout) in live {
        // SAFETY: (1) from `get`, with this layout.
        unsafe { A::put(memory, layout) };
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();

    let mut group = criterion.benchmark_group("pair");
    pair::<Typed>(&mut group);
    pair::<Classes>(&mut group);
    pair::<Mimalloc>(&mut group);
    #[cfg(quietus_jemalloc)]
    pair::<Jemalloc>(&mut group);
    pair::<Malloc>(&mut group);
    group.finish();

    let mut group = criterion.benchmark_group("batch");
    batch::<Typed>(&mut group);
    batch::<Classes>(&mut group);
    batch::<Mimalloc>(&mut group);
    #[cfg(quietus_jemalloc)]
    batch::<Jemalloc>(&mut group);
    batch::<Malloc>(&mut group);
    group.finish();

    let mut group = criterion.benchmark_group("bulk");
    bulk_typed(&mut group);
    bulk_raw(&mut group);
    bulk_by_one::<Typed>(&mut group);
    bulk_by_one::<Mimalloc>(&mut group);
    #[cfg(quietus_jemalloc)]
    bulk_by_one::<Jemalloc>(&mut group);
    bulk_by_one::<Malloc>(&mut group);
    group.finish();

    let mut group = criterion.benchmark_group("handover");
    handover::<Typed>(&mut group);
    handover::<Classes>(&mut group);
    handover::<Mimalloc>(&mut group);
    #[cfg(quietus_jemalloc)]
    handover::<Jemalloc>(&mut group);
    handover::<Malloc>(&mut group);
    group.finish();

    let mut group = criterion.benchmark_group("mixed");
    mixed::<Classes>(&mut group);
    mixed::<Mimalloc>(&mut group);
    #[cfg(quietus_jemalloc)]
    mixed::<Jemalloc>(&mut group);
    mixed::<Malloc>(&mut group);
    group.finish();
    criterion.final_summary();
}
