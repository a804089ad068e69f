//! Destructors at the worst of times: those that end their handle, those of panics, floods of them; and handles that end beside a
//! cache that is being destroyed.

mod support;

use quietus_kvfree::{Config, Kvfree};
use quietus_slab::{Cache, SlabBox};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};
use support::pages::{Exhausted, turn};
use support::{Instant_, Manual, Opens, Tally, retire, retire_bytes, until};

fn no_worker() -> Config {
    Config { workers: false, ..Config::default() }
}

/// A destructor run by the sweep drops the last handle: the others of its set are given up, whole. None is freed with its value alive.
#[test]
fn a_handle_dropped_by_a_destructor_without_a_block_leaks_the_rest() {
    static DROPPED: AtomicU64 = AtomicU64::new(0);
    type Handle = Arc<Kvfree<Instant_>>;
    struct Last(#[allow(dead_code)] Arc<Mutex<Option<Handle>>>);
    impl Drop for Last {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, SeqCst);
            let handle = self.0.lock().unwrap().take();
            drop(handle);
        }
    }
    let _turn = turn();
    let cache: Cache<Last> = Cache::new("last");
    let kvfree = Arc::new(Kvfree::new(Instant_::default(), Config::default()));
    let place = Arc::new(Mutex::new(None));
    let objects: Vec<_> = (0..4).map(|_| SlabBox::into_raw(cache.alloc(Last(Arc::clone(&place))))).collect();
    let exhausted = Exhausted::now();
    // Nothing runs before the handle is where the destructor takes it from.
    let mut handle = place.lock().unwrap();
    // SAFETY: fresh, known to nobody else; of this cache.
    objects.into_iter().for_each(|p| unsafe { kvfree.retire_in(&cache, p) });
    assert_eq!(kvfree.stats().deferred, 4);
    *handle = Some(kvfree);
    drop(handle);
    until("the handle has gone", || DROPPED.load(SeqCst) > 0 && place.lock().unwrap().is_none());
    until("one was freed", || cache.stats().live == 3);
    assert_eq!(DROPPED.load(SeqCst), 1, "what is not dropped is not freed");
    drop(exhausted);
}

/// The payload of a panic is dropped inside the call that panicked: a barrier there is refused as any other.
#[test]
fn a_payload_that_barriers_is_refused() {
    static KVFREE: OnceLock<Kvfree<Instant_>> = OnceLock::new();
    struct Payload;
    impl Drop for Payload {
        fn drop(&mut self) {
            KVFREE.get().unwrap().barrier();
        }
    }
    let _turn = turn();
    let kvfree = KVFREE.get_or_init(|| Kvfree::new(Instant_::default(), no_worker()));
    kvfree.defer(|| std::panic::resume_unwind(Box::new(Payload)));
    kvfree.barrier(); // comes back
    let s = kvfree.stats();
    assert_eq!((s.panics, s.calls_run, s.pending_objects), (1, 1, 0), "{s:?}");
}

/// A cache that is destroyed asks every handle, one after another. One that ends meanwhile, and whose per-CPU words a third has
/// got, must not be asked by these words.
#[test]
fn destroying_a_cache_beside_handles_that_come_and_go() {
    let _turn = turn();
    let (first, third) = (Manual::default(), Manual::default());
    let _opens = (Opens(&first), Opens(&third));
    let cache: Cache<[u64; 8]> = Cache::new("asks");
    let waits = Kvfree::new(first.clone(), no_worker());
    let goes = Kvfree::new(Instant_::default(), no_worker());
    // SAFETY: fresh, of this cache: the handle has a lane for it.
    unsafe { goes.retire_in(&cache, SlabBox::into_raw(cache.alloc([1; 8]))) };
    goes.barrier();
    // SAFETY: as above.
    unsafe { waits.retire_in(&cache, SlabBox::into_raw(cache.alloc([2; 8]))) };
    std::thread::scope(|scope| {
        let destroyer = scope.spawn(move || cache.destroy().is_ok());
        until("the destroyer waits for the first handle's readers", || first.asked() > 0);
        drop(goes);
        let comes = Kvfree::new(third.clone(), no_worker());
        retire_bytes(&comes, 64);
        assert_eq!(comes.stats().batches, 0);
        first.open();
        assert!(destroyer.join().unwrap(), "the cache is empty");
        let s = comes.stats();
        assert_eq!((s.batches, s.pending_objects), (0, 1), "nobody has touched the third handle's block: {s:?}");
        third.open();
    });
}

/// Retirers above the budget give way also when all there is are destructors, which they do not run.
#[test]
fn retirers_of_destructors_yield_above_the_budget() {
    let _turn = turn();
    let gp = Manual::default();
    let kvfree = Kvfree::new(gp.clone(), Config { budget: 64 << 10, ..no_worker() });
    let _opens = Opens(&gp);
    let tally = Tally::new(5000);
    (0..5000).for_each(|id| retire(&kvfree, tally.object(id)));
    let s = kvfree.stats();
    assert!(s.yields > 0 && tally.dropped() == 0, "{s:?}");
    gp.open();
    kvfree.barrier();
    tally.each_once();
}
