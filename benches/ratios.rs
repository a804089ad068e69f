//! The project's promises, as ratios that hold on a noisy machine: ours and the peer take turns in slices of a
//! millisecond, each round gives one ratio, and the median of the rounds is held against the target.
//!
//! `cargo bench --bench ratios -- [--only 1,2] [--rounds N] [--slice-ms N] [--json FILE] [--strict]`. With `--strict` a
//! missed target is an error.

mod peers;

use peers::allocators::{Mimalloc, Nodes, Typed, pairs};
use peers::crossbeam::Crossbeam;
use peers::quietus::Quietus;
use peers::urcu::Urcu;
use peers::{Cycles, Readers, Reclaims, Waits, boxes, crew, rss, slots};
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const THREADS: usize = 8;
/// Slices of each side in a round: the median of them counts, so that a preempted one does not.
const TURNS: usize = 5;
/// Grace periods waited for in a slice: enough for several of the scheduler's slices.
const WAITS: usize = 2048;

/// What was asked for.
struct Options {
    only: Vec<String>,
    rounds: usize,
    slice: Duration,
    json: Option<String>,
    strict: bool,
}

/// An answer: times (or sizes).
struct Answer {
    id: &'static str,
    question: &'static str,
    unit: &'static str,
    target: f64,
    outcome: Result<Rounds, String>,
}

/// One pair for each round: ours, the peer's.
type Rounds = Vec<(f64, f64)>;

/// A slice: does this many operations and says how long one took.
type Slice<'a> = Box<dyn FnMut(u64) -> Duration + 'a>;

/// Finds how many operations fill a slice, and warms up doing it. The fastest of three: a preemption is no work.
fn calibrate(slice: &mut Slice<'_>, length: Duration) -> u64 {
    let mut n = 64;
    loop {
        let took = slice(n).min(slice(n)).min(slice(n));
        if took * 2 >= length {
            let scaled = n as f64 * length.as_secs_f64() / took.as_secs_f64().max(1e-9);
            return (scaled as u64).max(1);
        }
        n *= 2;
    }
}

/// Rounds of `turns` slices each; who goes first changes from slice to slice.
fn take_turns(rounds: usize, turns: usize, mut ours: impl FnMut() -> f64, mut peer: impl FnMut() -> f64) -> Rounds {
    let round = |round: usize| {
        let (mut a, mut b) = (Vec::with_capacity(turns), Vec::with_capacity(turns));
        for turn in 0..turns {
            if (round + turn).is_multiple_of(2) {
                a.push(ours());
                b.push(peer());
            } else {
                b.push(peer());
                a.push(ours());
            }
        }
        (quantile(&mut a, 0.5), quantile(&mut b, 0.5))
    };
    (0..rounds).map(round).collect()
}

/// Rounds of slices of this length.
fn in_turns(options: &Options, length: Duration, turns: usize, ours: Slice<'_>, peer: Slice<'_>) -> Rounds {
    take_turns(options.rounds, turns, timed(ours, length), timed(peer, length))
}

/// A slice of calibrated length as nanoseconds for one operation.
fn timed<'a>(mut slice: Slice<'a>, length: Duration) -> impl FnMut() -> f64 + 'a {
    let n = calibrate(&mut slice, length);
    move || slice(n).as_nanos() as f64 / n as f64
}

fn read_side(options: &Options) -> Result<Rounds, String> {
    fn slice<P: Readers>(peer: &P) -> Slice<'_> {
        let (slot, mut local) = (peer.slot([1; 8]), peer.local());
        Box::new(move |n| crew::reads(peer, &mut local, &slot, n))
    }
    let (ours, peer) = (Quietus::new()?, Crossbeam::new()?);
    Ok(in_turns(options, options.slice, TURNS, slice(&ours), slice(&peer)))
}

/// Each slice ends with a barrier: longer ones, so that it weighs as little as it does in a program.
fn cycle(options: &Options) -> Result<Rounds, String> {
    fn slice<P: Cycles>(peer: &P) -> Slice<'_> {
        let mut local = peer.local();
        Box::new(move |n| crew::cycles(peer, &mut local, n))
    }
    let (ours, peer) = (Quietus::new()?, Crossbeam::new()?);
    Ok(in_turns(options, options.slice * 4, TURNS, slice(&ours), slice(&peer)))
}

/// Longer slices than the others: several of the scheduler's, so that threads are preempted inside sections as they are
/// in real life.
fn replace(options: &Options) -> Result<Rounds, String> {
    fn slice<P: Reclaims>(peer: &P) -> Slice<'_> {
        let slots = slots(peer);
        Box::new(move |n| {
            let each = n.div_ceil(THREADS as u64);
            crew::scale(crew::replaces(peer, &slots, THREADS, each), n, each * THREADS as u64)
        })
    }
    let (ours, peer) = (Quietus::new()?, Crossbeam::new()?);
    Ok(in_turns(options, options.slice * 60, 1, slice(&ours), slice(&peer)))
}

/// MiB instead of times; some rounds only, as each is two processes.
fn memory(options: &Options) -> Result<Rounds, String> {
    let peak = |key: &str| {
        let run = rss::measure(key, THREADS, rss::OPS).filter(|run| run.peak > 0);
        run.map(|run| run.peak as f64 / 1024.0).ok_or_else(|| format!("no peak memory for {key}"))
    };
    (0..options.rounds.div_ceil(8)).map(|_| Ok((peak("quietus")?, peak("crossbeam-epoch")?))).collect()
}

fn pair(options: &Options) -> Result<Rounds, String> {
    fn slice<A: Nodes + 'static>() -> Slice<'static> {
        let allocator = A::new();
        Box::new(move |n| pairs(&allocator, n))
    }
    Ok(in_turns(options, options.slice, TURNS, slice::<Typed>(), slice::<Mimalloc>()))
}

/// Medians of slices: what a preempted reader adds now and then belongs to another question.
fn synchronize(options: &Options) -> Result<Rounds, String> {
    fn median_of_slice<P: Waits>(peer: &P, slot: &P::Slot) -> f64 {
        let mut times = crew::beside_readers(peer, slot, 1, || {
            let mut local = peer.local();
            let wait = |_| {
                let start = Instant::now();
                peer.synchronize(&mut local);
                start.elapsed().as_nanos() as f64
            };
            (0..WAITS).map(wait).collect::<Vec<f64>>()
        });
        quantile(&mut times, 0.5)
    }
    let ours = Quietus::new()?;
    let peer = Urcu::new()?;
    let slots = (ours.slot([1; 8]), peer.slot([1; 8]));
    let ours_p50 = || median_of_slice(&ours, &slots.0);
    Ok(take_turns(options.rounds, 1, ours_p50, || median_of_slice(&peer, &slots.1)))
}

fn mixed(options: &Options) -> Result<Rounds, String> {
    let (ours, peer) = (boxes::mixed_deferred(), boxes::mixed_immediate());
    Ok(in_turns(options, options.slice * 4, TURNS, Box::new(ours), Box::new(peer)))
}

/// Ours beside another's boxes; the slices end with a barrier.
fn boxes_beside(options: &Options, ours: impl boxes::Ends, peer: impl boxes::Ends) -> Result<Rounds, String> {
    let slices = (|n| boxes::boxes(&ours, n), |n| boxes::boxes(&peer, n));
    Ok(in_turns(options, options.slice * 4, TURNS, Box::new(slices.0), Box::new(slices.1)))
}

/// Retiring needs no section, and neither does dropping at once.
fn boxes_outside(options: &Options, ours: impl boxes::Ends) -> Result<Rounds, String> {
    let slices = (|n| boxes::boxes_outside(&ours, n), |n| boxes::boxes_outside(&boxes::Plain, n));
    Ok(in_turns(options, options.slice * 4, TURNS, Box::new(slices.0), Box::new(slices.1)))
}

fn boxes_crossbeam(options: &Options) -> Result<Rounds, String> {
    boxes_beside(options, boxes::Global, boxes::Crossbeam)
}

fn boxes_plain(options: &Options) -> Result<Rounds, String> {
    boxes_outside(options, boxes::Global)
}

fn boxes_worker_crossbeam(options: &Options) -> Result<Rounds, String> {
    boxes_beside(options, boxes::Quietus::new(), boxes::Crossbeam)
}

fn boxes_worker_plain(options: &Options) -> Result<Rounds, String> {
    boxes_outside(options, boxes::Quietus::new())
}

fn batched(options: &Options) -> Result<Rounds, String> {
    let (ours, peer) = (boxes::Objects::new(true), boxes::Objects::new(false));
    let slices = (|n| boxes::crowd(&ours, 2, n), |n| boxes::crowd(&peer, 2, n));
    Ok(in_turns(options, options.slice * 20, 1, Box::new(slices.0), Box::new(slices.1)))
}

/// Sorts.
fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len().saturating_sub(1) as f64 * q).round() as usize;
    values.get(at).copied().unwrap_or(f64::NAN)
}

/// What is printed of the rounds.
struct Summary {
    ours: f64,
    peer: f64,
    ratio: f64,
    p10: f64,
    p90: f64,
    rounds: usize,
}

impl Summary {
    fn of(rounds: &[(f64, f64)]) -> Summary {
        let median = |f: fn(&(f64, f64)) -> f64| quantile(&mut rounds.iter().map(f).collect::<Vec<_>>(), 0.5);
        let mut ratios: Vec<f64> = rounds.iter().map(|(ours, peer)| ours / peer).collect();
        Summary {
            ours: median(|round| round.0),
            peer: median(|round| round.1),
            ratio: quantile(&mut ratios, 0.5),
            p10: quantile(&mut ratios, 0.1),
            p90: quantile(&mut ratios, 0.9),
            rounds: rounds.len(),
        }
    }
}

impl Answer {
    fn passes(&self) -> Option<bool> {
        self.outcome.as_ref().ok().map(|rounds| Summary::of(rounds).ratio <= self.target)
    }

    fn row(&self) -> String {
        let rounds = match &self.outcome {
            Ok(rounds) => rounds,
            Err(why) => return format!("| {} | {} | skipped: {why} |", self.id, self.question),
        };
        let s = Summary::of(rounds);
        format!(
            "| {} | {} | {:.2} {unit} | {:.2} {unit} | {:.2} | {:.2}–{:.2} | ≤ {:.2} | {} |",
            self.id,
            self.question,
            s.ours,
            s.peer,
            s.ratio,
            s.p10,
            s.p90,
            self.target,
            if self.passes() == Some(true) { "pass" } else { "MISSED" },
            unit = self.unit,
        )
    }

    fn json(&self) -> String {
        let mut out = format!("{{\"id\":\"{}\",\"question\":\"{}\",\"target\":{}", self.id, self.question, self.target);
        let wrote = match &self.outcome {
            Err(why) => write!(out, ",\"skipped\":\"{why}\"}}"),
            Ok(rounds) => {
                let (unit, pass) = (self.unit, self.passes() == Some(true));
                let Summary { ours, peer, ratio, p10, p90, rounds } = Summary::of(rounds);
                write!(
                    out,
                    ",\"unit\":\"{unit}\",\"ours\":{ours:.4},\"peer\":{peer:.4},\"ratio\":{ratio:.4},\"p10\":{p10:.4},\
                     \"p90\":{p90:.4},\"rounds\":{rounds},\"pass\":{pass}}}"
                )
            }
        };
        wrote.expect("writing to a String");
        out
    }
}

/// A question's runner.
type Ask = fn(&Options) -> Result<Rounds, String>;

/// Id, question, unit, target.
const QUESTIONS: [(&str, &str, &str, f64, Ask); 12] = [
    ("1", "guard + load + leave / crossbeam-epoch", "ns", 0.5, read_side),
    ("2", "guard + alloc 64 B + write + retire + free, 1 thread / crossbeam-epoch on mimalloc", "ns", 0.5, cycle),
    ("3", "publish and retire, 8 threads / crossbeam-epoch on mimalloc", "ns", 0.5, replace),
    ("3m", "the same, peak memory", "MiB", 0.2, memory),
    ("4", "alloc + free 64 B / mimalloc", "ns", 1.0, pair),
    ("6", "mixed sizes 16 to 2,048 B through kvfree_rcu / mimalloc's malloc and free at once", "ns", 1.5, mixed),
    ("7", "Box with a destructor, retirers help / crossbeam-epoch defer_destroy", "ns", 0.7, boxes_crossbeam),
    ("7p", "the same / dropped at once", "ns", 1.3, boxes_plain),
    ("7w", "Box with a destructor, worker only / crossbeam-epoch defer_destroy", "ns", 0.7, boxes_worker_crossbeam),
    ("7wp", "the same / dropped at once", "ns", 1.3, boxes_worker_plain),
    ("8", "retire and free 64 B, 2 threads, in blocks / each by a callback of its own", "ns", 0.3, batched),
    ("5", "synchronize beside a busy reader, p50 / liburcu memb", "ns", 1.0, synchronize),
];

/// The command line; an error says what was wrong with it.
fn options() -> Result<Options, String> {
    let mut options =
        Options { only: Vec::new(), rounds: 40, slice: Duration::from_millis(1), json: None, strict: false };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} takes a value"));
        let number =
            |text: String| text.parse::<u32>().ok().filter(|&n| n > 0).ok_or_else(|| format!("{text}: no number"));
        match arg.as_str() {
            "--bench" => {}
            "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
            "--rounds" => options.rounds = number(value()?)? as usize,
            "--slice-ms" => options.slice = Duration::from_millis(number(value()?)?.into()),
            "--json" => options.json = Some(value()?),
            "--strict" => options.strict = true,
            _ => return Err(format!("{arg}: known are --only 1,2 --rounds N --slice-ms N --json FILE --strict")),
        }
    }
    let unknown = options.only.iter().find(|id| QUESTIONS.iter().all(|question| question.0 != *id));
    match unknown {
        Some(id) => Err(format!("--only {id}: the questions are 1, 2, 3, 3m, 4, 5, 6, 7, 7p, 7w, 7wp, 8")),
        None => Ok(options),
    }
}

fn main() -> ExitCode {
    if rss::is_child() {
        return ExitCode::SUCCESS;
    }
    // `cargo test` starts benchmarks without `--bench`, or with `--test`, to see that they run.
    let has = |what: &str| std::env::args().any(|arg| arg == what);
    if !has("--bench") || has("--test") || has("--list") {
        return ExitCode::SUCCESS;
    }
    let options = match options() {
        Ok(options) => options,
        Err(complaint) => {
            eprintln!("ratios: {complaint}");
            return ExitCode::from(2);
        }
    };
    boxes::help_globally();
    println!("| | ours / peer | ours | peer | ratio, median | p10–p90 | target | |");
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |");
    let mut answers = Vec::new();
    for (id, question, unit, target, ask) in QUESTIONS {
        if !options.only.is_empty() && !options.only.iter().any(|wanted| wanted == id) {
            continue;
        }
        let answer = Answer { id, question, unit, target, outcome: ask(&options) };
        println!("{}", answer.row());
        answers.push(answer);
    }
    if let Some(file) = &options.json {
        let rows: Vec<String> = answers.iter().map(Answer::json).collect();
        if let Err(e) = std::fs::write(file, format!("[{}]\n", rows.join(",\n"))) {
            eprintln!("ratios: {file}: {e}");
            return ExitCode::from(2);
        }
    }
    let missed = answers.iter().filter(|answer| answer.passes() == Some(false)).count();
    if missed > 0 && options.strict { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
