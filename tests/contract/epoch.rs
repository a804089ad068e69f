//! The epoch flavour: its domains as the suite sees them, and what they promise to those who use crossbeam-epoch beside them.

use crate::flavour::Flavour;
use crate::objects::{Object, Sets, Tally, message, until, watched};
use quietus::epoch::crossbeam_epoch::{self, Collector};
use quietus::epoch::{DomainGuard, Guard, domain, pin};
use quietus::slab::{self, SlabBox};
use quietus::{Domain, Epoch, Rcu};
use std::alloc::Layout;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// The global epoch domain, over the default collector.
pub(crate) struct EpochGlobal(#[allow(dead_code)] MutexGuard<'static, ()>);

impl Flavour for EpochGlobal {
    type Kind = Epoch;
    type Guard<'f> = Guard;
    const EXACT: bool = false;
    fn alone() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        domain().barrier();
        EpochGlobal(turn)
    }
    fn domain(&self) -> &Domain<Epoch> {
        domain()
    }
    fn pin(&self) -> Guard {
        pin()
    }
    fn repin(guard: &mut Guard) {
        guard.repin();
    }
}

/// A domain over a collector of one's own.
pub(crate) struct EpochPrivate(Domain<Epoch>);

impl Flavour for EpochPrivate {
    type Kind = Epoch;
    type Guard<'f> = DomainGuard<'f>;
    const EXACT: bool = false;
    fn alone() -> Self {
        EpochPrivate(Domain::epoch(&Collector::new()))
    }
    fn domain(&self) -> &Domain<Epoch> {
        &self.0
    }
    fn pin(&self) -> DomainGuard<'_> {
        self.0.guard()
    }
    fn repin(guard: &mut DomainGuard<'_>) {
        guard.repin();
    }
}

/// The same without threads: `tick` does the work.
pub(crate) struct EpochTicked(Domain<Epoch>);

impl Flavour for EpochTicked {
    type Kind = Epoch;
    type Guard<'f> = DomainGuard<'f>;
    const EXACT: bool = false;
    fn alone() -> Self {
        EpochTicked(Domain::builder().workers(false).build_epoch(&Collector::new()))
    }
    fn domain(&self) -> &Domain<Epoch> {
        &self.0
    }
    fn pin(&self) -> DomainGuard<'_> {
        self.0.guard()
    }
    fn repin(guard: &mut DomainGuard<'_>) {
        guard.repin();
    }
    fn drive(&self) {
        self.0.tick();
    }
}

fn retire(domain: &Domain<Epoch>, object: Object) {
    // SAFETY: fresh, known to nobody else.
    unsafe { domain.retire(SlabBox::into_raw(SlabBox::new(object))) }
}

/// Whoever pins the collector by itself, knowing nothing of us, is a reader like any other.
#[test]
fn readers_of_the_collector_are_protected() {
    let _alone = EpochGlobal::alone();
    let collector = Collector::new();
    let own = Domain::epoch(&collector);
    for (domain, handle) in [(&own, collector.register()), (domain(), crossbeam_epoch::default_collector().register())]
    {
        let tally = Tally::new(100);
        let guard = handle.pin();
        (0..100).for_each(|id| retire(domain, tally.object(id)));
        domain.flush();
        let cookie = domain.cookie();
        for _ in 0..50 {
            std::thread::sleep(Duration::from_millis(1));
            assert!(!cookie.is_elapsed());
        }
        assert_eq!(tally.dropped(), 0, "freed under a guard of the collector");
        drop(guard);
        domain.barrier();
        tally.each_once();
    }
}

/// A function that is under way completes the number that was current when it was deferred, and no later one. Each round opens
/// its section at another epoch of the function's way.
#[test]
fn later_cookies_wait_for_later_functions() {
    let mut beside = 0;
    for round in 0..4 {
        let collector = Collector::new();
        let domain = Domain::builder().workers(false).build_epoch(&collector);
        let mut blocker = collector.register().pin();
        let first = domain.cookie();
        assert!((0..5).all(|_| !first.is_elapsed()), "deferred, and held up");
        for _ in 0..round {
            blocker = collector.register().pin();
            for _ in 0..5 {
                first.is_elapsed();
            }
        }
        let section = domain.guard();
        let second = domain.cookie();
        drop(blocker);
        beside += u32::from((0..50).any(|_| first.is_elapsed()));
        assert!((0..50).all(|_| !second.is_elapsed()), "its section is open");
        drop(section);
        until("both elapse", || (), || first.is_elapsed() && second.is_elapsed());
    }
    assert!(beside > 0, "the first never elapsed beside the later section: this shows nothing");
}

#[test]
fn only_guards_of_the_collector_are_accepted() {
    let (ours, theirs) = (Collector::new(), Collector::new());
    let (first, second) = (Domain::epoch(&ours), Domain::epoch(&theirs));
    let (a, b, usual) = (ours.register().pin(), theirs.register().pin(), crossbeam_epoch::pin());
    assert!(first.accept(&a).is_some() && second.accept(&b).is_some() && Guard::from_crossbeam(&usual).is_some());
    assert!(first.accept(&b).is_none() && first.accept(&usual).is_none());
    assert!(second.accept(&a).is_none() && Guard::from_crossbeam(&a).is_none());
    // SAFETY: nothing is read or deferred through it.
    let none = unsafe { crossbeam_epoch::unprotected() };
    assert!(first.accept(none).is_none() && Guard::from_crossbeam(none).is_none());
    let cookie = first.cookie();
    assert_eq!(first.accept(&a).unwrap().as_crossbeam().collector(), Some(&ours));
    assert_eq!(pin().as_crossbeam().collector(), Some(crossbeam_epoch::default_collector()));
    drop((b, usual));
    assert!(!cookie.is_elapsed());
    drop(a);
    second.barrier();
    first.barrier();
}

/// Two domains over one collector know of each other's guards; a guard of crossbeam's own on the default one is seen, too.
#[test]
fn waiting_for_oneself_panics_whoever_has_pinned() {
    let _alone = EpochGlobal::alone();
    let collector = Collector::new();
    let (first, second) = (Domain::epoch(&collector), Domain::epoch(&collector));
    let panics = |domain: &Domain<Epoch>| {
        let wait = || catch_unwind(AssertUnwindSafe(|| domain.synchronize()));
        let text = message(watched("waiting for oneself", wait).expect_err("no panic"));
        assert!(text.contains("read-side section"), "{text}");
    };
    let guard = first.guard();
    panics(&first);
    panics(&second);
    drop(guard);
    second.synchronize();
    let guard = crossbeam_epoch::pin();
    panics(domain());
    drop(guard);
    domain().synchronize();
}

/// What others defer to the collector may use the domain, though not wait; and may panic.
#[test]
fn functions_that_others_defer_stop_nothing() {
    let collector = Collector::new();
    let domain: &'static Domain<Epoch> = Box::leak(Box::new(Domain::epoch(&collector)));
    let said = Arc::new(Mutex::new(Vec::new()));
    let tally = Tally::new(1000);
    let handle = collector.register();
    // Until it goes, none of them runs; then none is left to this handle, which nobody could tell from another's.
    let guard = handle.pin();
    for _ in 0..20 {
        let say = Arc::clone(&said);
        guard.defer(move || {
            let waits = catch_unwind(AssertUnwindSafe(|| domain.synchronize()));
            say.lock().unwrap().push(waits.map_err(message));
            drop(domain.guard()); // which may run another of these, and panic
        });
        guard.defer(|| panic!("as the test wants"));
        guard.flush();
    }
    drop(guard);
    std::mem::forget(handle);
    for id in 0..1000 {
        retire(domain, tally.object(id));
        if id % 50 == 49 {
            watched("a barrier beside what others have deferred", || domain.barrier());
        }
    }
    tally.each_once();
    until("all have run", || domain.synchronize(), || said.lock().unwrap().len() == 20);
    for result in said.lock().unwrap().iter() {
        assert!(result.as_ref().unwrap_err().contains("read-side section"), "{result:?}");
    }
}

/// Nobody waits, nobody asks: the domain's threads do it. And nothing that others have deferred runs on a thread that retires.
#[test]
fn retiring_runs_nothing_for_others() {
    let collector = Collector::new();
    let domain = Domain::builder().budget(64 << 10).build_epoch(&collector);
    let ran = Arc::new(Mutex::new(Vec::new()));
    {
        let handle = collector.register();
        let guard = handle.pin();
        for _ in 0..500 {
            let ran = Arc::clone(&ran);
            guard.defer(move || ran.lock().unwrap().push(std::thread::current().id()));
        }
        guard.flush();
        // A handle that goes may run them, too; it must not be this thread.
        std::mem::forget(handle);
    }
    let before = domain.stats().grace_periods;
    let layout = Layout::from_size_align(512, 16).unwrap();
    until(
        "they have run, and grace periods have passed",
        // SAFETY: fresh, known to nobody else.
        || (0..1000).for_each(|_| unsafe { domain.retire_ptr(slab::alloc(layout).unwrap()) }),
        || ran.lock().unwrap().len() == 500 && domain.stats().grace_periods > before + 3,
    );
    let me = std::thread::current().id();
    assert!(ran.lock().unwrap().iter().all(|&thread| thread != me), "on a thread that only retired");
    until(
        "all is reclaimed without anybody who waits",
        || std::thread::sleep(Duration::from_millis(1)),
        || domain.stats().kvfree.pending_objects == 0,
    );
}

/// A guard that is leaked stalls. Its own thread can end the domain, and then leaks what is pending.
#[test]
fn a_leaked_guard_frees_nothing() {
    let domain = Domain::epoch(&Collector::new());
    let tally = Tally::new(100);
    std::mem::forget(domain.guard());
    (0..100).for_each(|id| retire(&domain, tally.object(id)));
    let cookie = domain.cookie();
    domain.flush();
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(1));
        assert!(!cookie.is_elapsed());
    }
    watched("dropping a domain inside its section", || drop(domain));
    assert_eq!(tally.dropped(), 0);
}

/// Domains that end drop everything, and their threads end; threads may outlive them.
#[test]
fn many_domains_come_and_go() {
    for i in 0..50 {
        let collector = Collector::new();
        let domain = Domain::builder().workers(i % 2 == 0).build_epoch(&collector);
        let tally = Tally::new(20);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _guard = domain.guard();
                (0..10).for_each(|id| retire(&domain, tally.object(id)));
            });
        });
        let guard = domain.guard();
        (10..20).for_each(|id| retire(&domain, tally.object(id)));
        drop(guard);
        drop(domain);
        tally.each_once();
    }
    // Tests that run beside this one have a few of their own.
    #[cfg(target_os = "linux")]
    until("their threads have ended", || std::thread::sleep(Duration::from_millis(1)), || drivers() < 20);
}

#[cfg(target_os = "linux")]
fn drivers() -> usize {
    let names = std::fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| task.path().join("comm"));
    names.filter(|name| std::fs::read_to_string(name).is_ok_and(|name| name.starts_with("quietus-epoch"))).count()
}

#[test]
fn cells_under_load() {
    const EACH: usize = 3000;
    const LIVE: u64 = 0x11fe;
    struct Value(AtomicU64, #[allow(dead_code)] Object);
    impl Drop for Value {
        fn drop(&mut self) {
            self.0.store(0xdead, SeqCst);
        }
    }
    let _alone = EpochGlobal::alone();
    let tally = Tally::new(2 * EACH + 1);
    let value = |id: usize| SlabBox::new(Value(AtomicU64::new(LIVE), tally.object(id)));
    let cell: Rcu<Value, Epoch> = Rcu::in_flavour_box(value(2 * EACH));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Sets(&stop);
        for part in 0..3 {
            let (cell, stop) = (&cell, &stop);
            scope.spawn(move || {
                while !stop.load(SeqCst) {
                    let (ours, theirs);
                    let guard = if part == 0 {
                        theirs = crossbeam_epoch::pin();
                        Guard::from_crossbeam(&theirs).unwrap()
                    } else {
                        ours = pin();
                        &ours
                    };
                    let seen = cell.load(guard);
                    (0..20).for_each(|_| assert_eq!(seen.0.load(SeqCst), LIVE, "a value that is gone"));
                }
            });
        }
        let writers: Vec<_> = (0..2)
            .map(|part| {
                let (cell, value) = (&cell, &value);
                scope.spawn(move || {
                    for i in 0..EACH {
                        let old = cell.replace_box(value(part * EACH + i));
                        match i % 100 {
                            0 => drop(old.wait()),
                            1..10 => drop(old.try_reclaim()),
                            _ => drop(old),
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
    });
    drop(cell);
    domain().barrier();
    tally.each_once();
}
