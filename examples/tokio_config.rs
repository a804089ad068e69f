//! A server's configuration, swapped while a tokio runtime serves requests. Its threads are qsbr readers by the executor's hooks: reading the
//! configuration is a load, and a thread that has nothing to do holds nothing up.
//!
//! `cargo run --release --example tokio_config`

use quietus::qsbr::{self, local};
use quietus::{Qsbr, Rcu};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Two fields that must agree; a reader that saw half of a swap, or a freed value, would find that they do not.
struct Config {
    version: u64,
    check: u64,
}

const SWAPS: u64 = 2000;

static FREED: AtomicU64 = AtomicU64::new(0);

impl Config {
    fn new(version: u64) -> Config {
        Config { version, check: !version }
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        self.check = 0;
        FREED.fetch_add(1, Relaxed);
    }
}

static CONFIG: LazyLock<Rcu<Config, Qsbr>> = LazyLock::new(|| Rcu::in_flavour(Config::new(0)));

/// One request: reads the configuration twice, with a wait between; what is read does not cross the `.await`.
async fn serve() -> u64 {
    let before = local::with(|reader| CONFIG.load(reader).version);
    tokio::task::yield_now().await;
    let after = local::with(|reader| {
        let config = CONFIG.load(reader);
        assert_eq!(config.check, !config.version, "a value that was torn, or freed");
        config.version
    });
    // Between two requests nothing is held.
    local::quiescent().expect("no closure is running");
    assert!(after >= before, "the configuration went back in time");
    after
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        // Refused while a closure of `with` runs, which a thread that parks is not in.
        .on_thread_unpark(|| _ = local::unpark())
        .on_thread_park(|| _ = local::park())
        .build()
        .expect("a runtime");
    let (served, waited) = runtime.block_on(async {
        let servers: Vec<_> = (0..8)
            .map(|_| {
                tokio::spawn(async {
                    let mut served = 0u64;
                    while serve().await < SWAPS {
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        let swapper = tokio::spawn(async {
            let mut longest = Duration::ZERO;
            for version in 1..=SWAPS {
                let old = CONFIG.replace(Config::new(version));
                if version % 100 == 0 {
                    // Waiting on no thread at all: the domain's worker wakes this task.
                    let started = Instant::now();
                    old.cookie().await;
                    longest = longest.max(started.elapsed());
                    assert!(old.try_reclaim().is_ok(), "the grace period is over");
                }
                tokio::task::yield_now().await;
            }
            longest
        });
        let mut served = 0;
        for server in servers {
            served += server.await.expect("no reader saw a freed value");
        }
        (served, swapper.await.expect("swapped"))
    });
    // All threads are parked, so nobody is inside, and the barrier ends although the runtime lives.
    qsbr::domain().barrier();
    let stats = qsbr::domain().stats();
    assert_eq!(FREED.load(Relaxed), SWAPS, "each replaced value was freed once, and the current one was not");
    println!("{served} requests served while the configuration was swapped {SWAPS} times");
    println!("every request saw a whole, living configuration, and never an older one than before");
    println!("each of the {SWAPS} replaced values was freed once; awaiting a grace period took {waited:?} at most");
    println!("{} grace periods without a membarrier ({} issued)", stats.grace_periods, stats.membarriers);
}
