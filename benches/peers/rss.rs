//! Peak memory. It is a process's, so that each figure takes one of its own: the benchmark starts itself with `--rss`.

use super::crossbeam::Crossbeam;
use super::floor::{Locked, Plain};
use super::haphazard::Haphazard;
use super::quietus::{Cell, Kmalloc, Private, Quietus};
use super::sdd::Sdd;
use super::seize::Seize;
use super::{Reclaims, crew, make, slots};
use std::process::Command;

/// Publish-and-retire operations of a run, shared out among its threads: enough to see garbage pile up.
pub(crate) const OPS: u64 = 8_000_000;

/// The contenders, by the names that `--rss` takes.
pub(crate) const NAMES: [&str; 10] = [
    Quietus::KEY,
    Private::KEY,
    Kmalloc::KEY,
    Cell::KEY,
    Crossbeam::KEY,
    Seize::KEY,
    Sdd::KEY,
    Haphazard::KEY,
    Locked::KEY,
    Plain::KEY,
];

/// A name without spaces.
trait Key: Reclaims {
    const KEY: &'static str;
}

macro_rules! keys {
    ($($peer:ty => $key:literal),* $(,)?) => {
        $(impl Key for $peer { const KEY: &'static str = $key; })*
        fn run_named(name: &str, threads: usize, ops: u64) -> Option<(String, u64)> {
            match name {
                $($key => run::<$peer>(threads, ops),)*
                _ => None,
            }
        }
    };
}

keys! {
    Quietus => "quietus",
    Private => "quietus-private",
    Kmalloc => "quietus-kmalloc",
    Cell => "quietus-rcu",
    Crossbeam => "crossbeam-epoch",
    Seize => "seize",
    Sdd => "sdd",
    Haphazard => "haphazard",
    Locked => "rwlock",
    Plain => "plain",
}

/// What a child says.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    /// The contender, as reports show it.
    pub(crate) name: String,
    /// Time of an operation.
    pub(crate) nanoseconds: f64,
    /// Most memory resident at any time, in KiB.
    pub(crate) peak: u64,
    /// The same before the run: program and libraries.
    pub(crate) before: u64,
}

fn run<P: Reclaims>(threads: usize, ops: u64) -> Option<(String, u64)> {
    let peer = make::<P>()?;
    let slots = slots(&peer);
    let each = ops.div_ceil(threads as u64);
    let time = crew::replaces(&peer, &slots, threads, each);
    let picoseconds = time.as_nanos() as u64 * 1000 / (each * threads as u64);
    Some((P::NAME.into(), picoseconds))
}

/// Most memory that this process has had resident, in KiB; 0 where there is no `/proc`.
fn high_water() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

/// Is this process such a child (`--rss NAME THREADS OPS`)? Then it does its run, and `main` returns.
pub(crate) fn is_child() -> bool {
    let args: Vec<String> = std::env::args().collect();
    let Some(at) = args.iter().position(|arg| arg == "--rss") else { return false };
    let number = |n: usize| args.get(at + n).and_then(|arg| arg.parse::<u64>().ok()).filter(|&n| n > 0);
    let (Some(name), Some(threads), Some(ops)) = (args.get(at + 1), number(2), number(3)) else {
        eprintln!("--rss NAME THREADS OPS; names: {}", NAMES.join(", "));
        std::process::exit(2);
    };
    let before = high_water();
    match run_named(name, threads as usize, ops) {
        Some((name, picoseconds)) => println!("{picoseconds} {} {before} {name}", high_water()),
        None => {
            eprintln!("no {name} here; names: {}", NAMES.join(", "));
            std::process::exit(2);
        }
    }
    true
}

/// Runs a contender in a process of its own.
pub(crate) fn measure(key: &str, threads: usize, ops: u64) -> Option<Measured> {
    let program = std::env::current_exe().ok()?;
    let (threads, ops) = (threads.to_string(), ops.to_string());
    let output = Command::new(program).args(["--rss", key, &threads, &ops]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    let mut words = text.trim().splitn(4, ' ');
    let mut number = || words.next()?.parse::<u64>().ok();
    let (picoseconds, peak, before) = (number()?, number()?, number()?);
    let name = words.next()?.to_owned();
    Some(Measured { name, nanoseconds: picoseconds as f64 / 1000.0, peak, before })
}

/// Every contender with 1, 2 and 8 threads.
pub(crate) fn table() {
    println!(
        "\npeak resident memory (MiB) and time (ns) of an operation: publish and retire, {OPS} in all, own process each\n"
    );
    println!("| contender | x1 ns | MiB | x2 ns | MiB | x8 ns | MiB | before |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for key in NAMES {
        let runs = [1, 2, 8].map(|threads| measure(key, threads, OPS));
        let Some(first) = runs.iter().flatten().next() else {
            println!("| {key} | failed |");
            continue;
        };
        let mib = |kib: u64| kib as f64 / 1024.0;
        let cells: Vec<String> = runs
            .iter()
            .map(|run| match run {
                Some(run) => format!("{:.1} | {:.1}", run.nanoseconds, mib(run.peak)),
                None => "failed | ".into(),
            })
            .collect();
        println!("| {} | {} | {:.1} |", first.name, cells.join(" | "), mib(first.before));
    }
}
