//! What memory costs, without grace periods: ours beside mimalloc and the system's `malloc` (and jemalloc and snmalloc, with
//! `RUSTFLAGS="--cfg quietus_peers"`). Contenders take turns in slices of about a millisecond, so what the machine does besides hits all of
//! them; a row is the median of the rounds, with the tenth and ninetieth percentile, and the ratio to the fastest peer, round by round.
//!
//! `pair`: 64 bytes allocated, written and freed. `batch`: 1,000 allocated, then 1,000 freed. `bulk`: the same with 64
//! through the bulk calls, where there are any; `bulk8`: of each object's 64 bytes only 8 are written. `handover`: one thread allocates, another
//! frees. `mixed`: 16 to 2,048 bytes, one of 256 live ones replaced at a time. All figures are for one object. `flush`: a cache's CPUs
//! give back what they hold, on this machine and on a simulated one of 512 CPUs; for one call.
//!
//! `cargo bench --bench slab -- [--only pair,mixed] [--rounds N]`

mod peers;

use peers::allocators::{Classes, Malloc, Mimalloc, Nodes, Raw, Typed, pairs};
#[cfg(quietus_peers)]
use peers::allocators::{Jemalloc, Snmalloc};
use peers::ring::{Place, Ring};
use peers::{Handed, Node, Random, crew::scale};
use quietus::slab::{self, Cache, Machine, SlabBox, Topology};
use std::alloc::Layout;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// A contender of a question: so many operations, and what they took.
type Slice = Box<dyn FnMut(u64) -> Duration>;

/// What is asked: a name, what our best row is to cost of the fastest peer's, operations in a slice, and the contenders; ours come first.
struct Question {
    name: &'static str,
    target: Option<f64>,
    ops: u64,
    ours: Vec<(&'static str, Slice)>,
    peers: Vec<(&'static str, Slice)>,
}

fn pair<A: Nodes + 'static>() -> (&'static str, Slice) {
    let allocator = A::new();
    (A::NAME, Box::new(move |n| pairs(&allocator, n)))
}

const BATCH: usize = 1000;

fn batch<A: Nodes + 'static>() -> (&'static str, Slice) {
    let allocator = A::new();
    let mut nodes: Vec<NonNull<Node>> = Vec::with_capacity(BATCH);
    let slice = move |n: u64| {
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
    };
    (A::NAME, Box::new(slice))
}

const BULK: usize = 64;

fn bulk_typed() -> (&'static str, Slice) {
    let Typed(cache) = Typed::new();
    let mut nodes: Vec<SlabBox<Node>> = Vec::with_capacity(BULK);
    let slice = move |n: u64| {
        let rounds = n.div_ceil(BULK as u64);
        let start = Instant::now();
        for round in 0..rounds {
            let got = cache.alloc_bulk(std::iter::repeat_n([round; 8], BULK), &mut nodes);
            assert!(got.is_ok());
            cache.free_bulk(black_box(&mut nodes).drain(..));
        }
        scale(start.elapsed(), n, rounds * BULK as u64)
    };
    ("quietus Cache::alloc_bulk", Box::new(slice))
}

/// Writes so many bytes of a node.
///
/// # Safety
/// 1. Fresh memory of a node's layout.
#[inline(always)]
unsafe fn write<const BYTES: usize>(node: *mut u8, value: u64) {
    // SAFETY: by (1).
    unsafe { if BYTES == 64 { node.cast::<Node>().write([value; 8]) } else { node.cast::<u64>().write(value) } }
}

fn bulk_raw<const BYTES: usize>() -> (&'static str, Slice) {
    let layout = Layout::new::<Node>();
    let mut nodes = [MaybeUninit::<NonNull<u8>>::uninit(); BULK];
    let slice = move |n: u64| {
        let rounds = n.div_ceil(BULK as u64);
        let start = Instant::now();
        for round in 0..rounds {
            assert_eq!(slab::alloc_bulk(layout, &mut nodes), BULK);
            // SAFETY: all of them were filled; a `NonNull` is a pointer.
            let pointers = unsafe { &*std::ptr::from_ref(&nodes).cast::<[*mut u8; BULK]>() };
            for &node in pointers {
                // SAFETY: fresh memory of a node's layout.
                unsafe { write::<BYTES>(node, round) };
            }
            // SAFETY: (1) from above, each there once.
            unsafe { slab::free_bulk(black_box(pointers)) };
        }
        scale(start.elapsed(), n, rounds * BULK as u64)
    };
    ("quietus alloc_bulk", Box::new(slice))
}

fn bulk_by_one<A: Raw + 'static, const BYTES: usize>() -> (&'static str, Slice) {
    let layout = Layout::new::<Node>();
    let slice = move |n: u64| {
        let rounds = n.div_ceil(BULK as u64);
        let start = Instant::now();
        for round in 0..rounds {
            let nodes: [*mut u8; BULK] = std::array::from_fn(|_| {
                let node = A::get(layout);
                assert!(!node.is_null());
                // SAFETY: fresh memory of a node's layout.
                unsafe { write::<BYTES>(node, round) };
                node
            });
            for &node in black_box(&nodes) {
                // SAFETY: (1) from above.
                unsafe { A::put(node, layout) };
            }
        }
        scale(start.elapsed(), n, rounds * BULK as u64)
    };
    (A::NAME, Box::new(slice))
}

fn handover<A: Nodes + 'static>() -> (&'static str, Slice) {
    let allocator = A::new();
    let run = move |n: u64| -> Duration {
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
    (A::NAME, Box::new(run))
}

const LIVE: usize = 256;

fn mixed<A: Raw + 'static>() -> (&'static str, Slice) {
    let mut random = Random::new(1);
    // More small ones than large ones: 16 << (0 to 7), and something in between.
    let layouts: Vec<Layout> = (0..1024)
        .map(|_| {
            let most = 16 << random.below(8);
            Layout::from_size_align(16.max(most - random.below(most / 2)), 8).expect("a small layout")
        })
        .collect();
    let mut live: Vec<(*mut u8, Layout)> = layouts[..LIVE].iter().map(|&layout| (A::get(layout), layout)).collect();
    let slice = move |n: u64| {
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
    };
    (A::NAME, Box::new(slice))
}

/// A flush of a cache of which every CPU of a machine (of the real one, that which this thread is on) holds an object.
fn flush(name: &'static str, machine: Option<&'static Machine>) -> (&'static str, Slice) {
    let builder = Cache::<Node>::builder(name);
    let cache = machine.map_or(builder, |m| Cache::builder(name).machine(m)).build().expect("a cache");
    let slice = move |n: u64| {
        let mut took = Duration::ZERO;
        for _ in 0..n {
            let cpus = machine.map_or(1, |m| m.topology().possible);
            for cpu in 0..cpus {
                machine.inspect(|m| m.run_on(cpu));
                drop(cache.alloc([0; 8]));
            }
            let start = Instant::now();
            assert!(cache.flush() >= cpus.min(2) - 1);
            took += start.elapsed();
        }
        took
    };
    (name, Box::new(slice))
}

macro_rules! contenders {
    ($($slice:expr),*) => { vec![$($slice),*] };
}

/// The peers of a question.
macro_rules! peers {
    ($of:ident $(, $bytes:literal)?) => {{
        #[allow(unused_mut)]
        let mut peers = contenders![$of::<Mimalloc $(, $bytes)?>(), $of::<Malloc $(, $bytes)?>()];
        #[cfg(quietus_peers)]
        peers.extend(contenders![$of::<Jemalloc $(, $bytes)?>(), $of::<Snmalloc $(, $bytes)?>()]);
        peers
    }};
}

fn questions() -> Vec<Question> {
    let ask = |name, target, ops, ours, peers| Question { name, target, ops, ours, peers };
    vec![
        ask("pair", Some(0.7), 200_000, contenders![pair::<Typed>(), pair::<Classes>()], peers!(pair)),
        ask("batch", Some(0.6), 200_000, contenders![batch::<Typed>(), batch::<Classes>()], peers!(batch)),
        ask("bulk", Some(0.3), 192_000, contenders![bulk_typed(), bulk_raw::<64>()], peers!(bulk_by_one, 64)),
        ask("bulk8", None, 192_000, contenders![bulk_raw::<8>(), bulk_by_one::<Classes, 8>()], peers!(bulk_by_one, 8)),
        ask("handover", Some(0.6), 400_000, contenders![handover::<Typed>(), handover::<Classes>()], peers!(handover)),
        ask("mixed", Some(1.0), 100_000, contenders![mixed::<Classes>()], peers!(mixed)),
        ask("flush", None, 100, flushes(), Vec::new()),
    ]
}

fn flushes() -> Vec<(&'static str, Slice)> {
    // By the thread that asks: the worker's way is for CPUs that must not be interrupted.
    slab::workers(false);
    let many = Machine::simulated(Topology::grid(1, 512)).expect("address space");
    contenders![flush("one CPU", None), flush("512 simulated CPUs", Some(many))]
}

/// Sorts.
fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * q).round() as usize]
}

/// Median, tenth and ninetieth percentile.
fn spread(values: &[f64]) -> String {
    let mut values = values.to_vec();
    format!("{:.2} ({:.2}–{:.2})", quantile(&mut values, 0.5), quantile(&mut values, 0.1), quantile(&mut values, 0.9))
}

fn answer(mut question: Question, rounds: usize) {
    let own = question.ours.len();
    let mut all: Vec<_> = question.ours.drain(..).chain(question.peers.drain(..)).map(|c| (c.0, c.1, vec![])).collect();
    for round in 0..rounds + 2 {
        for (_, slice, times) in &mut all {
            let time = slice(question.ops).as_nanos() as f64 / question.ops as f64;
            if round >= 2 {
                times.push(time); // (the first two warm up)
            }
        }
    }
    let median = |times: &[f64]| quantile(&mut times.to_vec(), 0.5);
    let fastest = all[own..].iter().min_by(|a, b| median(&a.2).total_cmp(&median(&b.2))).map(|peer| peer.2.clone());
    for (i, (name, _, times)) in all.iter().enumerate() {
        let ratio = fastest.as_ref().filter(|_| i < own).map_or("—".into(), |peer| {
            spread(&times.iter().zip(peer).map(|(ours, peer)| ours / peer).collect::<Vec<f64>>())
        });
        let target = question.target.filter(|_| i < own).map_or("—".into(), |target| format!("≤ {target:.1}"));
        println!("| `{}` | {name} | {} | {ratio} | {target} |", question.name, spread(times));
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1));
    // (Run as a test, once and for a moment.)
    let in_earnest = arguments.iter().any(|a| a == "--bench");
    let rounds = value("--rounds").and_then(|n| n.parse().ok()).unwrap_or(if in_earnest { 60 } else { 1 });
    let only: Option<Vec<&str>> = value("--only").map(|names| names.split(',').collect());
    println!("| | contender | ns | ratio to the fastest peer | target |");
    println!("| --- | --- | ---: | ---: | ---: |");
    for mut question in questions() {
        if only.as_ref().is_none_or(|names| names.contains(&question.name)) {
            question.ops = if in_earnest { question.ops } else { 100 };
            answer(question, rounds.max(1));
        }
    }
}
