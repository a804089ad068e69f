//! What a reader pays: guard, load, look at the node, leave. One thread; beside it nobody.

mod peers;

use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use peers::crossbeam::Crossbeam;
use peers::floor::{Locked, Plain};
use peers::haphazard::Haphazard;
use peers::quietus::{Cell, Private, Quietus};
use peers::sdd::Sdd;
use peers::seize::Seize;
use peers::urcu::Urcu;
use peers::{Readers, crew, make};
use std::time::Duration;

fn one<P: Readers>(group: &mut BenchmarkGroup<'_, WallTime>) {
    let Some(peer) = make::<P>() else { return };
    let slot = peer.slot([1; 8]);
    let mut local = peer.local();
    group.bench_function(P::NAME, |bencher| bencher.iter_custom(|n| crew::reads(&peer, &mut local, &slot, n)));
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let mut group = criterion.benchmark_group("read_side");
    one::<Plain>(&mut group);
    one::<Quietus>(&mut group);
    one::<Cell>(&mut group);
    one::<Private>(&mut group);
    one::<Crossbeam>(&mut group);
    one::<Seize>(&mut group);
    one::<Sdd>(&mut group);
    one::<Haphazard>(&mut group);
    one::<Urcu>(&mut group);
    one::<Locked>(&mut group);
    group.finish();
    criterion.final_summary();
}
