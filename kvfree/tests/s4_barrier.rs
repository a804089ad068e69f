//! Lines 11 and 12 of S4: the order in which what has elapsed is freed, and who waits for what.

mod support;

use quietus_kvfree::{Config, Cookie, GracePeriods, Kvfree};
use quietus_slab::raw::Word;
use quietus_slab::{Cache, SlabBox};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use support::doors::{Door, House, live};
use support::machine::{Busy, Watchdog};
use support::pages::{Exhausted, no_worker, turn};
use support::{Manual, Object, Opens, Tally, retire, retire_bytes, until};

type Plain = [u64; 8];

/// Retires values of a cache.
fn fill(kvfree: &Kvfree<Manual>, cache: &Cache<Plain>, n: u64) {
    // SAFETY: fresh, known to nobody else.
    (0..n).for_each(|i| unsafe { kvfree.retire(SlabBox::into_raw(cache.alloc([i; 8]))) });
}

/// Batches end in the order of their cookies, whatever lane they are of; what has not elapsed stays, and nobody waits for it.
#[test]
fn s4_11_the_oldest_is_freed_first() {
    let _turn = turn();
    let gp = Manual::default();
    let kvfree = Kvfree::new(gp.clone(), no_worker());
    let _opens = Opens(&gp);
    let ends = Arc::new(Mutex::new(Vec::new()));
    struct Ordered(usize, Arc<Mutex<Vec<usize>>>);
    impl Drop for Ordered {
        fn drop(&mut self) {
            self.1.lock().unwrap().push(self.0);
        }
    }
    let cache: Cache<Ordered> = Cache::new("ordered");
    for batch in 0..12 {
        let value = Ordered(batch, Arc::clone(&ends));
        match batch % 3 {
            0 => retire(&kvfree, value), // pairs
            // SAFETY: fresh, known to nobody else.
            1 => unsafe { kvfree.retire_in(&cache, SlabBox::into_raw(cache.alloc(value))) }, // a cache's lane
            _ => kvfree.defer(move || drop(value)),
        }
        kvfree.flush();
    }
    assert_eq!(gp.started(), 12, "each its own cookie");
    assert!(kvfree.tick());
    assert!(ends.lock().unwrap().is_empty());
    gp.complete(7);
    assert!(kvfree.tick(), "the rest waits, and the tick does not");
    assert_eq!(*ends.lock().unwrap(), (0..7).collect::<Vec<_>>());
    gp.open();
    kvfree.tick();
    assert_eq!(*ends.lock().unwrap(), (0..12).collect::<Vec<_>>());
}

/// A retirer that helps takes the oldest of plain memory, too, and as many as have elapsed.
#[test]
fn s4_11_helpers_take_the_oldest() {
    let _turn = turn();
    let gp = Manual::default();
    let kvfree = Kvfree::new(gp.clone(), no_worker());
    let _opens = Opens(&gp);
    let caches: Vec<Cache<Plain>> = (0..5).map(|_| Cache::new("oldest")).collect();
    for cache in &caches {
        fill(&kvfree, cache, 3);
        kvfree.flush();
    }
    gp.complete(2);
    kvfree.relieve(); // reclaims as a helper does, and completes nothing
    let lives: Vec<_> = caches.iter().map(|c| c.stats().live).collect();
    assert_eq!(lives, [0, 0, 3, 3, 3]);
}

/// Says yes once for each grace period, when it is asked whether to take a batch, and no when it is asked again.
struct Fickle {
    started: AtomicU64,
    fickle: AtomicBool,
    polled: AtomicU64,
}
// SAFETY: it breaks contract 3 on purpose; there are no sections, so that nothing could be freed too early.
unsafe impl GracePeriods for Fickle {
    fn start(&self) -> Cookie {
        Cookie(self.started.fetch_add(1, SeqCst) + 1)
    }
    fn poll(&self, _: Cookie) -> bool {
        !self.fickle.load(SeqCst) || self.polled.fetch_add(1, SeqCst).is_multiple_of(2)
    }
    fn advance(&self, _: Cookie) -> bool {
        false
    }
    fn synchronize(&self, _: Cookie) {}
    fn inside(&self) -> Option<bool> {
        Some(false)
    }
}

/// Whatever way it went, it is asked about again right before it is freed: not over means leaked, and counted.
#[test]
fn s4_11_each_is_asked_about_again_before_it_is_freed() {
    let _turn = turn();
    for (pages, batching) in [(true, true), (false, true), (true, false)] {
        for door in Door::ALL {
            let fickle = Fickle { started: 0.into(), fickle: true.into(), polled: 0.into() };
            let kvfree = Kvfree::new(fickle, Config { batching, ..no_worker() });
            let (house, tally) = (House::new(), Tally::new(1));
            let p = house.make(door, &tally, 0);
            let exhausted = (!pages).then(Exhausted::now);
            // SAFETY: made for the door.
            unsafe { house.retire(&kvfree, door, p) };
            kvfree.tick();
            kvfree.tick();
            let s = kvfree.stats();
            assert_eq!((s.leaked, s.reclaimed_objects, s.pending_objects), (1, 0, 0), "{door:?} {pages}: {s:?}");
            assert_eq!((tally.dropped(), s.calls_run), (0, 0), "{door:?} {pages}");
            kvfree.grace_periods().fickle.store(false, SeqCst);
            drop(exhausted);
        }
    }
}

/// Everything, by whatever door it came, in whatever place it is: open, closed, queued, in the bitmap, on a list.
#[test]
fn s4_12_a_barrier_covers_every_door() {
    let _turn = turn();
    let before = live();
    for workers in [false, true] {
        let kvfree = Kvfree::new(Manual::willing(), Config { workers, ..Config::default() });
        let house = House::new();
        let tally = Tally::new(Door::ALL.len() * 600);
        for (d, door) in Door::ALL.into_iter().enumerate() {
            // SAFETY: made for the door.
            let one = |id| unsafe { house.retire(&kvfree, door, house.make(door, &tally, d * 600 + id)) };
            (0..500).for_each(one);
            let exhausted = Exhausted::now();
            (500..600).for_each(one);
            drop(exhausted);
        }
        kvfree.barrier();
        let s = kvfree.stats();
        assert_eq!((s.pending_objects, s.pending_bytes, s.leaked), (0, 0, 0), "{s:?}");
        assert_eq!(tally.dropped(), 600 * Door::ALL.into_iter().filter(|d| d.drops()).count());
        assert_eq!((house.plain.stats().live, house.dropped.stats().live), (0, 0));
    }
    assert_eq!(live(), before);
}

/// Only what the cache has pending: neither others' objects nor others' slow deferred functions.
#[test]
fn s4_12_barrier_on_waits_for_nobody_else() {
    let _turn = turn();
    let _watchdog = Watchdog::new("barrier_on waits for another's deferred function");
    let kvfree = Kvfree::new(Manual::willing(), Config::default());
    let (cache, drops): (Cache<Plain>, Cache<Object>) = (Cache::new("this"), Cache::new("this, too"));
    let slow = Busy::new(&kvfree);
    let tally = Tally::new(700);
    let held = cache.alloc([0; 8]);
    fill(&kvfree, &cache, 1234);
    // SAFETY: fresh, known to nobody else.
    (0..700).for_each(|id| unsafe { kvfree.retire_in(&drops, SlabBox::into_raw(drops.alloc(tally.object(id)))) });
    kvfree.barrier_on(&cache);
    assert_eq!(cache.stats().live, 1);
    kvfree.barrier_on(&drops);
    tally.each_once();
    assert_eq!(drops.stats().live, 0);
    drop((held, slow));
    kvfree.barrier();
}

/// What other caches have pending stays pending.
#[test]
fn s4_12_barrier_on_leaves_others_alone() {
    let _turn = turn();
    let kvfree = Kvfree::new(Manual::willing(), no_worker());
    let (this, other): (Cache<Plain>, Cache<Plain>) = (Cache::new("this"), Cache::new("other"));
    let tally = Tally::new(10);
    fill(&kvfree, &other, 100);
    (0..10).for_each(|id| retire(&kvfree, tally.object(id)));
    let mine: Vec<_> = (0..100).map(|i| SlabBox::into_raw(this.alloc([i; 8]))).collect();
    kvfree.flush(); // the others' have elapsed, and nobody has freed them
    // SAFETY: fresh, known to nobody else.
    mine.into_iter().for_each(|p| unsafe { kvfree.retire(p) });
    kvfree.barrier_on(&this);
    assert_eq!((this.stats().live, other.stats().live, tally.dropped()), (0, 100, 0));
    assert_eq!(kvfree.stats().pending_objects, 110);
    // Nothing pending: no grace period is waited for.
    let started = kvfree.grace_periods().completed();
    kvfree.barrier_on(&this);
    assert_eq!(kvfree.grace_periods().completed(), started);
    kvfree.barrier();
}

/// What was retired without a page, or by another type than the cache's, or as plain memory of it, is the cache's all the same.
#[test]
fn s4_12_barrier_on_finds_what_took_another_way() {
    let _turn = turn();
    let kvfree = Kvfree::new(Manual::willing(), no_worker());
    let (plain, drops): (Cache<Plain>, Cache<Object>) = (Cache::new("plain"), Cache::new("drops"));
    // No page: bits.
    let exhausted = Exhausted::now();
    fill(&kvfree, &plain, 10);
    drop(exhausted);
    assert_eq!(kvfree.stats().deferred, 10);
    kvfree.barrier_on(&plain);
    assert_eq!(plain.stats().live, 0);
    let tally = Tally::new(3);
    // Its memory alone.
    let p = SlabBox::into_raw(drops.alloc(tally.object(0)));
    // SAFETY: fresh; the value is dropped here, the memory there.
    unsafe {
        p.drop_in_place();
        kvfree.retire_ptr(p.cast());
    }
    kvfree.barrier_on(&drops);
    assert_eq!((drops.stats().live, tally.dropped()), (0, 1));
    // As another type: the same value in a wrapper.
    #[repr(transparent)]
    struct Wrapper(Object);
    let p = SlabBox::into_raw(drops.alloc(tally.object(1)));
    // SAFETY: fresh; a Wrapper is an Object.
    unsafe { kvfree.retire(p.cast::<Wrapper>()) };
    kvfree.barrier_on(&drops);
    assert_eq!((drops.stats().live, tally.dropped()), (0, 2));
    drop(tally.object(2));
    tally.each_once();
}

/// All per-CPU words but those that are in use.
struct Wordless(Vec<Word>);
impl Wordless {
    fn now() -> Wordless {
        Wordless(std::iter::from_fn(Word::allocate).collect())
    }
}
impl Drop for Wordless {
    fn drop(&mut self) {
        // SAFETY: from `allocate`, never used.
        self.0.drain(..).for_each(|word| unsafe { word.release() });
    }
}

/// A cache that finds no lane of its own shares others'; its barrier knows.
#[test]
fn s4_12_barrier_on_a_cache_without_a_lane() {
    let _turn = turn();
    let (plain, drops): (Cache<Plain>, Cache<Object>) = (Cache::new("plain"), Cache::new("drops"));
    let kvfree = Kvfree::new(Manual::willing(), no_worker());
    let tally = Tally::new(10);
    let wordless = Wordless::now();
    fill(&kvfree, &plain, 10);
    // SAFETY: fresh, known to nobody else.
    (0..10).for_each(|id| unsafe { kvfree.retire_in(&drops, SlabBox::into_raw(drops.alloc(tally.object(id)))) });
    drop(wordless);
    kvfree.barrier_on(&plain);
    assert_eq!(plain.stats().live, 0);
    kvfree.barrier_on(&drops);
    assert_eq!((drops.stats().live, tally.dropped()), (0, 10));
}

/// An object whose destructor retires the next one of its own cache, and plain memory.
struct Chain {
    cache: Arc<Cache<Chain>>,
    kvfree: &'static Kvfree<Manual>,
    tally: Arc<Tally>,
    left: usize,
    by_address: bool,
}

impl Chain {
    fn retire(self) {
        let (kvfree, cache, by_address) = (self.kvfree, Arc::clone(&self.cache), self.by_address);
        let p = SlabBox::into_raw(cache.alloc(self));
        // SAFETY: fresh, known to nobody else.
        unsafe { if by_address { kvfree.retire(p) } else { kvfree.retire_in(&cache, p) } }
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        drop(self.tally.object(self.left));
        retire_bytes(self.kvfree, 64);
        if self.left > 0 {
            let (cache, tally) = (Arc::clone(&self.cache), Arc::clone(&self.tally));
            let (kvfree, left, by_address) = (self.kvfree, self.left - 1, self.by_address);
            Chain { cache, kvfree, tally, left, by_address }.retire();
        }
    }
}

/// Complete even when destructors retire more: a hundred deep, with and without a worker, by blocks and without pages.
#[test]
fn s4_12_barriers_follow_destructors_that_retire() {
    let _turn = turn();
    for (workers, by_address, on, pages) in [
        (false, false, false, true),
        (true, true, false, true),
        (false, true, true, true),
        (false, false, true, true),
        (true, false, true, true),
        (false, false, true, false),
        (false, false, false, false),
    ] {
        let kvfree: &'static Kvfree<Manual> =
            Box::leak(Box::new(Kvfree::new(Manual::willing(), Config { workers, ..Config::default() })));
        let cache: Arc<Cache<Chain>> = Arc::new(Cache::new("chain"));
        let tally = Tally::new(100);
        let exhausted = (!pages).then(Exhausted::now);
        Chain { cache: Arc::clone(&cache), kvfree, tally: Arc::clone(&tally), left: 99, by_address }.retire();
        if on {
            kvfree.barrier_on(&cache)
        } else {
            kvfree.barrier()
        }
        let what = format!("workers {workers}, by address {by_address}, barrier_on {on}, pages {pages}");
        assert_eq!((tally.dropped(), cache.stats().live), (100, 0), "{what}");
        tally.each_once();
        assert!(on || kvfree.stats().pending_objects == 0, "{what}: {:?}", kvfree.stats());
        drop(exhausted);
        kvfree.barrier();
    }
}

/// A batch that another thread is just freeing is waited for, too.
#[test]
fn s4_12_barrier_on_waits_for_what_others_are_freeing() {
    struct Gate(Sender<()>, Receiver<()>);
    impl Drop for Gate {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
            let _ = self.1.recv();
        }
    }
    let _turn = turn();
    let _watchdog = Watchdog::new("a gate");
    let kvfree = Kvfree::new(Manual::willing(), Config::default());
    let cache: Cache<Gate> = Cache::new("gate");
    let ((began, begun), (end, ended)) = (channel(), channel::<()>());
    // SAFETY: fresh, known to nobody else.
    unsafe { kvfree.retire_in(&cache, SlabBox::into_raw(cache.alloc(Gate(began, ended)))) };
    kvfree.flush();
    begun.recv().unwrap(); // the worker is in the destructor
    let (waiting, returned) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            waiting.store(true, SeqCst);
            kvfree.barrier_on(&cache);
            returned.store(true, SeqCst);
            assert_eq!(cache.stats().live, 0);
        });
        until("the barrier has begun", || waiting.load(SeqCst));
        for _ in 0..50 {
            std::thread::sleep(std::time::Duration::from_millis(1));
            assert!(!returned.load(SeqCst), "the barrier has returned, and the object is still being freed");
        }
        drop(end);
    });
}

/// Destroying a cache runs its barrier first, in every `Kvfree`; what is still out is named, and nothing is lost.
#[test]
fn s4_12_destroying_a_cache_runs_its_barrier() {
    let _turn = turn();
    let _watchdog = Watchdog::new("destroy waits for another's deferred function");
    let (first, second) =
        (Kvfree::new(Manual::willing(), Config::default()), Kvfree::new(Manual::willing(), no_worker()));
    let slow = Busy::new(&first);
    let cache: Cache<Plain> = Cache::new("ending");
    fill(&first, &cache, 600);
    fill(&second, &cache, 50);
    let held = cache.alloc([9; 8]);
    let error = cache.destroy().expect_err("an object is out");
    assert_eq!(error.live, 1);
    assert!(error.to_string().contains("ending") && error.to_string().contains("in use: 1"), "{error}");
    assert_eq!(*held, [9; 8]);
    let cache = error.cache;
    fill(&second, &cache, 50);
    drop(held);
    cache.destroy().expect("nothing is out");
    // With destructors that retire more.
    let kvfree: &'static Kvfree<Manual> = Box::leak(Box::new(Kvfree::new(Manual::willing(), no_worker())));
    struct Twice(&'static Kvfree<Manual>, &'static OnceLock<Cache<Twice>>, bool);
    impl Drop for Twice {
        fn drop(&mut self) {
            if self.2 {
                let p = SlabBox::into_raw(self.1.get().unwrap().alloc(Twice(self.0, self.1, false)));
                // SAFETY: fresh, known to nobody else.
                unsafe { self.0.retire(p) };
            }
        }
    }
    static CACHE: OnceLock<Cache<Twice>> = OnceLock::new();
    let cache = CACHE.get_or_init(|| Cache::new("twice"));
    let p = SlabBox::into_raw(cache.alloc(Twice(kvfree, &CACHE, true)));
    // SAFETY: fresh, known to nobody else.
    unsafe { kvfree.retire(p) };
    kvfree.barrier_on(cache);
    assert_eq!(cache.stats().live, 0, "what is done before a cache is destroyed");
    drop(slow);
}

/// `barrier_on` where it would wait for itself says so.
#[test]
fn s4_12_barrier_on_inside_a_section_panics() {
    let _turn = turn();
    let kvfree = Kvfree::new(Manual::willing(), no_worker());
    let cache: Cache<Plain> = Cache::new("inside");
    fill(&kvfree, &cache, 1);
    let inside = support::Inside::enter();
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| kvfree.barrier_on(&cache))).unwrap_err();
    drop(inside);
    assert!(panic.downcast_ref::<&str>().is_some_and(|text| text.contains("read-side section")));
    kvfree.barrier();
    assert_eq!(cache.stats().live, 0);
}
