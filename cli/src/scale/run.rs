//! The threads: each allocates and retires; then everything is drained, and every object accounted for.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use hdrhistogram::Histogram;
use quietus::{Domain, Stats};

use super::figures::{Figures, Retire};
use super::modes::Mode;
use super::sampler::{self, Level};
use crate::args::ScaleArgs;
use crate::cpu;
use crate::crew;
use crate::numbers::rounded;
use crate::timing::{clock_ns, nanoseconds, since};

/// One retire in this many is timed. A prime, so that no block's turn is always, or never, among them.
pub(super) const SAMPLED: u64 = 61;

/// What one thread did, and when.
struct Shift {
    start: Instant,
    end: Instant,
    retire_ns: Histogram<u64>,
}

/// Runs the mode in this domain. Returns what was measured, and what was wrong, a line each.
pub(super) fn run<M: Mode>(mode: &M, domain: &Domain, args: &ScaleArgs) -> (Figures, Vec<String>) {
    let (threads, objects, clock) = (args.threads(), args.objects(), clock_ns());
    let mut failures = Vec::new();
    let before = domain.stats();
    let worker_before = cpu::workers_ms_at_first();
    let over = AtomicBool::new(false);
    let begin = Barrier::new(threads);

    let (shifts, drain, end, level) = thread::scope(|scope| {
        let sampler = crew::start(scope, "sampler", || sampler::watch(domain, &over));
        let retire = || work(mode, domain, args, &begin, clock);
        let retirers: Vec<_> = (0..threads).map(|_| crew::start(scope, "retirer", retire)).collect();
        let shifts: Vec<Shift> = retirers.into_iter().filter_map(|retirer| retirer.join().ok()).collect();
        let drain = Instant::now();
        domain.barrier();
        let end = Instant::now();
        // Relaxed: it only says to stop.
        over.store(true, Ordering::Relaxed);
        let level = sampler.join().unwrap_or_default();
        (shifts, end - drain, end, level)
    });
    if shifts.len() < threads {
        failures.push(format!("{} of {threads} retiring threads panicked", threads - shifts.len()));
    }
    let worker_cpu_ms = cpu::workers_ms().zip(worker_before).map(|(after, before)| rounded(after - before));
    let after = domain.stats();
    failures.extend(account(objects, &before, &after, mode.left(objects)));

    let start = shifts.iter().map(|shift| shift.start).min().unwrap_or(end);
    let last = shifts.iter().map(|shift| shift.end).max().unwrap_or(end);
    let mut retire_ns = nanoseconds();
    for shift in &shifts {
        retire_ns.add(&shift.retire_ns).expect("histograms of the same bounds");
    }
    let each = |from: Instant, to: Instant| rounded((to - from).as_nanos() as f64 / objects as f64);
    let (is, was) = (&after.kvfree, &before.kvfree);
    let Level { looks, peak, .. } = level;
    let figures = Figures {
        mode: args.mode,
        size: args.size(),
        threads,
        allocs: args.allocs,
        loops: args.loops,
        objects,
        submit_ns_per_op: each(start, last),
        total_ns_per_op: each(start, end),
        drain_ms: rounded(drain.as_secs_f64() * 1e3),
        grace_periods: after.grace_periods - before.grace_periods,
        // The domain looks whenever it queues a block, the sampler now and then: neither has seen more than there was.
        peak_unreclaimed_bytes: peak.max(is.peak_pending_bytes),
        mean_unreclaimed_bytes: level.mean().round() as u64,
        looks,
        retire_ns: Retire::of(&retire_ns),
        clock_ns: clock,
        worker_cpu_ms,
        batches: is.batches - was.batches,
        fallbacks: is.fallbacks() - was.fallbacks(),
        helped: is.helped - was.helped,
        yields: is.yields - was.yields,
        fresh_blocks: is.from_fresh - was.from_fresh,
        verified: failures.is_empty(),
    };
    (figures, failures)
}

/// One thread's part.
fn work<M: Mode>(mode: &M, domain: &Domain, args: &ScaleArgs, begin: &Barrier, clock: u64) -> Shift {
    let mut retire_ns = nanoseconds();
    let (mut turn, mut until_sample) = (0, SAMPLED);
    begin.wait();
    let start = Instant::now();
    for _ in 0..args.loops {
        for _ in 0..args.allocs {
            let object = mode.allocate(turn);
            turn += 1;
            until_sample -= 1;
            if until_sample > 0 {
                mode.retire(domain, object);
                continue;
            }
            until_sample = SAMPLED;
            let start = Instant::now();
            mode.retire(domain, object);
            retire_ns.saturating_record(since(start).saturating_sub(clock));
        }
    }
    Shift { start, end: Instant::now(), retire_ns }
}

/// What went in must have come out: by the domain's books, and by the account of the mode, which says how many are left.
pub(super) fn account(objects: u64, before: &Stats, after: &Stats, left: u64) -> Vec<String> {
    let (is, was) = (&after.kvfree, &before.kvfree);
    let mut failures = Vec::new();
    let mut claim = |right: bool, line: String| {
        if !right {
            failures.push(line);
        }
    };
    claim(left == 0, format!("{left} of {objects} objects were not freed"));
    claim(is.pending_objects == 0, format!("{} objects are pending after the barrier", is.pending_objects));
    claim(is.leaked == was.leaked, format!("{} objects were given up", is.leaked - was.leaked));
    claim(is.panics == was.panics, format!("{} destructors panicked", is.panics - was.panics));
    let freed = is.reclaimed_objects + is.inline_waits - was.reclaimed_objects - was.inline_waits;
    claim(freed == objects, format!("{objects} objects went in, {freed} came out"));
    failures
}
