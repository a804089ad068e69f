//! Random schedules, by shuttle, of the crate as it is: retirers, readers, one worker or several, tickers, barriers, waits for room,
//! destructors that retire, and the end of the handle.
//!
//! ```text
//! RUSTFLAGS="--cfg quietus_shuttle" cargo test --release -p quietus-kvfree --test schedule_shuttle
//! ```
//!
//! Only the source of grace periods is a model: sections of four readers, sequentially consistent, as all schedules are (the
//! orderings are loom's matter). The allocator is the real one; between two scheduling points it runs undisturbed. A schedule in which
//! everybody waits fails as a deadlock, so a worker that sleeps for good beside something pending is found as soon as somebody waits
//! for it. Each property has a twin whose planted bug has to be found.
#![cfg(quietus_shuttle)]

use quietus_kvfree::{Callback, Config, Cookie, GracePeriods, Kvfree, Linked, OnOverflow, RcuHead, deafen, rcu_head};
use quietus_slab::{Cache, SlabBox};
use shuttle::sync::atomic::{AtomicU64, Ordering::SeqCst};
use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

/// Schedules for each test that is to pass, and for each that is to fail.
const SCHEDULES: usize = 1500;
const SCHEDULES_OF_A_TWIN: usize = 20_000;
const READERS: usize = 2;
const OBJECTS: usize = 16;

// ── grace periods ──

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    Nothing,
    /// Grace periods end at once.
    AtOnce,
    /// The cookie is the number before: as if taken before what it is to cover.
    CookieEarly,
    /// Wake-ups are lost.
    Deaf,
}

/// Sections are slots that hold the number they began at, as in the engine.
struct Model {
    now: AtomicU64,
    completed: AtomicU64,
    slots: [AtomicU64; READERS],
    bug: Bug,
    /// Held as long as anybody holds on to what the handle and its workers share.
    _held: Arc<()>,
}

// SAFETY: (1) to (5): the engine's protocol, without its fences since schedules are sequentially consistent; broken if a twin says so.
unsafe impl GracePeriods for Model {
    fn start(&self) -> Cookie {
        Cookie(self.now.fetch_add(1, SeqCst) + u64::from(self.bug != Bug::CookieEarly))
    }
    fn poll(&self, cookie: Cookie) -> bool {
        self.bug == Bug::AtOnce || self.completed.load(SeqCst) >= cookie.0
    }
    fn advance(&self, cookie: Cookie) -> bool {
        let n = self.now.load(SeqCst);
        let over = self.slots.iter().map(|s| s.load(SeqCst)).all(|s| s == 0 || s >= n);
        if over {
            self.completed.fetch_max(n, SeqCst);
        }
        self.poll(cookie)
    }
    fn synchronize(&self, cookie: Cookie) {
        while !self.advance(cookie) {
            thread::yield_now();
        }
    }
    fn inside(&self) -> Option<bool> {
        Some(false) // no reader retires or waits
    }
}

// ── objects ──

/// One schedule's handle, and its books, which outlive it.
struct World {
    kvfree: Kvfree<Model>,
    /// The object that readers see.
    current: AtomicU64,
    books: Arc<Books>,
}

#[derive(Default)]
struct Books {
    freed: [AtomicBool; OBJECTS],
    /// What would be a panic, were panics of destructors not caught.
    wrong: std::sync::Mutex<Vec<String>>,
    /// Told of each free.
    count: Mutex<usize>,
    told: Condvar,
}

impl Books {
    fn freed(&self, id: usize) {
        if self.freed[id].swap(true, Relaxed) {
            self.wrong.lock().unwrap().push(format!("object {id} is freed twice"));
        }
        *self.count.lock().unwrap() += 1;
        self.told.notify_all();
    }
    fn is_free(&self, id: usize) -> bool {
        self.freed[id].load(Relaxed)
    }
    fn wait_for(&self, objects: usize) {
        let mut count = self.count.lock().unwrap();
        while *count < objects {
            count = self.told.wait(count).unwrap();
        }
    }
}

/// Two of them fill a block. With `then`, dropping it retires that one.
struct Object {
    id: usize,
    then: Option<usize>,
    world: Weak<World>,
    books: Arc<Books>,
    head: RcuHead,
    _bytes: [u64; 1500],
}

rcu_head!(Object, head);

impl Drop for Object {
    fn drop(&mut self) {
        if let Some(then) = self.then {
            retire(&self.world.upgrade().expect("there as long as chains run"), By::Cache, then, None);
        }
        self.books.freed(self.id);
    }
}

static CACHE: LazyLock<Cache<Object>> = LazyLock::new(|| Cache::new("scheduled"));

/// The doors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Cache,
    Box,
    /// `call_rcu`: a list, swept.
    Head,
}

fn retire(world: &Arc<World>, by: By, id: usize, then: Option<usize>) {
    let (head, books) = (RcuHead::new(), world.books.clone());
    let object = Object { id, then, world: Arc::downgrade(world), books, head, _bytes: [0; 1500] };
    match by {
        // SAFETY: (1) and (2): new, reachable by its number only, retired once, of that cache, and owns what it has.
        By::Cache => unsafe { world.kvfree.retire_in(&CACHE, SlabBox::into_raw(CACHE.alloc(object))) },
        // SAFETY: (1) and (2): as above, from a Box.
        By::Box => unsafe { world.kvfree.retire_box(NonNull::from(Box::leak(Box::new(object)))) },
        By::Head => {
            unsafe fn run(head: NonNull<RcuHead>) {
                // SAFETY: the head is that of a Box made below, called once.
                drop(unsafe { Box::from_raw(head.byte_sub(Object::OFFSET).cast::<Object>().as_ptr()) });
            }
            static CALLBACK: Callback = Callback::new(run, size_of::<Object>());
            let object = NonNull::from(Box::leak(Box::new(object)));
            // SAFETY: (1) as above; the callback makes the Box again.
            unsafe { world.kvfree.call_head(object.byte_add(<Object as Linked>::OFFSET).cast(), &CALLBACK) };
        }
    }
}

/// Unlinks what readers see, `id` taking its place, and retires it.
fn replace(world: &Arc<World>, by: By, id: usize) -> usize {
    let old = world.current.swap(id as u64, SeqCst) as usize;
    retire(world, by, old, None);
    old
}

fn read(world: &World, reader: usize) {
    let model = world.kvfree.grace_periods();
    model.slots[reader].store(model.now.load(SeqCst), SeqCst);
    let id = world.current.load(SeqCst) as usize;
    for _ in 0..20 {
        thread::sleep(Duration::ZERO); // a scheduling point
        assert!(!world.books.is_free(id), "a reader sees object {id}, which is free");
    }
    model.slots[reader].store(0, SeqCst);
}

fn spawn(world: &Arc<World>, f: impl FnOnce(&Arc<World>) + Send + 'static) -> thread::JoinHandle<()> {
    let world = world.clone();
    thread::spawn(move || f(&world))
}

// ── schedules ──

/// Runs `script` in random schedules; afterwards drops the handle, and expects that each of its `objects` has been freed once.
fn explore(bug: Bug, objects: usize, config: impl Fn() -> Config + Send + Sync + 'static, script: fn(&Arc<World>)) {
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    // One test at a time: the allocator, and the stopping of CPUs, is everybody's.
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if bug == Bug::Deaf {
        deafen();
    }
    let schedules = if bug == Bug::Nothing { SCHEDULES } else { SCHEDULES_OF_A_TWIN };
    let run = move || {
        let zero = || AtomicU64::new(0);
        let held = Arc::new(());
        let slots = std::array::from_fn(|_| zero());
        let model = Model { now: AtomicU64::new(1), completed: zero(), slots, bug, _held: Arc::clone(&held) };
        let config = Config { age: Duration::from_millis(8), debug: false, ..config() };
        let world = Arc::new(World { kvfree: Kvfree::new(model, config), current: zero(), books: Arc::default() });
        script(&world);
        let (books, stats) = (world.books.clone(), world.kvfree.stats());
        assert_eq!((stats.leaked, stats.panics), (0, 0), "leaked, panics");
        drop(Arc::into_inner(world).expect("the last"));
        assert_eq!(Arc::strong_count(&held), 1, "every worker has ended with the handle");
        let wrong = std::mem::take(&mut *books.wrong.lock().unwrap());
        assert!(wrong.is_empty(), "{wrong:?}");
        let freed = (0..OBJECTS).filter(|&id| books.is_free(id)).count();
        assert_eq!(freed, objects, "objects freed at the end");
    };
    let mut config = shuttle::Config::new();
    config.stack_size = 1 << 18; // objects are made on the stack
    if bug != Bug::Nothing {
        config.failure_persistence = shuttle::FailurePersistence::None;
    }
    shuttle::Runner::new(shuttle::scheduler::RandomScheduler::new(schedules), config).run(run);
}

fn with_worker() -> Config {
    Config { most_workers: 1, ..Config::default() }
}

/// Under shuttle one batch too many is enough to start another.
fn with_workers() -> Config {
    Config { most_workers: 3, ..Config::default() }
}

fn helping() -> Config {
    Config { help_with_destructors: true, budget: 1 << 14, ..Config::default() }
}

fn without_worker() -> Config {
    Config { workers: false, ..helping() }
}

/// Two retirers, two readers, a ticker, and a barrier: what was retired before it is free when it ends, and what that has retired.
fn everybody(world: &Arc<World>) {
    let threads = [
        spawn(world, |w| (1..4).for_each(|id| _ = replace(w, By::Cache, id))),
        spawn(world, |w| {
            replace(w, By::Head, 4);
            replace(w, By::Box, 5);
        }),
        spawn(world, |w| (0..2).for_each(|_| read(w, 0))),
        spawn(world, |w| read(w, 1)),
        spawn(world, |w| _ = w.kvfree.tick()),
    ];
    let mine = [replace(world, By::Cache, 6), replace(world, By::Head, 7)];
    retire(world, By::Cache, 8, Some(9));
    world.kvfree.barrier();
    for id in mine.into_iter().chain([8, 9]) {
        assert!(world.books.is_free(id), "object {id} was retired before a barrier that is over");
    }
    threads.into_iter().for_each(|t| t.join().unwrap());
    retire(world, By::Box, world.current.load(SeqCst) as usize, None);
}

#[test]
fn a_barrier_is_complete() {
    explore(Bug::Nothing, 10, with_worker, everybody);
    explore(Bug::Nothing, 10, with_workers, everybody);
    explore(Bug::Nothing, 10, helping, everybody);
    explore(Bug::Nothing, 10, without_worker, everybody);
}

#[test]
#[should_panic(expected = "which is free")]
fn grace_periods_that_end_at_once_are_found() {
    explore(Bug::AtOnce, 10, with_worker, everybody);
}

#[test]
#[should_panic(expected = "which is free")]
fn an_early_cookie_is_found() {
    explore(Bug::CookieEarly, 5, without_worker, ticks);
}

/// Readers beside one who unlinks, retires and ticks.
fn ticks(world: &Arc<World>) {
    let threads = [0, 1].map(|reader| spawn(world, move |w| (0..20).for_each(|_| read(w, reader))));
    for id in 1..5 {
        replace(world, if id % 2 == 0 { By::Cache } else { By::Head }, id);
        world.kvfree.tick();
    }
    threads.into_iter().for_each(|t| t.join().unwrap());
    retire(world, By::Cache, 4, None);
}

#[test]
fn ticks_free_behind_readers() {
    explore(Bug::Nothing, 5, without_worker, ticks);
}

/// Destructors that retire, called by a worker, a ticker and the barrier, from blocks and from the list.
fn chains(world: &Arc<World>) {
    let ticker = spawn(world, |w| (0..2).for_each(|_| _ = w.kvfree.tick()));
    retire(world, By::Head, 0, Some(1));
    retire(world, By::Box, 2, Some(3));
    world.kvfree.barrier();
    for id in 0..4 {
        assert!(world.books.is_free(id), "object {id} was retired before a barrier that is over");
    }
    ticker.join().unwrap();
}

#[test]
fn a_barrier_follows_chains() {
    explore(Bug::Nothing, 4, with_worker, chains);
    explore(Bug::Nothing, 4, with_workers, chains);
    explore(Bug::Nothing, 4, without_worker, chains);
}

/// A barrier for one cache, beside a worker, a ticker and one who retires to it.
fn one_cache(world: &Arc<World>) {
    let threads = [
        spawn(world, |w| (1..4).for_each(|id| _ = replace(w, By::Cache, id))),
        spawn(world, |w| read(w, 0)),
        spawn(world, |w| _ = w.kvfree.tick()),
        spawn(world, |w| {
            retire(w, By::Cache, 5, None);
            w.kvfree.barrier_on(&CACHE);
            assert!(w.books.is_free(5), "object 5 was retired before a barrier that is over");
        }),
    ];
    let mine = replace(world, By::Cache, 4);
    world.kvfree.barrier_on(&CACHE);
    assert!(world.books.is_free(mine), "object {mine} was retired before a barrier that is over");
    threads.into_iter().for_each(|t| t.join().unwrap());
    retire(world, By::Cache, world.current.load(SeqCst) as usize, None);
}

#[test]
fn a_barrier_on_a_cache_is_complete() {
    explore(Bug::Nothing, 6, with_worker, one_cache);
    explore(Bug::Nothing, 6, with_workers, one_cache);
    explore(Bug::Nothing, 6, without_worker, one_cache);
}

/// Nobody but the worker frees: it must not sleep for good while something is retired, by whichever door.
fn alone(world: &Arc<World>) {
    let threads = [spawn(world, |w| retire(w, By::Head, 0, None)), spawn(world, |w| retire(w, By::Cache, 1, Some(2)))];
    retire(world, By::Box, 3, None);
    threads.into_iter().for_each(|t| t.join().unwrap());
    world.books.wait_for(4);
    retire(world, By::Head, 4, None);
    world.books.wait_for(5);
}

#[test]
fn the_worker_does_not_sleep_for_good() {
    explore(Bug::Nothing, 5, with_worker, alone);
    explore(Bug::Nothing, 5, with_workers, alone);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_lost_wake_up_is_found() {
    explore(Bug::Deaf, 5, with_worker, alone);
}

/// So many boxes that they pile up behind a reader, for workers alone to drop; whoever has waited for one of them retires another.
fn pile(world: &Arc<World>) {
    let reader = spawn(world, |w| read(w, 0));
    let threads =
        [0, 4, 8].map(|first| spawn(world, move |w| (first..first + 4).for_each(|id| retire(w, By::Box, id, None))));
    threads.into_iter().for_each(|t| t.join().unwrap());
    reader.join().unwrap();
    world.books.wait_for(12);
    retire(world, By::Box, 12, None);
    retire(world, By::Head, 13, None);
    world.books.wait_for(14);
}

#[test]
fn several_workers_free_each_once() {
    static FURTHER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    explore(Bug::Nothing, 14, with_workers, |world| {
        pile(world);
        FURTHER.fetch_add(world.kvfree.stats().further_workers, Relaxed);
    });
    assert!(FURTHER.load(Relaxed) > 100, "{FURTHER:?} further workers");
}

/// The handle goes while its workers are at it.
fn abrupt(world: &Arc<World>) {
    (0..12).for_each(|id| retire(world, By::Box, id, None));
    world.kvfree.flush();
}

#[test]
fn a_handle_goes_beside_busy_workers() {
    explore(Bug::Nothing, 12, with_workers, abrupt);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_handle_that_waits_for_deaf_workers_is_found() {
    explore(Bug::Deaf, 12, with_workers, abrupt);
}

/// Room for one object.
fn waiting() -> Config {
    Config { on_overflow: OnOverflow::Wait, budget: 1 << 14, wait_limit: Duration::MAX, ..with_workers() }
}

fn waiting_without_worker() -> Config {
    Config { workers: false, ..waiting() }
}

/// Retirers that wait for room, behind a reader; afterwards there is room.
fn room(world: &Arc<World>) {
    let threads = [
        spawn(world, |w| (1..6).for_each(|id| _ = replace(w, By::Cache, id))),
        spawn(world, |w| (6..10).for_each(|id| _ = replace(w, By::Cache, id))),
        spawn(world, |w| (0..2).for_each(|_| read(w, 0))),
        spawn(world, |w| {
            assert_eq!(w.kvfree.throttle(), Ok(()));
            retire(w, By::Box, 10, None);
            assert_eq!(w.kvfree.throttle(), Ok(()));
        }),
    ];
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(world.kvfree.throttle(), Ok(()));
    let stats = world.kvfree.stats();
    // What lies in open blocks is not counted; where there is a worker, it may have closed some since.
    assert!(stats.workers > 0 || stats.queued_objects - stats.reclaimed_objects <= 1, "{stats:?}");
    retire(world, By::Cache, world.current.load(SeqCst) as usize, None);
}

#[test]
fn waits_for_room_end() {
    explore(Bug::Nothing, 11, waiting, room);
    explore(Bug::Nothing, 11, waiting_without_worker, room);
}
