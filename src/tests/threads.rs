//! Threads that come and go, with guards in every place a guard can be kept.

use super::completes;
use crate::engine_ref::EngineRef;
use crate::local::GLOBAL;
use crate::memb::{DomainGuard, Guard, pin};
use crate::synchronize;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[test]
fn ten_thousand_short_threads_share_slots() {
    let engine = EngineRef::private();
    for _ in 0..2500 {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    drop(DomainGuard::pin(&engine));
                    drop(pin());
                });
            }
        });
    }
    let slots = engine.counts().slots;
    // A scope may end before the thread's destructors have run, so a few more than four may be in use together.
    assert!(slots <= 64, "{slots} slots for 4 threads at a time");
    // The test harness runs other tests beside this one.
    assert!(GLOBAL.counts().slots <= 256);
    assert!(completes(&engine));
}

#[test]
fn a_leaked_guard_stalls_and_is_reported() {
    let engine = EngineRef::private();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("leaker".into());
        let body = || std::mem::forget(DomainGuard::pin(&engine));
        thread.spawn_scoped(scope, body).unwrap().join().unwrap();
    });
    // Give the thread's destructors the time to run.
    let cookie = engine.start();
    let exited = || engine.holdouts(cookie).first().is_some_and(|holdout| holdout.exited);
    while !exited() {
        std::thread::yield_now();
    }
    assert!(!engine.advance(cookie));
    let holdout = &engine.holdouts(cookie)[0];
    assert_eq!(holdout.name.as_deref(), Some("leaker"));
    assert!(holdout.since < cookie);
    assert_ne!(holdout.thread, 0);
    // Its slot is never given to anybody else.
    std::thread::scope(|scope| scope.spawn(|| drop(DomainGuard::pin(&engine))).join().unwrap());
    assert_eq!(engine.counts().slots, 2);
    assert!(!completes(&engine));
}

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// A guard kept in a thread-local; its destructor checks that it still protects.
struct Keep(Option<Guard>);

impl Drop for Keep {
    fn drop(&mut self) {
        if self.0.is_some() {
            assert!(EngineRef::Global.inside());
            assert!(!GLOBAL.advance(GLOBAL.start()), "a guard is alive");
            // Pinning in a destructor nests, whether or not the library's own thread-locals are gone.
            let inner = pin();
            drop(self.0.take());
            assert!(!GLOBAL.advance(GLOBAL.start()), "the inner guard is alive");
            drop(inner);
        }
        assert!(!EngineRef::Global.inside());
        // And here nothing is left of the thread's registration, perhaps.
        let outer = pin();
        let inner = pin();
        drop(outer);
        assert!(!GLOBAL.advance(GLOBAL.start()), "the inner guard is alive");
        drop(inner);
        synchronize();
        DROPPED.fetch_add(1, Relaxed);
    }
}

thread_local! {
    static KEEP: RefCell<Keep> = const { RefCell::new(Keep(None)) };
}

#[test]
fn a_guard_in_another_thread_local_may_outlive_ours() {
    let count = 100;
    for round in 0..count {
        std::thread::spawn(move || {
            // Destructors run in the reverse order of first use, or in that order; either way one round has it early.
            if round % 2 == 0 {
                drop(pin());
            }
            KEEP.with(|keep| {
                let mut keep = keep.borrow_mut();
                keep.0 = Some(pin());
            });
        })
        .join()
        .unwrap();
    }
    while DROPPED.load(Relaxed) < count {
        std::thread::yield_now();
    }
    synchronize();
    assert!(GLOBAL.counts().slots <= 256);
}

#[test]
fn a_private_engine_can_be_pinned_in_a_destructor() {
    static DONE: AtomicU64 = AtomicU64::new(0);
    struct Late(Option<EngineRef>);
    impl Drop for Late {
        fn drop(&mut self) {
            let engine = self.0.take().unwrap();
            let outer = DomainGuard::pin(&engine);
            let inner = DomainGuard::pin(&engine);
            assert!(engine.inside());
            drop(outer);
            assert!(!completes(&engine));
            drop(inner);
            assert!(!engine.inside());
            engine.synchronize();
            DONE.fetch_add(1, Relaxed);
        }
    }
    thread_local!(static LATE: RefCell<Option<Late>> = const { RefCell::new(None) });
    let engine = EngineRef::private();
    for round in 0..50 {
        let engine = engine.clone();
        std::thread::spawn(move || {
            if round % 2 == 0 {
                drop(DomainGuard::pin(&engine));
            }
            LATE.with(|late| *late.borrow_mut() = Some(Late(Some(engine.clone()))));
            drop(DomainGuard::pin(&engine));
        })
        .join()
        .unwrap();
    }
    while DONE.load(Relaxed) < 50 {
        std::thread::yield_now();
    }
    assert!(completes(&engine));
    assert!(engine.counts().slots <= 8, "{} slots", engine.counts().slots);
}

#[test]
fn an_engine_may_go_before_its_threads() {
    let (send, receive) = std::sync::mpsc::channel::<EngineRef>();
    let thread = std::thread::spawn(move || {
        for engine in receive {
            drop(DomainGuard::pin(&engine));
        }
    });
    for _ in 0..1000 {
        send.send(EngineRef::private()).unwrap();
    }
    drop(send);
    thread.join().unwrap();
}

#[test]
fn many_threads_wait_together() {
    let engine = EngineRef::private();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..200 {
                    drop(DomainGuard::pin(&engine));
                    engine.synchronize();
                }
            });
        }
    });
    let counts = engine.counts();
    assert!(counts.grace_periods <= 1600, "{counts:?}");
    assert!(counts.membarriers <= counts.grace_periods, "{counts:?}");
    assert_eq!(counts.refusals, 0);
    assert!(counts.p50 <= counts.p99);
}
