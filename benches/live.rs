//! A program with 100 MiB in use: objects of 16 bytes to 4 KiB, one of them replaced at a time, on 1, 2 and 8 threads. What does an operation
//! take, how much memory does the process have, how much when nine of ten, chosen at random, are freed, and how much when everything is?
//!
//! `RUSTFLAGS="--cfg quietus_peers" cargo bench --bench live -- [--rounds N] [--ops N] [--threads 1,2,8]`. (Without the flag jemalloc and snmalloc are
//! left out: building them takes time, cmake and a C++ compiler.) Each figure takes a process of its own, and the contenders take turns: a
//! row is the median of the rounds, with the least and the greatest.

use quietus::slab;
use std::alloc::{GlobalAlloc, Layout, System};
use std::process::Command;
use std::ptr::{NonNull, null_mut};
use std::sync::Barrier;
use std::time::Instant;

const LIVE: usize = 100 << 20;
#[cfg(not(quietus_peers))]
const CONTENDERS: [&str; 3] = ["quietus", "mimalloc", "system"];
#[cfg(quietus_peers)]
const CONTENDERS: [&str; 5] = ["quietus", "mimalloc", "jemalloc", "snmalloc", "system"];

/// The size classes, as an allocator among others.
struct Quietus;

// SAFETY: memory of the layout, or null; freed once, by its address.
unsafe impl GlobalAlloc for Quietus {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        slab::alloc(layout).map_or(null_mut(), NonNull::as_ptr)
    }
    unsafe fn dealloc(&self, ptr: *mut u8, _: Layout) {
        if let Some(ptr) = NonNull::new(ptr) {
            // SAFETY: by the contract of `dealloc`.
            unsafe { slab::free(ptr) }
        }
    }
}

/// What a child reports.
#[derive(Clone, Copy, Default)]
struct Figures {
    nanoseconds: f64,
    peak: f64,
    sparse: f64,
    after: f64,
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// 16 to 4,096 bytes, as many of each doubling.
fn layout(state: &mut u64) -> Layout {
    let most = 16usize << (1 + random(state) % 8);
    let size = most / 2 + random(state) as usize % (most / 2) + 1;
    Layout::from_size_align(size, 8).expect("a small layout")
}

fn get(allocator: &impl GlobalAlloc, state: &mut u64) -> (NonNull<u8>, Layout) {
    let layout = layout(state);
    // SAFETY: the layout is not empty; the memory is written inside it.
    unsafe {
        let p = NonNull::new(allocator.alloc(layout)).expect("memory");
        p.write_bytes(1, layout.size());
        (p, layout)
    }
}

/// One thread's part: fills its share, then replaces `ops` objects; nanoseconds for each of these.
fn part(allocator: &impl GlobalAlloc, me: usize, share: usize, ops: u64, ready: &Barrier) -> (f64, usize, usize) {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ (me as u64 + 1) << 32;
    let (mut live, mut bytes) = (Vec::new(), 0);
    while bytes < share {
        let object = get(allocator, &mut state);
        bytes += object.1.size();
        live.push(object);
    }
    ready.wait();
    let start = Instant::now();
    for _ in 0..ops {
        let i = random(&mut state) as usize % live.len();
        // SAFETY: allocated with this layout, and replaced at once.
        unsafe { allocator.dealloc(live[i].0.as_ptr(), live[i].1) };
        live[i] = get(allocator, &mut state);
    }
    let took = start.elapsed().as_nanos() as f64 / ops as f64;
    ready.wait();
    let at_most = if me == 0 { memory("VmHWM:") } else { 0 };
    ready.wait();
    let (kept, gone): (Vec<_>, Vec<_>) = live.into_iter().partition(|_| random(&mut state).is_multiple_of(10));
    let free = |objects: Vec<(NonNull<u8>, Layout)>| {
        for (p, layout) in objects {
            // SAFETY: as above.
            unsafe { allocator.dealloc(p.as_ptr(), layout) };
        }
    };
    free(gone);
    ready.wait();
    let sparse = if me == 0 { settled() } else { 0 };
    ready.wait();
    free(kept);
    (took, at_most, sparse)
}

/// KiB, when ours has given back what it gives back by itself, with the reaper on, after two rounds.
fn settled() -> usize {
    for _ in 0..3 {
        slab::reap();
    }
    memory("VmRSS:")
}

/// KiB.
fn memory(what: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap_or("0");
    line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn child(allocator: &(impl GlobalAlloc + Sync), threads: usize, ops: u64) {
    let ready = Barrier::new(threads);
    let parts: Vec<(f64, usize, usize)> = std::thread::scope(|scope| {
        let ready = &ready;
        let run = move |me| scope.spawn(move || part(allocator, me, LIVE / threads, ops / threads as u64, ready));
        let running: Vec<_> = (0..threads).map(run).collect();
        running.into_iter().map(|thread| thread.join().expect("a thread")).collect()
    });
    let took = parts.iter().map(|part| part.0).sum::<f64>() / threads as f64;
    println!("{took} {} {} {}", parts[0].1, parts[0].2, settled());
}

/// Runs one contender in a process of its own.
fn measure(name: &str, threads: usize, ops: u64) -> Option<Figures> {
    let me = std::env::current_exe().ok()?;
    let run = Command::new(me).args(["--child", name, &threads.to_string(), &ops.to_string()]).output().ok()?;
    let text = String::from_utf8(run.stdout).ok()?;
    let mut numbers = text.split_whitespace().map(|n| n.parse::<f64>().ok());
    let (nanoseconds, peak, sparse, after) = (numbers.next()??, numbers.next()??, numbers.next()??, numbers.next()??);
    Some(Figures { nanoseconds, peak: peak / 1024.0, sparse: sparse / 1024.0, after: after / 1024.0 })
}

fn spread(figures: &[Figures], of: impl Fn(&Figures) -> f64) -> String {
    let mut all: Vec<f64> = figures.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    match all[..] {
        [] => "-".into(),
        _ => format!("{:.1} ({:.1}-{:.1})", all[all.len() / 2], all[0], all[all.len() - 1]),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name, threads, ops, ..] = &arguments[..] {
        if flag == "--child" {
            let (threads, ops) = (threads.parse().expect("threads"), ops.parse().expect("operations"));
            return match name.as_str() {
                "quietus" => child(&Quietus, threads, ops),
                "mimalloc" => child(&mimalloc::MiMalloc, threads, ops),
                #[cfg(quietus_peers)]
                "jemalloc" => child(&tikv_jemallocator::Jemalloc, threads, ops),
                #[cfg(quietus_peers)]
                "snmalloc" => child(&snmalloc_rs::SnMalloc, threads, ops),
                _ => child(&System, threads, ops),
            };
        }
    }
    let value = |name: &str| arguments.iter().position(|a| a == name).and_then(|i| arguments.get(i + 1));
    let number = |name, default| value(name).and_then(|n| n.parse().ok()).unwrap_or(default);
    // (Run as a test, once and for a moment.)
    let in_earnest = arguments.iter().any(|a| a == "--bench");
    let (rounds, ops) = if in_earnest { (5, 4_000_000) } else { (1, 10_000) };
    let (rounds, ops) = (number("--rounds", rounds), number("--ops", ops));
    let threads = value("--threads").map_or(if in_earnest { "1,2,8" } else { "1" }, String::as_str);
    println!("| threads | allocator | ns | peak MiB | nine of ten freed | MiB when freed |");
    println!("| ---: | --- | ---: | ---: | ---: | ---: |");
    for threads in threads.split(',').filter_map(|n| n.parse::<usize>().ok()).filter(|&n| n > 0) {
        let mut figures: [Vec<Figures>; CONTENDERS.len()] = Default::default();
        for _ in 0..rounds {
            for (name, figures) in CONTENDERS.iter().zip(&mut figures) {
                figures.extend(measure(name, threads, ops));
            }
        }
        for (name, figures) in CONTENDERS.iter().zip(&figures) {
            let memory = [|f: &Figures| f.peak, |f: &Figures| f.sparse, |f: &Figures| f.after];
            let [peak, sparse, after] = memory.map(|of| spread(figures, of));
            println!("| {threads} | {name} | {} | {peak} | {sparse} | {after} |", spread(figures, |f| f.nanoseconds));
        }
    }
}
