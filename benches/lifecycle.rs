//! What an object's whole life costs: guard, 64 bytes allocated and written, (published,) retired, and freed in the end.
//!
//! `cycle`: never published, one thread. `replace`: published in one of 1,024 shared slots, the node that was there
//! retired; 1, 2 and 8 threads. Both end when everything is free. The peers are on mimalloc; `plain` frees at once, which
//! no reader would survive.
//!
//! Afterwards, peak memory: one process for each figure (`cargo bench --bench lifecycle -- rss` for that alone).

mod peers;

use criterion::{BenchmarkGroup, BenchmarkId, Criterion, measurement::WallTime};
use peers::crossbeam::Crossbeam;
use peers::floor::{Locked, Plain};
use peers::haphazard::Haphazard;
use peers::quietus::{Cell, Kmalloc, Private, Quietus};
use peers::sdd::Sdd;
use peers::seize::Seize;
use peers::{Cycles, Reclaims, crew, make, rss, slots};
use std::time::Duration;

fn cycle<P: Cycles>(group: &mut BenchmarkGroup<'_, WallTime>) {
    let Some(peer) = make::<P>() else { return };
    let mut local = peer.local();
    group.bench_function(P::NAME, |bencher| bencher.iter_custom(|n| crew::cycles(&peer, &mut local, n)));
}

fn replace<P: Reclaims>(group: &mut BenchmarkGroup<'_, WallTime>, threads: usize) {
    let Some(peer) = make::<P>() else { return };
    let slots = slots(&peer);
    group.bench_function(BenchmarkId::new(P::NAME, threads), |bencher| {
        bencher.iter_custom(|n| {
            let each = n.div_ceil(threads as u64);
            let time = crew::replaces(&peer, &slots, threads, each);
            crew::scale(time, n, each * threads as u64)
        });
    });
}

/// Whether the table of peak memory is asked for: by name, or by not asking for anything else.
fn wants_rss() -> bool {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |what: &str| args.iter().any(|arg| arg == what);
    let filtered = args.iter().any(|arg| !arg.starts_with("--"));
    has("--bench") && !has("--test") && !has("--list") && (has("rss") || !filtered)
}

fn main() {
    if rss::is_child() {
        return;
    }
    let mut criterion = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();

    let mut group = criterion.benchmark_group("cycle");
    cycle::<Plain>(&mut group);
    cycle::<Quietus>(&mut group);
    cycle::<Kmalloc>(&mut group);
    cycle::<Private>(&mut group);
    cycle::<Crossbeam>(&mut group);
    cycle::<Seize>(&mut group);
    cycle::<Sdd>(&mut group);
    cycle::<Haphazard>(&mut group);
    group.finish();

    let mut group = criterion.benchmark_group("replace");
    for threads in [1, 2, 8] {
        replace::<Plain>(&mut group, threads);
        replace::<Quietus>(&mut group, threads);
        replace::<Kmalloc>(&mut group, threads);
        replace::<Cell>(&mut group, threads);
        replace::<Private>(&mut group, threads);
        replace::<Crossbeam>(&mut group, threads);
        replace::<Seize>(&mut group, threads);
        replace::<Sdd>(&mut group, threads);
        replace::<Haphazard>(&mut group, threads);
        replace::<Locked>(&mut group, threads);
    }
    group.finish();
    criterion.final_summary();

    if wants_rss() {
        rss::table();
    }
}
