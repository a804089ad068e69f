//! One leg of the torture, in a process of its own: a few phases, each over another domain of the flavour, and what came of them.
//!
//! The process is this program again with a hidden command; it is told what to do on standard input ([`Spec`]) and answers with one
//! line of JSON on standard output ([`Outcome`]).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use quietus::{Domain, Epoch, Memb, Qsbr, slab};
use serde::{Deserialize, Serialize};

use super::cookies;
use super::crowd;
use super::doors;
use super::faults;
use super::flavours::Flavour;
use super::ledger::LEDGER;
use super::litmus::Litmus;
use super::pipe::{self, PIPE};
use super::stall;
use super::tally::{self, Count, Wrong};
use super::watch;
use super::world::World;
use super::{barriers, random::Random};
use crate::args::{Fault, TortureFlavour};
use crate::crew;

/// Of each phase, this part is for the litmus tests alone.
const LITMUS: f64 = 0.15;

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Spec {
    pub(super) flavour: TortureFlavour,
    pub(super) readers: usize,
    pub(super) writers: usize,
    pub(super) seconds: f64,
    pub(super) seed: u64,
    pub(super) faults: Vec<Fault>,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub(super) struct Outcome {
    /// What was done, how often.
    pub(super) counts: BTreeMap<String, u64>,
    /// Objects through each door.
    pub(super) doors: BTreeMap<String, u64>,
    /// How far readers found the pipe's elements.
    pub(super) pipe: Vec<u64>,
    /// How many elements have come how far.
    pub(super) circulation: Vec<u64>,
    /// What was wrong, how often.
    pub(super) failures: BTreeMap<String, u64>,
    /// The first of each, in words.
    pub(super) descriptions: Vec<String>,
}

/// The hidden command. The error is what was wrong with what it was told.
pub(crate) fn child() -> Result<(), String> {
    let told = io::read_to_string(io::stdin()).map_err(|error| format!("standard input: {error}"))?;
    let spec: Spec = serde_json::from_str(&told).map_err(|error| format!("the leg that was asked for: {error}"))?;
    match spec.flavour {
        TortureFlavour::Memb => phases::<Memb>(&spec),
        TortureFlavour::Qsbr => phases::<Qsbr>(&spec),
        TortureFlavour::Epoch => phases::<Epoch>(&spec),
    }
    say();
    Ok(())
}

/// The answer, as far as it is known.
fn say() {
    let (pipe, circulation) = PIPE.rows();
    let (failures, descriptions) = tally::failures();
    let doors = doors::used().map(|(door, n)| (door.name().to_owned(), n)).collect();
    let outcome = Outcome { counts: tally::counts(), doors, pipe, circulation, failures, descriptions };
    let line = serde_json::to_string(&outcome).expect("numbers and strings");
    // Nobody is left to be told that it failed.
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// The phases: the global domain, a private one, one that does not batch, and one that has too little of everything.
fn phases<F: Flavour>(spec: &Spec) {
    const PHASES: u64 = 4;
    for phase in 0..PHASES {
        let seed = Random::new(spec.seed, phase).next();
        let private = match phase {
            0 => None,
            1 => Some(Domain::builder()),
            2 => Some(Domain::builder().batching(false)),
            _ => Some(Domain::builder().budget(16 << 10).age_limit(Duration::from_millis(1)).reserve(0)),
        };
        let time = Duration::from_secs_f64(spec.seconds / PHASES as f64);
        match private.map(F::private) {
            Some(domain) => run(&domain, spec, seed, time),
            None => run(F::domain(), spec, seed, time),
        }
        if tally::failed() {
            return;
        }
    }
    exercised(spec);
}

/// One phase.
fn run<F: Flavour>(domain: &Domain<F>, spec: &Spec, seed: u64, time: Duration) {
    let over = AtomicBool::new(false);
    let classes = live_in_classes();
    let before = domain.stats().kvfree;
    let world = World::new(domain, seed, &spec.faults);
    let main = world.beats.add("the main thread");
    PIPE.begin();
    thread::scope(|outer| {
        crew::start(outer, "watchdog", || watch::watch(&world.beats, &over, |what| hang(domain, &what)));
        main.begin("the litmus tests");
        let litmus = Litmus::new();
        thread::scope(|scope| {
            world.start(scope, "litmus reader", |world, beat, random| litmus.read(world, beat, random));
            world.start(scope, "litmus writer", |world, beat, _| litmus.write(world, beat));
            rest(&world, &main, time.mul_f64(LITMUS));
        });
        world.go_on();
        main.begin("the crowd");
        let board = Mutex::default();
        thread::scope(|scope| {
            let times = if world.has(Fault::Oversubscription) { 4 } else { 1 };
            for _ in 0..spec.readers * times {
                world.start(scope, "reader", |world, beat, random| crowd::read(world, beat, random, u64::MAX));
            }
            for _ in 0..spec.writers * times {
                world.start(scope, "writer", |world, beat, random| crowd::write(world, beat, random, u64::MAX));
            }
            world.start(scope, "pipe", pipe::turn);
            for _ in 0..2 {
                world.start(scope, "cookies", |world, beat, random| cookies::check(world, &board, beat, random));
            }
            world.start(scope, "barriers", barriers::check);
            world.start(scope, stall::STALLER, stall::stay);
            world.start(scope, "flood", stall::flood);
            faults::start(&world, scope);
            rest(&world, &main, time.mul_f64(1.0 - LITMUS));
        });
        main.begin("the last barrier");
        crowd::clear(&world);
        domain.barrier();
        // Relaxed: it only says to stop.
        over.store(true, Relaxed);
    });
    audit(&world, &before, classes);
}

/// Waits, and lets everybody go on until then; the end is said in any case.
fn rest<F: Flavour>(world: &World<'_, F>, main: &watch::Beat, time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time && !world.stopped() && !tally::hopeless() {
        thread::sleep(Duration::from_millis(5).min(time));
        main.beat();
    }
    world.stop();
    main.begin("waiting for the threads to end");
}

/// Everything has ended: what is left?
fn audit<F: Flavour>(world: &World<'_, F>, before: &quietus::kvfree::Stats, classes: u64) {
    let left = LEDGER.left();
    if left > 0 {
        tally::fail(Wrong::Lost, format_args!("{left} objects whose destructor has not run after the last barrier"));
    }
    world.house.audit().into_iter().for_each(|line| tally::fail(Wrong::Lost, line));
    PIPE.audit().into_iter().for_each(|line| tally::fail(Wrong::Lost, line));
    let now = live_in_classes();
    if now != classes {
        tally::fail(Wrong::Lost, format_args!("{classes} objects of size classes before, {now} after"));
    }
    let stats = world.domain.stats().kvfree;
    let books = [
        ("objects pending", stats.pending_objects),
        ("bytes pending", stats.pending_bytes),
        ("objects given up", stats.leaked - before.leaked),
        ("destructors that panicked", stats.panics - before.panics),
        ("objects retired twice", stats.retired_twice - before.retired_twice),
    ];
    for (what, n) in books.into_iter().filter(|&(_, n)| n != 0) {
        tally::fail(Wrong::Books, format_args!("{n} {what} after the last barrier"));
    }
}

/// Objects of all size classes that are not free.
fn live_in_classes() -> u64 {
    slab::all_stats().iter().filter(|stats| stats.name.starts_with("kmalloc-")).map(|stats| stats.live).sum()
}

/// A check that was never made proves nothing.
fn exercised(spec: &Spec) {
    // In less than that chance may have left something out.
    let long = spec.seconds >= 1.0;
    let asked = |what| match what {
        Count::Threads => spec.faults.contains(&Fault::Churn),
        Count::Moves => spec.faults.contains(&Fault::Affinity),
        Count::Signals => long && spec.faults.contains(&Fault::Signals),
        Count::Shortages | Count::NoMemory => spec.faults.contains(&Fault::Pages),
        Count::Forks => spec.faults.contains(&Fault::Fork),
        Count::HandlerSections | Count::HandlerRetires => {
            long && spec.faults.contains(&Fault::Signals) && spec.flavour == TortureFlavour::Memb
        }
        Count::Timeouts => false,
        Count::Nested | Count::Repinned | Count::Bursts => long,
        _ => true,
    };
    for &what in Count::ALL.iter().filter(|&&what| asked(what) && tally::count(what) == 0) {
        tally::fail(Wrong::Books, format_args!("no {}: nothing was tested", what.name()));
    }
}

/// Says what hangs, and ends the process: its threads cannot be joined.
fn hang<F: Flavour>(domain: &Domain<F>, what: &str) {
    let cookie = domain.cookie();
    tally::fail(Wrong::Hang, format_args!("{what}; holdouts: {:?}", cookie.holdouts()));
    say();
    process::exit(1)
}
