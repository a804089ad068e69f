//! One run of the index, in a process of its own: build it, let readers and writers at it, stop, drain, compare.
//!
//! The process is this program again with a hidden command; it is told what to do on standard input ([`Spec`]) and
//! answers with one line of JSON on standard output ([`Outcome`]). One reclaimer per process makes the peak of resident
//! memory that reclaimer's own. `writer`, `reader` and `probe` are its threads; `resident` reads the memory;
//! `verdict` is what they say when something is wrong.

mod probe;
mod reader;
pub(crate) mod resident;
pub(crate) mod spec;
pub(crate) mod verdict;
mod writer;

use std::io;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::index::query::Stirred;
use crate::index::{Map, Work};
use crate::reclaimer::crossbeam::Crossbeam;
use crate::reclaimer::leak::Leak;
use crate::reclaimer::quietus::Quietus;
use crate::reclaimer::sdd::Sdd;
use crate::reclaimer::seize::Seize;
use crate::reclaimer::{Kind, Reclaimer, Retired, Setup};
use crate::text::Vocabulary;
use spec::{GracePeriods, Outcome, Retire, Spec};
use verdict::Verdict;

/// What the threads of a run share.
pub(crate) struct Stage<'v, R: Reclaimer> {
    vocabulary: &'v Vocabulary,
    map: Map<'v, R>,
    stirred: Stirred,
    /// Finish the pass you are in.
    last_pass: AtomicBool,
    /// Finish the file you are at.
    halt: AtomicBool,
    /// The writers have ended.
    over: AtomicBool,
    /// All threads are ready.
    start: Barrier,
    verify: bool,
    verdict: Verdict<'v>,
}

impl<R: Reclaimer> Stage<'_, R> {
    /// Waits for all threads, then for the word to begin.
    fn ready(&self) {
        self.start.wait();
        self.start.wait();
    }

    fn is_over(&self) -> bool {
        // Relaxed: it only says to stop; joining the threads orders what they did.
        self.over.load(Ordering::Relaxed)
    }
}

/// The hidden command: reads the spec, runs, prints the outcome.
pub(crate) fn child() -> Result<(), String> {
    let spec: Spec =
        serde_json::from_reader(io::stdin().lock()).map_err(|error| format!("no spec on standard input: {error}"))?;
    let outcome = match spec.reclaimer {
        Kind::Quietus => run::<Quietus>(&spec),
        Kind::Crossbeam => run::<Crossbeam>(&spec),
        Kind::Seize => run::<Seize>(&spec),
        Kind::Sdd => run::<Sdd>(&spec),
        Kind::Leak => run::<Leak>(&spec),
    };
    outcome.print();
    Ok(())
}

fn run<R: Reclaimer>(spec: &Spec) -> Outcome {
    let vocabulary = &Vocabulary::read(&spec.files);
    if vocabulary.files() == 0 {
        return Outcome::violated("none of the files can be read any more".into());
    }
    let verdict = Verdict::new(spec.reclaimer, vocabulary);
    let reclaimer = R::new(Setup { verify: spec.verify });
    let writers = spec.writers.min(vocabulary.files() as usize);
    let mut stage = Stage {
        vocabulary,
        map: Map::build(vocabulary, reclaimer),
        stirred: Stirred::new(vocabulary.files()),
        last_pass: AtomicBool::new(false),
        halt: AtomicBool::new(false),
        over: AtomicBool::new(false),
        start: Barrier::new(spec.readers + writers + 1),
        verify: spec.verify,
        verdict,
    };
    let crowd = perform(&stage, spec, writers);

    let drain = Instant::now();
    stage.map.reclaimer().barrier();
    let drain = drain.elapsed();
    let peak_rss = resident::peak();
    let account = stage.map.reclaimer().account(crowd.work.retired);
    if let Err(fault) = stage.map.audit() {
        stage.verdict.guilty(&fault);
    }
    if account.left > 0 && R::CEILING_BYTES.is_none() {
        stage.verdict.say(&format!("{} objects are left unreclaimed after the barrier", account.left));
    }

    let of = |histogram: &hdrhistogram::Histogram<u64>, quantile| histogram.value_at_quantile(quantile);
    Outcome {
        violation: None,
        words: vocabulary.words(),
        entries: vocabulary.entries() as u64,
        queries: crowd.queries,
        updates: crowd.work.updates,
        queries_per_s: crowd.queries_per_s,
        updates_per_s: crowd.updates_per_s,
        retire_ns: Retire {
            p50: of(&crowd.work.retire_ns, 0.5),
            p99: of(&crowd.work.retire_ns, 0.99),
            p999: of(&crowd.work.retire_ns, 0.999),
        },
        grace_period_ns: GracePeriods {
            p50: crowd.grace_ns.as_ref().map(|histogram| of(histogram, 0.5)),
            p99: crowd.grace_ns.as_ref().map(|histogram| of(histogram, 0.99)),
        },
        peak_unreclaimed_bytes: account.peak_bytes.unwrap_or_else(|| peak_rss.saturating_sub(crowd.baseline)),
        peak_rss_bytes: peak_rss,
        drain_ms: R::CEILING_BYTES.is_none().then_some(drain.as_secs_f64() * 1e3),
        left_unreclaimed: account.left,
    }
}

/// What all threads together did.
struct Crowd {
    /// Memory resident before it began.
    baseline: u64,
    work: Work,
    updates_per_s: f64,
    queries: u64,
    queries_per_s: f64,
    grace_ns: Option<hdrhistogram::Histogram<u64>>,
}

/// Starts the threads, lets them run for the time, and ends them: first the writers, then the rest.
fn perform<R: Reclaimer>(stage: &Stage<'_, R>, spec: &Spec, writers: usize) -> Crowd {
    let time = Duration::from_secs_f64(spec.seconds);
    thread::scope(|scope| {
        // Joined one by one and not by the scope's end: only a joined thread has also run the destructors of its
        // thread-locals, and by those a collector learns of its garbage.
        let writing: Vec<_> = (0..writers).map(|n| scope.spawn(move || writer::write(stage, n, writers))).collect();
        let reading: Vec<_> = (0..spec.readers).map(|n| scope.spawn(move || reader::read(stage, n))).collect();
        // Once for everybody to be there, once to begin: what is resident in between is the baseline.
        stage.start.wait();
        let baseline = resident::restart_peak();
        stage.start.wait();
        let probing = scope.spawn(move || probe::probe(stage));

        sleep_until(Instant::now() + time, || writing.iter().any(|writer| writer.is_finished()));
        // Relaxed, as with `over`.
        stage.last_pass.store(true, Ordering::Relaxed);
        // A pass is short beside a run. Where it is not, as with a hundred threads on two processors, end it all the same.
        sleep_until(Instant::now() + time.max(Duration::from_secs(2)), || {
            writing.iter().all(|writer| writer.is_finished())
        });
        // Relaxed: a flag to stop by; the threads are joined afterwards.
        stage.halt.store(true, Ordering::Relaxed);

        let work = Work::new();
        let mut crowd = Crowd { baseline, work, updates_per_s: 0.0, queries: 0, queries_per_s: 0.0, grace_ns: None };
        for writer in writing {
            let (work, seconds) = writer.join().unwrap_or_else(|_| stage.verdict.say("a writer panicked"));
            crowd.updates_per_s += work.updates as f64 / seconds;
            crowd.work.updates += work.updates;
            let Retired { objects, bytes } = work.retired;
            crowd.work.retired.objects += objects;
            crowd.work.retired.bytes += bytes;
            crowd.work.retire_ns.add(work.retire_ns).expect("histograms of the same bounds");
        }
        // Relaxed: a flag to stop by; the threads are joined afterwards.
        stage.over.store(true, Ordering::Relaxed);
        for reader in reading {
            let (queries, seconds) = reader.join().unwrap_or_else(|_| stage.verdict.say("a reader panicked"));
            crowd.queries += queries;
            crowd.queries_per_s += queries as f64 / seconds;
        }
        crowd.grace_ns = probing.join().unwrap_or_else(|_| stage.verdict.say("the probe panicked"));
        crowd
    })
}

/// Sleeps to the deadline, or until there is nothing to wait for.
fn sleep_until(deadline: Instant, done: impl Fn() -> bool) {
    while !done() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(Duration::from_millis(20)));
    }
}
