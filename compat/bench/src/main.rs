//! One run of crossbeam-skiplist under a mix of reads and writes: `skiplist-bench WORKLOAD THREADS SECONDS KEYS`, which prints operations a
//! second of wall time, nanoseconds of processor time an operation, and the peak resident set in KiB.
//!
//! `bench.sh` builds it twice, over quietus's crossbeam-epoch and over the one on crates.io, and runs the two in turn.

use crossbeam_skiplist::SkipMap;
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a map holds.
trait Value: Send + Sync + 'static {
    fn of(key: u64) -> Self;
    fn look(&self) -> u64;
}

impl Value for u64 {
    fn of(key: u64) -> u64 {
        key
    }
    fn look(&self) -> u64 {
        *self
    }
}

/// A kilobyte of its own.
impl Value for Box<[u8]> {
    fn of(key: u64) -> Box<[u8]> {
        vec![key as u8; 1024].into()
    }
    fn look(&self) -> u64 {
        u64::from(self[self.len() / 2])
    }
}

struct Run {
    /// So many in a hundred operations are lookups; the others insert and remove by turns.
    reads: u64,
    threads: usize,
    time: Duration,
    keys: u64,
}

impl Run {
    /// The run, and whether its values are large.
    fn parse(args: &[String]) -> Option<(Run, bool)> {
        let [workload, threads, seconds, keys] = args else { return None };
        let reads = match workload.as_str() {
            "read" => 95,
            "mixed" => 50,
            "churn" | "large" => 0,
            _ => return None,
        };
        let time = Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?;
        let run = Run { reads, threads: threads.parse().ok()?, time, keys: keys.parse().ok().filter(|&k| k > 0)? };
        Some((run, workload == "large"))
    }
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }
}

fn work<V: Value>(map: &SkipMap<u64, V>, run: &Run, seed: u64, stop: &AtomicBool) -> u64 {
    let mut random = Random(seed);
    let mut operations = 0;
    // Relaxed: a flag, nothing follows from it.
    while !stop.load(Relaxed) {
        for _ in 0..64 {
            let (key, dice) = (random.next() % run.keys, random.next());
            if dice % 100 < run.reads {
                black_box(map.get(&key).map(|entry| entry.value().look()));
            } else if dice >> 20 & 1 == 0 {
                map.insert(key, V::of(key));
            } else {
                map.remove(&key);
            }
        }
        operations += 64;
    }
    operations
}

/// The peak resident set in KiB, and the processor time used so far.
fn usage() -> (i64, Duration) {
    // SAFETY: a rusage is plain numbers, and the call fills it in.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let time = |t: libc::timeval| Duration::from_secs(t.tv_sec as u64) + Duration::from_micros(t.tv_usec as u64);
    (usage.ru_maxrss, time(usage.ru_utime) + time(usage.ru_stime))
}

fn measure<V: Value>(run: &Run) {
    let map = SkipMap::<u64, V>::new();
    // Half of the keys are there.
    (0..run.keys).step_by(2).for_each(|key| drop(map.insert(key, V::of(key))));
    let (stop, start) = (AtomicBool::new(false), Barrier::new(run.threads + 1));
    let (operations, elapsed, cpu) = thread::scope(|s| {
        let workers: Vec<_> = (0..run.threads as u64)
            .map(|i| {
                let (map, stop, start) = (&map, &stop, &start);
                s.spawn(move || {
                    start.wait();
                    work(map, run, 0x9E37_79B9_7F4A_7C15 ^ i << 32, stop)
                })
            })
            .collect();
        start.wait();
        let (began, (_, before)) = (Instant::now(), usage());
        thread::sleep(run.time);
        // Relaxed: as above.
        stop.store(true, Relaxed);
        let operations: u64 = workers.into_iter().map(|w| w.join().expect("a worker")).sum();
        (operations as f64, began.elapsed().as_secs_f64(), (usage().1 - before).as_secs_f64())
    });
    println!("{:.0} {:.1} {}", operations / elapsed, cpu / operations * 1e9, usage().0);
}

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((run, large)) = Run::parse(&args) else {
        eprintln!("usage: skiplist-bench read|mixed|churn|large THREADS SECONDS KEYS");
        return std::process::ExitCode::from(2);
    };
    if large {
        measure::<Box<[u8]>>(&run)
    } else {
        measure::<u64>(&run)
    }
    std::process::ExitCode::SUCCESS
}
