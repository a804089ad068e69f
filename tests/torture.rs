//! rcutorture's pipe count, through the allocator's memory: readers look at what they hold for as long as they hold it, and must
//! never see it more than one generation dead, changed, poisoned or somebody else's.
//!
//! Objects go by every lane: typed caches, poisoned and not, with a destructor and without, size classes, Boxes; and by hand,
//! after a cookie or a `synchronize`. Threads come and go; there are more of them than CPUs; sections nest; barriers, flushes,
//! shrinks and ticks run all the while. A few seconds; `QUIETUS_TORTURE_SECONDS` says otherwise, for each test.
//!
//! A build with `--cfg quietus_no_grace_periods` must fail here.
#![cfg(not(quietus_loom))]

use quietus::slab::{self, Cache, SlabBox};
use quietus::{Atomic, Domain, DomainGuard, Guard, Section, Shared, pin};
use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, SeqCst},
};
use std::time::{Duration, Instant};

const LIVE: u64 = 0x11fe_11fe_11fe_11fe;
const DEAD: u64 = 0xdead_dead_dead_dead;

/// How long each test runs.
fn duration() -> Duration {
    let seconds = std::env::var("QUIETUS_TORTURE_SECONDS").ok();
    Duration::from_secs_f64(seconds.map_or(1.5, |s| s.parse().expect("QUIETUS_TORTURE_SECONDS: a number of seconds")))
}

struct Random(u64);
impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % n
    }
}

/// What every object begins with. No padding, and nothing that a reader would have to follow.
#[repr(C)]
struct Head {
    canary: AtomicU64,
    /// Generations since it was unlinked: 0 linked, 1 unlinked, 2 a grace period later.
    pipe: AtomicU64,
    id: AtomicU64,
    /// Its id once more, turned round.
    check: AtomicU64,
}

impl Head {
    fn new(id: u64) -> Head {
        Head {
            canary: AtomicU64::new(LIVE),
            pipe: AtomicU64::new(0),
            id: AtomicU64::new(id),
            check: AtomicU64::new(!id),
        }
    }
}

/// Memory only: freed in whole blocks, or by size class.
#[repr(C)]
struct Plain {
    head: Head,
    rest: [u64; 4],
}

/// Counted when it is dropped; marks itself dead, so that whoever still looks sees it.
#[repr(C)]
struct Dropped {
    head: Head,
}

static BORN: AtomicU64 = AtomicU64::new(0);
static GONE: AtomicU64 = AtomicU64::new(0);
static TWICE: AtomicU64 = AtomicU64::new(0);

impl Drop for Dropped {
    fn drop(&mut self) {
        if self.head.canary.swap(DEAD, SeqCst) != LIVE {
            TWICE.fetch_add(1, SeqCst);
        }
        self.head.pipe.store(2, SeqCst);
        GONE.fetch_add(1, SeqCst);
    }
}

/// How the objects of a slot are made, and how they end.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Way {
    Typed,
    Poisoned,
    Class,
    Destructor,
    PoisonedDestructor,
    Boxed,
    /// By hand: after a cookie has elapsed.
    Cookie,
    /// By hand: after `synchronize`.
    Synchronize,
}
const WAYS: [Way; 8] = [
    Way::Typed,
    Way::Poisoned,
    Way::Class,
    Way::Destructor,
    Way::PoisonedDestructor,
    Way::Boxed,
    Way::Cookie,
    Way::Synchronize,
];

/// Which guard readers use.
trait Readers: Sync {
    type Guard<'r>: Section
    where
        Self: 'r;
    fn domain(&self) -> &Domain;
    fn pin(&self) -> Self::Guard<'_>;
}

struct Global;
impl Readers for Global {
    type Guard<'r> = Guard;
    fn domain(&self) -> &Domain {
        Domain::global()
    }
    fn pin(&self) -> Guard {
        pin()
    }
}

struct Private(Domain);
impl Readers for Private {
    type Guard<'r> = DomainGuard<'r>;
    fn domain(&self) -> &Domain {
        &self.0
    }
    fn pin(&self) -> DomainGuard<'_> {
        self.0.pin()
    }
}

struct Torture<'a, R> {
    readers: &'a R,
    links: Vec<(Way, Atomic<Head>)>,
    typed: Cache<Plain>,
    poisoned: Cache<Plain>,
    counted: Cache<Dropped>,
    poisoned_counted: Cache<Dropped>,
    ids: AtomicU64,
    stop: AtomicBool,
    reads: AtomicU64,
    writes: AtomicU64,
    errors: AtomicU64,
}

impl<R: Readers> Torture<'_, R> {
    fn stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    fn error(&self, what: &str, way: Way) {
        if self.errors.fetch_add(1, SeqCst) < 5 {
            eprintln!("torture: {what} ({way:?})");
        }
    }

    /// Looks at an object twice, and in between does what takes time.
    fn look(&self, way: Way, p: *mut Head, dawdle: impl FnOnce()) {
        // SAFETY: the section protects the object: that is what is being tested. All words are atomics, so that even where it
        // fails, and the memory is still mapped, this is a look at some number.
        let head = unsafe { &*p };
        let id = head.id.load(SeqCst);
        let sound = |when: &str| {
            let (canary, pipe) = (head.canary.load(SeqCst), head.pipe.load(SeqCst));
            if canary != LIVE {
                self.error(&format!("canary {canary:#x} {when}"), way);
            } else if pipe > 1 {
                self.error(&format!("{pipe} generations dead {when}"), way);
            } else if head.check.load(SeqCst) != !id || head.id.load(SeqCst) != id {
                self.error(&format!("another object {when}"), way);
            }
        };
        sound("at once");
        dawdle();
        sound("after a while");
        self.reads.fetch_add(1, Relaxed);
    }

    fn reader(&self, seed: u64, sections: u64) {
        let mut random = Random::new(seed);
        for _ in 0..sections {
            if self.stopped() {
                return;
            }
            let (way, link) = &self.links[random.below(self.links.len() as u64) as usize];
            let outer = self.readers.pin();
            // Nested at times, and the outer guard may go first.
            let inner = (random.below(4) == 0).then(|| self.readers.pin());
            let p = link.load(Acquire, inner.as_ref().unwrap_or(&outer)).as_raw();
            let outer = (inner.is_none() || random.below(2) == 0).then_some(outer);
            let how = random.below(400);
            self.look(*way, p, || match how {
                0 => std::thread::sleep(Duration::from_micros(500)),
                1..20 => std::thread::yield_now(),
                20..60 => (0..how * 20).for_each(|_| std::hint::spin_loop()),
                60..120 => drop(self.readers.pin()),
                _ => {}
            });
            drop((outer, inner));
        }
    }

    /// A new object for a slot.
    fn make(&self, way: Way) -> NonNull<Head> {
        let id = self.ids.fetch_add(1, Relaxed);
        let plain = || Plain { head: Head::new(id), rest: [id; 4] };
        let counted = || {
            BORN.fetch_add(1, SeqCst);
            Dropped { head: Head::new(id) }
        };
        match way {
            Way::Typed | Way::Cookie => SlabBox::into_raw(self.typed.alloc(plain())).cast(),
            Way::Poisoned | Way::Synchronize => SlabBox::into_raw(self.poisoned.alloc(plain())).cast(),
            Way::Class => SlabBox::into_raw(SlabBox::new(plain())).cast(),
            Way::Destructor => SlabBox::into_raw(self.counted.alloc(counted())).cast(),
            Way::PoisonedDestructor => SlabBox::into_raw(self.poisoned_counted.alloc(counted())).cast(),
            Way::Boxed => NonNull::from(Box::leak(Box::new(counted()))).cast(),
        }
    }

    /// Ends an object that was just unlinked.
    fn end(&self, way: Way, p: NonNull<Head>) {
        let domain = self.readers.domain();
        // SAFETY: unlinked by this thread alone; readers that still see it only load.
        let pipe = unsafe { &p.as_ref().pipe };
        pipe.store(1, SeqCst);
        // SAFETY: made by `make` in this way, unlinked, ended once.
        unsafe {
            match way {
                Way::Typed => domain.retire_in(&self.typed, p.cast::<Plain>()),
                Way::Poisoned => domain.retire(p.cast::<Plain>()),
                Way::Class => domain.retire_ptr(p.cast()),
                Way::Destructor | Way::PoisonedDestructor => domain.retire(p.cast::<Dropped>()),
                Way::Boxed => domain.retire_box(p.cast::<Dropped>()),
                Way::Cookie => {
                    let cookie = domain.cookie();
                    while !cookie.is_elapsed() {
                        std::thread::yield_now();
                    }
                    pipe.store(2, SeqCst);
                    drop(SlabBox::from_raw(p.cast::<Plain>()));
                }
                Way::Synchronize => {
                    domain.synchronize();
                    pipe.store(2, SeqCst);
                    drop(SlabBox::from_raw(p.cast::<Plain>()));
                }
            }
        }
    }

    fn write(&self, random: &mut Random) {
        let (way, link) = &self.links[random.below(self.links.len() as u64) as usize];
        // SAFETY: it lives until it is unlinked, and a grace period more.
        let new = unsafe { Shared::from_raw(self.make(*way)) };
        let guard = pin();
        // Which guard does not matter: nothing is followed.
        let old = NonNull::new(link.swap(new, AcqRel, &guard).as_raw()).unwrap();
        drop(guard);
        self.end(*way, old);
        self.writes.fetch_add(1, Relaxed);
    }

    /// Replaces objects, at times inside a section.
    fn writer(&self, seed: u64, writes: u64) {
        let mut random = Random::new(seed);
        for _ in 0..writes {
            if self.stopped() {
                return;
            }
            self.write(&mut random);
            if random.below(500) == 0 {
                std::thread::yield_now();
            }
        }
    }

    fn disturb(&self, seed: u64) {
        let mut random = Random::new(seed);
        let domain = self.readers.domain();
        while !self.stopped() {
            match random.below(9) {
                0 => domain.barrier(),
                1 => domain.flush(),
                2 => {
                    domain.tick();
                }
                3 => {
                    self.typed.flush();
                }
                4 => {
                    self.typed.shrink();
                }
                5 => {
                    self.poisoned.shrink();
                }
                6 => {
                    self.counted.shrink();
                }
                7 => {
                    slab::shrink();
                }
                _ => domain.synchronize(),
            }
            std::thread::sleep(Duration::from_micros(random.below(2000)));
        }
    }
}

struct Stop<'a>(&'a AtomicBool);
impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

fn torture(readers: &impl Readers) {
    let mut torture = Torture {
        readers,
        links: Vec::new(),
        typed: Cache::new("torture-typed"),
        poisoned: Cache::builder("torture-poisoned").poison(true).build().unwrap(),
        counted: Cache::new("torture-counted"),
        poisoned_counted: Cache::builder("torture-poisoned-counted").poison(true).build().unwrap(),
        ids: AtomicU64::new(1),
        stop: AtomicBool::new(false),
        reads: AtomicU64::new(0),
        writes: AtomicU64::new(0),
        errors: AtomicU64::new(0),
    };
    let (born, gone) = (BORN.load(SeqCst), GONE.load(SeqCst));
    for way in WAYS.into_iter().cycle().take(16) {
        // SAFETY: it lives until it is unlinked, and a grace period more.
        let link = Atomic::new(unsafe { Shared::from_raw(torture.make(way)) });
        torture.links.push((way, link));
    }
    let t = &torture;
    std::thread::scope(|scope| {
        let _stop = Stop(&t.stop);
        for seed in 1..=4 {
            scope.spawn(move || t.reader(seed, u64::MAX));
        }
        for seed in 5..=7 {
            scope.spawn(move || t.writer(seed, u64::MAX));
        }
        scope.spawn(move || t.disturb(8));
        // Threads that come and go.
        let end = Instant::now() + duration();
        let mut seed = 100;
        // As long as it was asked for, and until enough was done; whoever runs the tests ends it if it never is.
        let few = || t.reads.load(Relaxed) <= 1000 || t.writes.load(Relaxed) <= 200;
        while (Instant::now() < end || few()) && t.errors.load(Relaxed) == 0 {
            seed += 2;
            std::thread::scope(|brief| {
                brief.spawn(|| t.reader(seed, 30));
                brief.spawn(|| t.writer(seed + 1, 30));
            });
        }
    });
    for (way, link) in &torture.links {
        let guard = pin();
        let last = NonNull::new(link.swap(Shared::null(), AcqRel, &guard).as_raw()).unwrap();
        drop(guard);
        torture.end(*way, last);
    }
    readers.domain().barrier();
    let (reads, writes, errors) = (t.reads.load(SeqCst), t.writes.load(SeqCst), t.errors.load(SeqCst));
    assert_eq!(errors, 0, "of {reads} reads beside {writes} writes");
    let s = readers.domain().stats().kvfree;
    assert_eq!((s.pending_objects, s.pending_bytes, s.leaked, s.panics), (0, 0, 0, 0));
    for cache in [t.typed.stats(), t.poisoned.stats(), t.counted.stats(), t.poisoned_counted.stats()] {
        assert_eq!((cache.live, cache.refused), (0, 0), "{cache:?}");
    }
    assert_eq!(TWICE.load(SeqCst), 0, "values were dropped twice");
    assert_eq!(GONE.load(SeqCst) - gone, BORN.load(SeqCst) - born, "values were not dropped");
    eprintln!("torture: {reads} reads, {writes} writes, {} grace periods", readers.domain().stats().grace_periods);
}

/// One test at a time: they count the same things.
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[test]
fn global() {
    let _turn = TURN.lock().unwrap_or_else(|p| p.into_inner());
    torture(&Global);
}

#[test]
fn private() {
    let _turn = TURN.lock().unwrap_or_else(|p| p.into_inner());
    torture(&Private(Domain::new()));
}

/// A small budget and a short age: retirers help, blocks are closed half-full.
#[test]
fn private_in_need() {
    let _turn = TURN.lock().unwrap_or_else(|p| p.into_inner());
    let domain = Domain::builder().budget(16 << 10).age_limit(Duration::from_millis(1)).reserve(0).build();
    torture(&Private(domain));
}

/// Every object is dropped exactly once, whichever thread retires it and however soon that ends: a counter for each.
#[test]
fn each_object_is_dropped_once_under_thread_churn() {
    struct Counted<'a>(&'a AtomicU8);
    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    let _turn = TURN.lock().unwrap_or_else(|p| p.into_inner());
    const THREADS: usize = 400;
    const EACH: usize = 250;
    let counters: Vec<AtomicU8> = (0..THREADS * EACH).map(|_| AtomicU8::new(0)).collect();
    let cache: Cache<Counted> = Cache::new("churn");
    let domain = Domain::new();
    for (round, part) in counters.chunks(8 * EACH).enumerate() {
        std::thread::scope(|scope| {
            for (thread, mine) in part.chunks(EACH).enumerate() {
                let (cache, domain) = (&cache, &domain);
                scope.spawn(move || {
                    for (i, counter) in mine.iter().enumerate() {
                        let guard = (i % 5 == 0).then(|| domain.pin());
                        // SAFETY: fresh, known to nobody else; the counters outlive the barrier below.
                        unsafe {
                            match i % 3 {
                                0 => domain.retire(SlabBox::into_raw(cache.alloc(Counted(counter)))),
                                1 => domain.retire(SlabBox::into_raw(SlabBox::new(Counted(counter)))),
                                _ => domain.retire_box(NonNull::from(Box::leak(Box::new(Counted(counter))))),
                            }
                        }
                        drop(guard);
                    }
                    if thread == 0 && round % 4 == 0 {
                        domain.barrier();
                        cache.shrink();
                    }
                });
            }
        });
    }
    domain.barrier();
    for (id, counter) in counters.iter().enumerate() {
        assert_eq!(counter.load(SeqCst), 1, "drops of object {id}");
    }
    assert_eq!(cache.stats().live, 0);
}
