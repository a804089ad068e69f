//! The qsbr flavour: its domains as the suite sees them, where a reader is what elsewhere is a guard; and what readers promise.

use crate::flavour::Flavour;
use crate::objects::{Sets, Tally, message, until, watched};
use quietus::qsbr::{DomainReader, Reader, domain, reader};
use quietus::slab::SlabBox;
use quietus::{Domain, Qsbr, Rcu};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// The global qsbr domain.
pub(crate) struct QsbrGlobal(#[allow(dead_code)] MutexGuard<'static, ()>);

impl Flavour for QsbrGlobal {
    type Kind = Qsbr;
    type Guard<'f> = Reader;
    const SHARED: bool = false;
    fn alone() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        domain().barrier();
        QsbrGlobal(turn)
    }
    fn domain(&self) -> &Domain<Qsbr> {
        domain()
    }
    fn pin(&self) -> Reader {
        reader()
    }
    fn repin(reader: &mut Reader) {
        reader.quiescent();
    }
}

/// A qsbr domain of one's own.
pub(crate) struct QsbrPrivate(Domain<Qsbr>);

impl Flavour for QsbrPrivate {
    type Kind = Qsbr;
    type Guard<'f> = DomainReader<'f>;
    const SHARED: bool = false;
    fn alone() -> Self {
        QsbrPrivate(Domain::qsbr())
    }
    fn domain(&self) -> &Domain<Qsbr> {
        &self.0
    }
    fn pin(&self) -> DomainReader<'_> {
        self.0.reader()
    }
    fn repin(reader: &mut DomainReader<'_>) {
        reader.quiescent();
    }
}

/// Whether somebody holds up a grace period that begins now.
pub(crate) fn held(domain: &Domain<Qsbr>) -> bool {
    let cookie = domain.cookie();
    (0..20).all(|_| !cookie.is_elapsed())
}

#[test]
fn a_thread_is_inside_between_quiescent_states() {
    let domain = Domain::qsbr();
    let mut reader = domain.reader();
    for _ in 0..3 {
        let cookie = domain.cookie();
        assert!((0..20).all(|_| !cookie.is_elapsed()), "online, and nothing said");
        reader.quiescent();
        assert!(cookie.is_elapsed(), "it was said");
        assert!(held(&domain), "and is inside again");
    }
    drop(reader);
    assert!(!held(&domain));
}

#[test]
fn offline_holds_nothing_up_and_ends() {
    let domain = Domain::qsbr();
    let mut reader = domain.reader();
    let other = reader.offline(|| {
        assert!(!held(&domain));
        domain.synchronize();
        domain.barrier();
        domain.reader()
    });
    assert!(held(&domain));
    drop(other);
    assert!(held(&domain), "online again");
}

/// Whoever catches the panic still has the reader, and reads under it.
#[test]
fn a_panic_offline_comes_back_online() {
    let domain = Domain::qsbr();
    let mut reader = domain.reader();
    let text = message(catch_unwind(AssertUnwindSafe(|| reader.offline(|| panic!("as the test wants")))).unwrap_err());
    assert_eq!(text, "as the test wants");
    assert!(held(&domain));
    reader.quiescent();
    drop(reader);
    assert!(!held(&domain));
}

#[test]
fn a_reader_that_waits_is_offline_meanwhile() {
    let domain = Domain::qsbr();
    let mut reader = domain.reader();
    let cookie = domain.cookie();
    watched("synchronize of an online thread", || reader.synchronize());
    assert!(cookie.is_elapsed());
    assert!(held(&domain));
    // Another reader of the thread is in the way of both.
    let second = domain.reader();
    let waiting = watched("waiting beside another reader", || catch_unwind(AssertUnwindSafe(|| reader.synchronize())));
    assert!(message(waiting.unwrap_err()).contains("read-side section"));
    drop(second);
    assert!(held(&domain), "online after the panic");
    watched("synchronize once more", || reader.synchronize());
    // Two threads that wait for each other's sections do not hang.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut reader = domain.reader();
                (0..100).for_each(|_| reader.synchronize());
            });
        }
        watched("two waiting readers", || reader.offline(|| domain.synchronize()));
        reader.offline(|| std::thread::sleep(Duration::from_millis(1)));
        drop(reader);
    });
}

/// Readers that were leaked stall, are reported, and do not keep their domain from ending.
#[test]
fn a_leaked_reader_stalls_but_not_the_end() {
    let domain = Domain::qsbr();
    let tally = Tally::new(100);
    std::thread::scope(|scope| {
        let leak = || std::mem::forget(domain.reader());
        std::thread::Builder::new().name("leaks".into()).spawn_scoped(scope, leak).unwrap();
    });
    std::mem::forget(domain.reader());
    let cookie = domain.cookie();
    for id in 0..100 {
        // SAFETY: fresh, known to nobody else.
        unsafe { domain.retire_box(NonNull::from(Box::leak(Box::new(tally.object(id))))) };
    }
    domain.flush();
    // This thread must not wait, being inside; another one may.
    let elapsed = || cookie.wait_timeout(Duration::from_millis(50));
    assert!(!std::thread::scope(|scope| scope.spawn(elapsed).join().unwrap()));
    assert_eq!(tally.dropped(), 0);
    let holdouts = cookie.holdouts();
    assert_eq!(holdouts.len(), 2);
    assert!(holdouts.iter().any(|holdout| holdout.name.as_deref() == Some("leaks")), "{holdouts:?}");
    watched("dropping a domain with leaked readers", || drop(domain));
    tally.each_once();
}

/// Threads that come and go use the same few slots.
#[test]
fn slots_are_used_again() {
    let domain = Domain::qsbr();
    for _ in 0..200 {
        std::thread::scope(|scope| drop(scope.spawn(|| drop((domain.reader(), domain.reader()))).join()));
    }
    assert!(domain.stats().reader_slots <= 4, "{} slots", domain.stats().reader_slots);
    assert_eq!(domain.stats().membarriers, 0, "this flavour needs none");
}

/// Cells of the flavour under load: readers always see a live value, and each value is dropped once.
#[test]
fn cells_under_load() {
    const EACH: usize = 4000;
    const LIVE: u64 = 0x11fe;
    #[derive(Debug)]
    struct Value(AtomicU64, #[allow(dead_code)] crate::objects::Object);
    impl Drop for Value {
        fn drop(&mut self) {
            self.0.store(0xdead, SeqCst);
        }
    }
    let f = QsbrGlobal::alone();
    let tally = Tally::new(2 * EACH + 1);
    let value = |id: usize| SlabBox::new(Value(AtomicU64::new(LIVE), tally.object(id)));
    let cell: Rcu<Value, Qsbr> = Rcu::in_flavour_box(value(2 * EACH));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Sets(&stop);
        for part in 0..3 {
            let (cell, stop) = (&cell, &stop);
            scope.spawn(move || {
                let mut reader = reader();
                for round in 0.. {
                    let seen = cell.load(&reader);
                    for _ in 0..round % 50 {
                        assert_eq!(seen.0.load(SeqCst), LIVE, "a value that is gone");
                    }
                    if stop.load(SeqCst) {
                        break;
                    }
                    match round % 100 {
                        0 if part == 0 => reader.synchronize(),
                        0 => reader.offline(std::thread::yield_now),
                        _ => reader.quiescent(),
                    }
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
    assert!(format!("{cell:?}").contains("Rcu"), "a cell shows itself without a reader at hand");
    drop(cell);
    f.domain().barrier();
    tally.each_once();
    until("nothing is pending", || f.drive(), || f.domain().stats().kvfree.pending_objects == 0);
}
