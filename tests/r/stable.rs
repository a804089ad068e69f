//! Type-stable memory: an object that was found in a section stays of its type to the section's end, whatever becomes of it, of its slab
//! and of its cache; afterwards its slab goes. For each way a domain is driven, and for each flavour that is always there.

use crate::support::{stay, until};
use quietus::slab::{Cache, Grace, Stable, StableCache};
use quietus::{Domain, Flavour, Qsbr};
use std::sync::Mutex;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

/// Values made and not dropped, test by test.
static ALIVE: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// 8 KiB, eight in a slab, for the test of this number.
struct Kept<const TEST: usize> {
    number: AtomicU64,
    check: [u64; 1023],
}

impl<const TEST: usize> Kept<TEST> {
    fn make() -> Self {
        ALIVE[TEST].fetch_add(1, SeqCst);
        Kept { number: AtomicU64::new(0), check: [0x5eed; 1023] }
    }
    fn alive() -> u64 {
        ALIVE[TEST].load(SeqCst)
    }
    fn is_whole(&self) -> bool {
        self.check.iter().all(|&word| word == 0x5eed)
    }
}

impl<const TEST: usize> Drop for Kept<TEST> {
    fn drop(&mut self) {
        self.check = [0xdead; 1023];
        ALIVE[TEST].fetch_sub(1, SeqCst);
    }
}

fn leaked<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn cache<T: Send + Sync, F: Flavour>(make: fn() -> T, domain: &'static Domain<F>) -> StableCache<T> {
    let grace: &'static dyn Grace = domain;
    Cache::builder("stable").constructed(make).type_stable(grace).build().unwrap()
}

/// Objects of two slabs, one of which a reader in a section has found; then all of them are freed, their slabs given up, and the cache ended.
#[test]
fn type_stable_memory_outlives_its_slab_under_a_reader() {
    stay(); // two slabs, not some more of another CPU
    for workers in [true, false] {
        let domain = leaked(Domain::builder().workers(workers).build());
        let cache = cache(Kept::<0>::make, domain);
        let held: Vec<Stable<Kept<0>>> = (0..16).map(|_| cache.alloc()).collect();
        held[9].number.store(9, Relaxed);
        assert_eq!(Kept::<0>::alive(), 16);
        let guard = domain.pin();
        let found = Stable::as_ptr(&held[9]);
        drop(held);
        cache.shrink();
        assert_eq!((cache.stats().slabs, cache.stats().slabs_deferred), (0, 2));
        drop(cache);
        // Whoever drives: nothing but this section keeps the slabs.
        for _ in 0..3 {
            domain.flush();
            domain.tick();
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        // SAFETY: found in a section of the cache's domain, which has not ended.
        let kept = unsafe { &*found };
        assert!(kept.is_whole() && kept.number.load(Relaxed) == 9, "its slab has gone under a reader");
        assert_eq!(Kept::<0>::alive(), 16);
        assert_eq!(domain.stats().kvfree.pending_bytes, 128 << 10, "the slabs count");
        drop(guard);
        if workers {
            until("the worker drops the values", || Kept::<0>::alive() == 0);
        } else {
            until("ticks drop the values", || !domain.tick() && Kept::<0>::alive() == 0);
        }
    }
}

/// The same under a reader that is online, of another flavour; a barrier is the end of it.
#[test]
fn type_stable_memory_waits_for_quiescent_states() {
    stay();
    let domain: &'static Domain<Qsbr> = leaked(Domain::qsbr());
    let cache = cache(Kept::<1>::make, domain);
    let mut reader = domain.reader();
    let found = Stable::as_ptr(&cache.alloc());
    cache.shrink();
    assert_eq!(cache.stats().slabs_deferred, 1);
    domain.flush();
    // SAFETY: found while this thread was online in the cache's domain, and it has not been quiescent since.
    assert!(unsafe { &*found }.is_whole());
    assert_eq!(Kept::<1>::alive(), 8);
    reader.quiescent();
    drop(reader);
    domain.barrier();
    assert_eq!((Kept::<1>::alive(), cache.stats().slabs_given), (0, 1));
}

/// An object comes back while a reader looks at it: it is another's by then, and still one of its type.
#[test]
fn type_stable_memory_is_given_to_others_meanwhile() {
    stay();
    let domain = leaked(Domain::new());
    let cache = cache(Kept::<2>::make, domain);
    let (mut found_again, mut slabs) = (0u64, 0u64);
    for round in 1..=1000 {
        let guard = domain.pin();
        let object = cache.alloc();
        object.number.store(round, Relaxed);
        let found = Stable::as_ptr(&object);
        drop(object);
        let next = cache.alloc();
        next.number.store(round + 1000, Relaxed);
        // SAFETY: found in this section.
        let kept = unsafe { &*found };
        assert!(kept.is_whole());
        found_again += u64::from(std::ptr::eq(found, Stable::as_ptr(&next)) && kept.number.load(Relaxed) > 1000);
        drop(next);
        if round % 100 == 0 {
            cache.shrink();
            slabs += 1;
        }
        assert!(kept.is_whole(), "its slab has gone under a reader");
        drop(guard);
    }
    assert!(found_again > 0, "no object came back");
    assert_eq!(cache.stats().slabs_deferred, slabs);
    drop(cache);
    domain.barrier();
    assert_eq!(Kept::<2>::alive(), 0);
}

/// One inside the other, each of a cache of its own that has ended: the values of a slab go with it, and with them the next slab.
struct Nest {
    kept: Kept<3>,
    inner: Mutex<Option<Stable<Nest>>>,
}

/// What a deferred function frees is covered by the barrier that covers the function: its slabs, and what their values free in turn.
#[test]
fn type_stable_memory_freed_by_a_deferred_function_is_barriers_too() {
    let domain = leaked(Domain::builder().workers(false).build());
    let nest = (0..10).fold(None, |inner, _| {
        let cache = cache(|| Nest { kept: Kept::make(), inner: Mutex::new(None) }, domain);
        let nest = cache.alloc();
        *nest.inner.lock().unwrap() = inner;
        Some(nest)
    });
    let made = Kept::<3>::alive();
    assert!(made >= 10 && nest.as_ref().is_some_and(|nest| nest.kept.is_whole()));
    domain.defer(move || drop(nest));
    domain.barrier();
    assert_eq!(Kept::<3>::alive(), 0, "of {made}");
}
