//! What can be seen: lanes, ages, the histogram; and with the features of these names, `serde` and `tracing`.

use crate::support::Sleeper;
use quietus::Domain;
use quietus::kvfree::LaneName;
use quietus::slab::{Cache, SlabBox};
use std::time::Duration;

/// A domain without a worker, with something pending in several lanes.
fn with_pending<R>(look: impl FnOnce(&Domain) -> R) -> R {
    let (domain, cache) = (Domain::builder().workers(false).build(), Cache::<[u64; 512]>::new("seen"));
    std::thread::scope(|scope| {
        let sleeper = Sleeper::new(scope, &domain);
        // SAFETY: fresh, known to nobody else.
        unsafe {
            (0..3).for_each(|_| domain.retire(SlabBox::into_raw(cache.alloc([1; 512]))));
            domain.retire(SlabBox::into_raw(SlabBox::new(5u64)));
        }
        domain.defer(|| ());
        domain.flush();
        domain.defer(|| ());
        let answer = look(&domain);
        drop(sleeper);
        domain.barrier();
        answer
    })
}

#[test]
fn r_8_lanes_add_up() {
    with_pending(|domain| {
        let lanes = domain.lanes();
        let objects = |name: fn(LaneName) -> bool| -> u64 {
            lanes.iter().filter(|lane| name(lane.lane)).map(|lane| lane.pending_objects).sum()
        };
        assert_eq!(objects(|name| name == LaneName::Calls), 2, "{lanes:?}");
        assert_eq!(objects(|name| name == LaneName::Mixed), 1, "{lanes:?}");
        assert_eq!(objects(|name| matches!(name, LaneName::Cache(_))), 3, "{lanes:?}");
        let (stats, bytes) = (domain.stats().kvfree, lanes.iter().map(|lane| lane.pending_bytes).sum::<u64>());
        assert_eq!((stats.pending_objects, stats.pending_bytes), (6, bytes));
    });
    let domain = Domain::new();
    assert!(domain.lanes().is_empty());
}

#[test]
fn r_8_the_oldest_batch_has_its_age() {
    with_pending(|domain| {
        let young = domain.stats().kvfree.oldest.expect("something is queued");
        std::thread::sleep(Duration::from_millis(30));
        // Others come, more than are noted one by one.
        for _ in 0..200 {
            domain.defer(|| ());
            domain.flush();
        }
        let old = domain.stats().kvfree.oldest.expect("something is queued");
        assert!(old >= young + Duration::from_millis(30), "{young:?}, then {old:?}");
    });
    let domain = Domain::builder().workers(false).build();
    assert_eq!(domain.stats().kvfree.oldest, None);
    // What was waited for before does not make what comes later older.
    let guard = domain.pin();
    for _ in 0..2 {
        domain.defer(|| ());
        domain.flush();
        std::thread::sleep(Duration::from_millis(150));
    }
    domain.defer(|| ());
    domain.flush();
    drop(guard);
    domain.barrier();
    assert_eq!(domain.stats().kvfree.oldest, None);
    let before = std::time::Instant::now();
    let guard = domain.pin();
    domain.defer(|| ());
    domain.flush();
    let age = domain.stats().kvfree.oldest.expect("queued");
    // A tick of the clock by which batches are noted.
    assert!(age <= before.elapsed() + Duration::from_millis(10), "{age:?}");
    drop(guard);
}

#[test]
fn r_8_the_histogram_counts_grace_periods_that_wait() {
    let domain = Domain::builder().workers(false).build();
    // Those with nobody to wait for are over at once, and not timed.
    for _ in 0..50 {
        domain.synchronize();
    }
    assert!(domain.stats().grace_period_latency.iter().all(|bucket| bucket.count == 0));
    let before = domain.stats().grace_periods;
    for _ in 0..50 {
        let guard = domain.pin();
        domain.defer(|| ());
        domain.flush();
        domain.tick(); // begins a grace period that waits for the guard
        drop(guard);
        domain.barrier();
    }
    let stats = domain.stats();
    let latency = &stats.grace_period_latency;
    let timed = latency.iter().map(|bucket| bucket.count).sum::<u64>();
    assert!((50..=stats.grace_periods - before).contains(&timed), "{timed} of {}", stats.grace_periods - before);
    assert!(latency.windows(2).all(|pair| pair[0].at_most < pair[1].at_most), "{latency:?}");
    assert_eq!(
        latency.last().map(|bucket| bucket.at_most).max(stats.grace_period_p99),
        latency.last().map(|b| b.at_most)
    );
    assert!(stats.membarriers <= stats.grace_periods);
}

#[cfg(feature = "serde")]
#[test]
fn r_8_everything_that_reports_serialises() {
    with_pending(|domain| {
        let stats = serde_json::to_value(domain.stats()).unwrap();
        assert_eq!(stats["kvfree"]["pending_objects"], 6);
        assert!(stats["grace_period_latency"].is_array() && stats["reader_slots"].is_number());
        let lanes = serde_json::to_value(domain.lanes()).unwrap();
        assert!(lanes.as_array().unwrap().iter().any(|lane| lane["lane"] == "Calls" && lane["pending_objects"] == 2));
        let holdouts = serde_json::to_value(domain.cookie().holdouts()).unwrap();
        assert_eq!(holdouts[0]["name"], "sleeper");
        assert!(serde_json::to_value(domain.reclaimable()).unwrap()["pending_bytes"].is_number());
    });
    let (send, stalls) = std::sync::mpsc::channel();
    let hook = move |stall: &quietus::Stall| _ = send.send(serde_json::to_value(stall).unwrap());
    let domain = Domain::builder().stall_after(Duration::from_millis(1)).on_stall(hook).build();
    let guard = domain.pin();
    domain.defer(|| ());
    assert_eq!(stalls.recv().unwrap()["over"], false);
    drop(guard);
}

#[cfg(feature = "tracing")]
mod tracing_events {
    use crate::support::{in_child, until};
    use quietus::Domain;
    use std::fmt::Debug;
    use std::sync::Mutex;
    use std::time::Duration;
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

    struct Notes;

    impl Visit for Notes {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            if field.name() == "message" {
                SEEN.lock().unwrap().push(format!("{value:?}"));
            }
        }
    }

    impl Subscriber for Notes {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "quietus"
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            event.record(&mut Notes);
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    fn seen(what: &str) -> bool {
        SEEN.lock().unwrap().iter().any(|event| event == what)
    }

    #[test]
    fn r_5_slow_paths_are_traced() {
        in_child("seen::tracing_events::r_5_slow_paths_are_traced", || {
            tracing::subscriber::set_global_default(Notes).unwrap();
            let domain = Domain::builder().stall_after(Duration::from_millis(1)).on_stall(|_| ()).build();
            until("worker started", || seen("worker started"));
            let guard = domain.pin();
            domain.defer(|| ());
            until("stall", || seen("stall"));
            drop(guard);
            until("stall over", || seen("stall over"));
            assert!(!seen("barrier"));
            domain.barrier();
            assert!(seen("barrier"));
            until("window without a block", || seen("window without a block"));
            drop(domain);
            assert!(seen("worker stopped"));
            assert!(!seen("leak"));
        });
    }
}
