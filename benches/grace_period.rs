//! What waiting for a grace period costs: `synchronize`, with nobody reading and beside one thread that reads without a
//! pause.
//!
//! crossbeam-epoch has no such call: there it is a deferred function, and flushing until it has run.

mod peers;

use criterion::{BenchmarkGroup, BenchmarkId, Criterion, measurement::WallTime};
use peers::crossbeam::Crossbeam;
use peers::quietus::{Private, Quietus};
use peers::urcu::Urcu;
use peers::{Waits, crew, make};
use std::time::Duration;

fn synchronize<P: Waits>(group: &mut BenchmarkGroup<'_, WallTime>, readers: usize) {
    let Some(peer) = make::<P>() else { return };
    let slot = peer.slot([1; 8]);
    group.bench_function(BenchmarkId::new(P::NAME, readers), |bencher| {
        crew::beside_readers(&peer, &slot, readers, || {
            let mut local = peer.local();
            bencher.iter(|| peer.synchronize(&mut local));
        });
    });
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let mut group = criterion.benchmark_group("synchronize");
    for readers in [0, 1] {
        synchronize::<Quietus>(&mut group, readers);
        synchronize::<Private>(&mut group, readers);
        synchronize::<Crossbeam>(&mut group, readers);
        synchronize::<Urcu>(&mut group, readers);
    }
    group.finish();
    criterion.final_summary();
}
