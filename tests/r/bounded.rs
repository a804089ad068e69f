//! R8 and the protocols' bound: with `Wait` no more is pending than the budget, a block for each thread, and open blocks; nobody waits
//! where waiting could be for oneself; and what is too much is told by its cause.

use crate::support::{Sleeper, until};
use quietus::slab::{self, Cache, SlabBox};
use quietus::{Builder, Domain, MayNotWait, OnOverflow, pin, qsbr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

type Object = [u64; 128];
const BUDGET: usize = 256 << 10;
/// A block's objects.
const BLOCK: u64 = 32 << 10;

fn waiting() -> Builder {
    Domain::builder().budget(BUDGET).on_overflow(OnOverflow::Wait).wait_limit(Duration::from_secs(3600))
}

fn retire(domain: &Domain, cache: &Cache<Object>) {
    // SAFETY: fresh, known to nobody else.
    unsafe { domain.retire(SlabBox::into_raw(cache.alloc([7; 128]))) }
}

/// Budget, a block for each thread, and one for each place that has an open one (so many CPUs, and four slots).
fn bound(threads: u64) -> u64 {
    BUDGET as u64 + (threads + slab::topology().possible as u64 + 4) * BLOCK
}

#[test]
fn r_8_what_is_pending_stays_within_its_bound() {
    const THREADS: u64 = 4;
    let (domain, cache) = (waiting().build(), Cache::new("bounded"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (domain, cache, done) = (&domain, &cache, &done);
        let (inside, ready) = std::sync::mpsc::channel();
        scope.spawn(move || {
            let guard = domain.pin();
            inside.send(()).unwrap();
            until("somebody waits", || domain.stats().kvfree.waits > 0);
            drop(guard);
            while !done.load(SeqCst) {
                let _guard = domain.pin();
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        ready.recv().unwrap();
        let retirers: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(move || {
                    for _ in 0..2000 {
                        retire(domain, cache);
                    }
                })
            })
            .collect();
        retirers.into_iter().for_each(|retirer| retirer.join().unwrap());
        done.store(true, SeqCst);
    });
    let stats = domain.stats().kvfree;
    assert!(
        stats.peak_pending_bytes <= bound(THREADS),
        "{} above {}: {stats:?}",
        stats.peak_pending_bytes,
        bound(THREADS)
    );
    assert!(stats.waits > 0 && stats.over_budget_readers == 0, "{stats:?}");
    domain.barrier();
    assert_eq!(cache.stats().live, 0);
}

/// Without a worker, too: then the retirer drives.
#[test]
fn r_8_a_stalled_reader_holds_retirers_up() {
    for workers in [true, false] {
        let (domain, cache) = (waiting().workers(workers).build(), Cache::new("held up"));
        let retired = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let sleeper = Sleeper::new(scope, &domain);
            let retirer = scope.spawn(|| {
                for _ in 0..2000 {
                    retire(&domain, &cache);
                    retired.fetch_add(1, SeqCst);
                }
            });
            until("it waits", || domain.stats().kvfree.waits > 0);
            std::thread::sleep(Duration::from_millis(50));
            let bytes = retired.load(SeqCst) * size_of::<Object>() as u64;
            assert!(bytes <= bound(1) && bytes >= BUDGET as u64, "{bytes}: {:?}", domain.stats());
            // Others go on, in sections of their own.
            drop(domain.pin());
            drop(sleeper);
            retirer.join().unwrap();
        });
        assert!(domain.stats().kvfree.peak_pending_bytes <= bound(1), "{:?}", domain.stats());
        domain.barrier();
        assert_eq!(cache.stats().live, 0);
    }
}

#[test]
fn r_8_a_wait_ends_at_its_limit_and_says_why() {
    let (domain, cache) = (waiting().wait_limit(Duration::from_millis(1)).build(), Cache::new("limited"));
    std::thread::scope(|scope| {
        let sleeper = Sleeper::new(scope, &domain);
        (0..2000).for_each(|_| retire(&domain, &cache));
        let stats = domain.stats().kvfree;
        assert!(stats.waits > 0 && stats.over_budget_readers > 0, "{stats:?}");
        assert_eq!((stats.over_budget_inside, stats.over_budget_worker), (0, 0));
        drop(sleeper);
    });
}

/// Inside any section, of whatever domain and flavour; in a deferred function; on the worker: with a reader that ends only afterwards.
#[test]
fn r_8_nobody_waits_where_it_could_be_for_oneself() {
    let (domain, other, cache) = (waiting().build(), Domain::new(), Cache::new("inside"));
    let flood = || (0..1000).for_each(|_| retire(&domain, &cache));
    std::thread::scope(|scope| {
        let sleeper = Sleeper::new(scope, &domain);
        let own = domain.pin();
        flood();
        assert!(domain.stats().kvfree.over_budget_inside > 0, "{:?}", domain.stats());
        assert_eq!(domain.throttle(), Err(MayNotWait::InsideSection));
        drop(own);
        let others = other.pin();
        flood();
        assert_eq!(domain.throttle(), Err(MayNotWait::InsideSection));
        drop(others);
        let global = pin();
        flood();
        assert_eq!(domain.throttle(), Err(MayNotWait::InsideSection));
        drop(global);
        let reader = qsbr::reader();
        flood();
        assert_eq!(domain.throttle(), Err(MayNotWait::InsideSection));
        drop(reader);
        let qsbr = Domain::qsbr();
        let reader = qsbr.reader();
        flood();
        assert_eq!(domain.throttle(), Err(MayNotWait::InsideSection));
        drop(reader);
        assert_eq!(domain.stats().kvfree.waits, 0);
        drop(sleeper);
    });
    assert_eq!(domain.throttle(), Ok(()));
    assert!(domain.stats().kvfree.pending_bytes <= bound(1));
}

#[test]
fn r_8_deferred_functions_and_workers_do_not_wait() {
    let domain: &'static Domain = Box::leak(Box::new(waiting().build()));
    let cache: &'static Cache<Object> = Box::leak(Box::new(Cache::new("destructors")));
    let (send, answers) = std::sync::mpsc::channel();
    domain.defer(move || {
        // Nobody else reclaims what is retired here: waiting for room would never end.
        (0..1000).for_each(|_| retire(domain, cache));
        send.send(domain.throttle()).unwrap();
    });
    assert_eq!(answers.recv().unwrap(), Err(MayNotWait::InCall));
    domain.barrier();
    let (send, answers) = std::sync::mpsc::channel();
    let hook = move |_: &quietus::Stall| _ = send.send(domain.throttle());
    let stalling = Domain::builder().stall_after(Duration::from_millis(1)).on_stall(hook).build();
    std::thread::scope(|scope| {
        let sleeper = Sleeper::new(scope, &stalling);
        stalling.defer(|| ());
        assert_eq!(answers.recv().unwrap(), Err(MayNotWait::OnWorker));
        drop(sleeper);
    });
    assert_eq!(domain.stats().kvfree.waits, 0);
}

/// `throttle` waits for readers, drives by itself, and runs what is deferred where there is no worker.
#[test]
fn r_8_throttle_waits_for_room() {
    for workers in [true, false] {
        let domain = Domain::builder().budget(BUDGET).workers(workers).build();
        let cache = Cache::new("throttled");
        std::thread::scope(|scope| {
            let sleeper = Sleeper::new(scope, &domain);
            assert_eq!(domain.throttle(), Ok(()), "there is room");
            (0..2000).for_each(|_| retire(&domain, &cache));
            for _ in 0..20_000 {
                domain.defer(|| ());
            }
            let throttled = scope.spawn(|| domain.throttle());
            std::thread::sleep(Duration::from_millis(20));
            assert!(!throttled.is_finished());
            drop(sleeper);
            assert_eq!(throttled.join().unwrap(), Ok(()));
        });
        assert!(domain.stats().kvfree.pending_bytes <= bound(1), "{:?}", domain.stats());
    }
}

/// What is above the budget because destructors are slow is told apart from what readers hold up.
#[test]
fn r_8_a_worker_that_is_behind_is_told() {
    let domain = Domain::builder().budget(BUDGET).most_workers(1).build();
    let cache = Cache::new("behind");
    let (end, wait) = std::sync::mpsc::channel::<()>();
    let (begun, ready) = std::sync::mpsc::channel();
    domain.defer(move || {
        begun.send(()).unwrap();
        let _ = wait.recv();
    });
    domain.flush();
    ready.recv().unwrap();
    // Boxes are for the worker, which is busy.
    let boxes = || {
        for _ in 0..5000 {
            // SAFETY: fresh, known to nobody else.
            unsafe { domain.retire_box(std::ptr::NonNull::from(Box::leak(Box::new([1u64; 64])))) }
        }
    };
    boxes();
    domain.synchronize();
    boxes();
    retire(&domain, &cache);
    let stats = domain.stats().kvfree;
    assert!(stats.over_budget_worker > 0 && stats.over_budget_inside == 0, "{stats:?}");
    drop(end);
    domain.barrier();
}

/// What has no block is a worker's or a ticker's to free: where there is no worker, nobody waits for it.
#[test]
fn r_8_without_a_worker_nobody_waits_for_what_only_ticks_free() {
    let domain: &'static Domain = Box::leak(Box::new(waiting().workers(false).batching(false).build()));
    let cache: &'static Cache<Object> = Box::leak(Box::new(Cache::new("ticked")));
    let retirer = std::thread::spawn(|| (0..1000).for_each(|_| retire(domain, cache)));
    until("it goes on", || retirer.is_finished());
}

/// What has no block is held up by readers, too.
#[test]
fn r_8_without_blocks_the_cause_is_told_too() {
    let domain = Domain::builder().budget(BUDGET).batching(false).build();
    let cache = Cache::new("unbatched");
    std::thread::scope(|scope| {
        let sleeper = Sleeper::new(scope, &domain);
        retire(&domain, &cache);
        // Long enough for the worker to take it.
        until("it waits", || domain.cookie().holdouts().len() == 1 && domain.stats().longest_reader.is_some());
        (0..2000).for_each(|_| retire(&domain, &cache));
        let stats = domain.stats().kvfree;
        assert!(stats.over_budget_readers > 0, "{stats:?}");
        drop(sleeper);
    });
}
