//! What private domains promise: independence, an end in good order, and `tick`.

use crate::objects::{Tally, until, watched};
use quietus::Domain;
use quietus::slab::{Cache, SlabBox};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

fn domains() -> [Domain; 2] {
    [Domain::new(), Domain::builder().workers(false).build()]
}

#[test]
fn domains_do_not_wait_for_each_other() {
    let (first, second) = (Domain::new(), Domain::new());
    let guard = first.pin();
    let global = quietus::pin();
    second.synchronize();
    second.barrier();
    assert!(!first.cookie().is_elapsed());
    drop(global);
    drop(guard);
    first.synchronize();
}

/// Guards that were leaked, here and on a thread that has ended, hold up grace periods but not the end of the domain: all that
/// was retired is dropped, once.
#[test]
fn a_domain_that_ends_drops_everything() {
    for domain in domains() {
        let cache: Cache<[u64; 8]> = Cache::new("ending");
        let tally = Tally::new(4000);
        std::thread::scope(|scope| {
            scope.spawn(|| std::mem::forget(domain.pin()));
        });
        std::mem::forget(domain.pin());
        let cookie = domain.cookie();
        for id in 0..1000 {
            let deferred = tally.object(4 * id + 3);
            // SAFETY: fresh, known to nobody else.
            unsafe {
                domain.retire(SlabBox::into_raw(SlabBox::new(tally.object(4 * id))));
                domain.retire_box(NonNull::from(Box::leak(Box::new(tally.object(4 * id + 1)))));
                domain.retire(SlabBox::into_raw(cache.alloc([1; 8])));
            }
            let mut pair = Some(tally.object(4 * id + 2));
            domain.defer(move || {
                pair.take();
                drop(deferred);
            });
        }
        domain.flush();
        domain.tick();
        assert!(!cookie.is_elapsed());
        assert_eq!(tally.dropped(), 0, "a leaked guard is a guard");
        watched("dropping a domain with leaked guards", || drop(domain));
        tally.each_once();
        assert_eq!(cache.stats().live, 0);
    }
}

/// Destructors that run while their domain ends may still use other domains, and threads may end after it.
#[test]
fn threads_may_outlive_their_domain() {
    for domain in domains() {
        let (send, receive) = std::sync::mpsc::channel::<Domain>();
        let tally = Tally::new(1);
        let object = tally.object(0);
        let thread = std::thread::spawn(move || {
            let domain = receive.recv().unwrap();
            let guard = domain.pin();
            // SAFETY: fresh, known to nobody else.
            unsafe { domain.retire(SlabBox::into_raw(SlabBox::new(object))) };
            drop(guard);
            drop(domain);
            // Another one, perhaps at the same address.
            let other = Domain::new();
            let guard = other.pin();
            assert!(!other.cookie().is_elapsed());
            drop(guard);
            other.synchronize();
        });
        send.send(domain).unwrap();
        thread.join().unwrap();
        tally.each_once();
    }
}

#[test]
fn many_domains_come_and_go() {
    for i in 0..200 {
        let domain = Domain::builder().workers(i % 20 == 0).build();
        let tally = Tally::new(10);
        for id in 0..10 {
            let _guard = domain.pin();
            // SAFETY: fresh, known to nobody else.
            unsafe { domain.retire(SlabBox::into_raw(SlabBox::new(tally.object(id)))) };
        }
        drop(domain);
        tally.each_once();
    }
}

#[test]
fn ticks_say_whether_something_is_pending() {
    let domain = Domain::builder().workers(false).build();
    assert!(!domain.tick(), "nothing was ever retired");
    let tally = Tally::new(1);
    let guard = domain.pin();
    // SAFETY: fresh, known to nobody else.
    unsafe { domain.retire(SlabBox::into_raw(SlabBox::new(tally.object(0)))) };
    for _ in 0..10 {
        assert!(domain.tick(), "the section holds it up");
    }
    assert_eq!(tally.dropped(), 0);
    drop(guard);
    let tick = || {
        domain.tick();
    };
    until("a tick frees it", tick, || tally.dropped() == 1);
    assert!(!domain.tick());
    tally.each_once();
}

/// Without a worker nothing happens by itself; a barrier needs none.
#[test]
fn without_a_worker_nothing_happens_by_itself() {
    let domain = Domain::builder().workers(false).build();
    let tally = Tally::new(1);
    // SAFETY: fresh, known to nobody else.
    unsafe { domain.retire(SlabBox::into_raw(SlabBox::new(tally.object(0)))) };
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(tally.dropped(), 0);
    domain.barrier();
    tally.each_once();
}

/// The last reference to a domain may be inside one of its own deferred functions.
#[test]
fn a_domain_dropped_by_its_own_function() {
    let domain = Arc::new(Domain::new());
    let done = Arc::new(AtomicBool::new(false));
    let (mine, told) = (Arc::clone(&domain), Arc::clone(&done));
    domain.defer(move || {
        until("ours is the last reference", std::thread::yield_now, || Arc::strong_count(&mine) == 1);
        drop(mine);
        told.store(true, SeqCst);
    });
    drop(domain);
    until("the function has returned", std::thread::yield_now, || done.load(SeqCst));
}
