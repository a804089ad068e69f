//! What waiting for a grace period costs.
//!
//! | group | |
//! | --- | --- |
//! | `synchronize` | beside 0, 1, 2 and 8 threads that read without a pause |
//! | `idle` | beside 1 and 4,096 threads that are registered and outside (qsbr: offline), and do nothing |
//! | `waiters` | 1,000 tasks wait while a reader is held inside: from its end until all are ready |
//!
//! crossbeam-epoch has no such call: there it is a deferred function, and flushing until it has run.

mod peers;

use criterion::{BenchmarkGroup, BenchmarkId, Criterion, measurement::WallTime};
use peers::crossbeam::Crossbeam;
use peers::qsbr::OurQsbr;
use peers::quietus::{Private, Quietus};
use peers::urcu::{Urcu, UrcuQsbr};
use peers::{Waits, crew, make};
use quietus::Domain;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

type Group<'c> = BenchmarkGroup<'c, WallTime>;

const WAITERS: usize = 1000;

fn synchronize<P: Waits>(group: &mut Group<'_>, readers: usize) {
    let Some(peer) = make::<P>() else { return };
    let slot = peer.slot([1; 8]);
    group.bench_function(BenchmarkId::new(P::NAME, readers), |bencher| {
        crew::beside_readers(&peer, &slot, readers, || {
            let mut local = peer.local();
            bencher.iter(|| peer.synchronize(&mut local));
        });
    });
}

/// `visit` registers a thread with the contender and runs what it is given outside.
fn idle<P: Waits>(group: &mut Group<'_>, threads: usize, visit: impl Fn(&P, &dyn Fn()) + Sync) {
    let Some(peer) = make::<P>() else { return };
    group.bench_function(BenchmarkId::new(P::NAME, threads), |bencher| {
        crew::beside_idle(
            threads,
            |wait| visit(&peer, wait),
            || {
                let mut local = peer.local();
                bencher.iter(|| peer.synchronize(&mut local));
            },
        );
    });
}

/// A section, so that the thread has a slot; then outside.
fn visit<P: Waits>(peer: &P, wait: &dyn Fn()) {
    let slot = peer.slot([1; 8]);
    let mut local = peer.local();
    peer.read(&mut local, &slot);
    wait();
}

fn waiters(group: &mut Group<'_>) {
    let domain = Domain::builder().workers(false).build();
    let mut most = 0;
    group.bench_function(BenchmarkId::new("quietus, private domain", WAITERS), |bencher| {
        bencher.iter_custom(|n| {
            let mut time = Duration::ZERO;
            for _ in 0..n {
                let guard = domain.pin();
                let mut context = Context::from_waker(Waker::noop());
                let mut tasks: Vec<_> = (0..WAITERS).map(|_| domain.cookie().into_future()).collect();
                let mut all =
                    |ready: bool| tasks.iter_mut().all(|task| Pin::new(task).poll(&mut context).is_ready() == ready);
                assert!(all(false));
                let before = domain.stats().grace_periods;
                drop(guard);
                let start = Instant::now();
                domain.tick();
                assert!(all(true));
                time += start.elapsed();
                most = most.max(domain.stats().grace_periods - before);
            }
            time
        });
    });
    println!("waiters: {most} grace periods at most after the reader's end");
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let mut group = criterion.benchmark_group("synchronize");
    for readers in [0, 1, 2, 8] {
        synchronize::<Quietus>(&mut group, readers);
        synchronize::<Private>(&mut group, readers);
        synchronize::<Crossbeam>(&mut group, readers);
        synchronize::<Urcu>(&mut group, readers);
        synchronize::<OurQsbr>(&mut group, readers);
        synchronize::<UrcuQsbr>(&mut group, readers);
    }
    group.finish();
    let mut group = criterion.benchmark_group("idle");
    for threads in [1, 4096] {
        idle::<Private>(&mut group, threads, visit);
        idle::<Urcu>(&mut group, threads, visit);
        idle::<OurQsbr>(&mut group, threads, |peer, wait| peers::Readers::local(peer).offline(wait));
    }
    group.finish();
    let mut group = criterion.benchmark_group("waiters");
    waiters(&mut group);
    group.finish();
    criterion.final_summary();
}
