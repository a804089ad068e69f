//! `qsbr::local`: what hooks of an executor may rely on.

use crate::flavour::Flavour;
use crate::objects::{Tally, until, watched};
use crate::qsbr::{QsbrGlobal, held};
use quietus::qsbr::{self, local};
use quietus::{Qsbr, Rcu};
use std::cell::Cell;
use std::panic::catch_unwind;
use std::sync::LazyLock;

/// Each test on a thread of its own: the test harness may reuse its threads.
fn on_a_thread(body: impl FnOnce() + Send) {
    std::thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn a_thread_starts_parked_and_comes_online_for_a_closure() {
    let _alone = QsbrGlobal::alone();
    on_a_thread(|| {
        local::with(|_| assert!(held(qsbr::domain()), "online for its duration"));
        assert!(!held(qsbr::domain()), "and then not");
        local::with(|_| {
            local::with(|_| assert!(held(qsbr::domain())));
            assert!(held(qsbr::domain()), "the outer one goes on");
        });
        assert!(!held(qsbr::domain()));
        qsbr::domain().synchronize();
    });
}

#[test]
fn between_unpark_and_park_it_is_online() {
    let _alone = QsbrGlobal::alone();
    on_a_thread(|| {
        for _ in 0..3 {
            local::unpark().unwrap();
            local::unpark().unwrap();
            let cookie = qsbr::domain().cookie();
            assert!((0..20).all(|_| !cookie.is_elapsed()));
            local::with(|_| ());
            assert!((0..20).all(|_| !cookie.is_elapsed()), "a closure that ends does not take it offline");
            local::quiescent().unwrap();
            assert!(cookie.is_elapsed());
            assert!(held(qsbr::domain()), "and is inside again");
            local::park().unwrap();
            local::park().unwrap();
            assert!(!held(qsbr::domain()));
            local::quiescent().unwrap();
            assert!(!held(qsbr::domain()), "a quiescent state does not bring a parked thread online");
            qsbr::domain().synchronize();
        }
    });
}

/// A hook that is called in the middle of a closure changes nothing, and says so: what the closure has loaded stays.
#[test]
fn hooks_refuse_while_something_is_borrowed() {
    let _alone = QsbrGlobal::alone();
    on_a_thread(|| {
        for unparked in [false, true] {
            if unparked {
                local::unpark().unwrap();
            }
            let tally = Tally::new(2);
            let cell: Rcu<_, Qsbr> = Rcu::in_flavour(tally.object(0));
            local::with(|reader| {
                let seen = cell.load(reader);
                drop(cell.replace(tally.object(1)));
                qsbr::domain().flush();
                let cookie = qsbr::domain().cookie();
                local::with(|_| assert_eq!(local::park(), Err(local::Busy)));
                assert_eq!(local::quiescent(), Err(local::Busy));
                assert_eq!(local::park(), Err(local::Busy));
                assert_eq!(local::unpark(), Err(local::Busy));
                assert_eq!(local::offline(|| unreachable!("not run")), Err::<(), _>(local::Busy));
                for _ in 0..50 {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                    assert!(!cookie.is_elapsed());
                }
                assert_eq!((tally.dropped(), seen.id), (0, 0), "freed under a closure");
            });
            local::park().unwrap();
            drop(cell);
            qsbr::domain().barrier();
            tally.each_once();
        }
    });
}

#[test]
fn a_panic_leaves_nothing_borrowed() {
    let _alone = QsbrGlobal::alone();
    on_a_thread(|| {
        assert!(catch_unwind(|| local::with(|_| panic!("as the test wants"))).is_err());
        assert_eq!(local::quiescent(), Ok(()));
        assert!(!held(qsbr::domain()));
        local::unpark().unwrap();
        assert!(catch_unwind(|| local::offline(|| panic!("as the test wants"))).is_err());
        assert!(held(qsbr::domain()), "online again after the panic");
        assert_eq!(local::offline(|| qsbr::domain().barrier()), Ok(()));
        assert!(held(qsbr::domain()));
        let waits = || catch_unwind(|| qsbr::domain().synchronize());
        assert!(watched("waiting while online", waits).is_err());
    });
}

#[test]
fn threads_that_end_give_their_slot_back() {
    let _alone = QsbrGlobal::alone();
    on_a_thread(|| local::with(|_| ()));
    let before = qsbr::domain().stats().reader_slots;
    for _ in 0..200 {
        on_a_thread(|| {
            local::unpark().unwrap();
            local::with(|_| ());
        });
    }
    assert!(!held(qsbr::domain()), "threads that ended online");
    let slots = qsbr::domain().stats().reader_slots;
    assert!(slots <= before + 2, "{before} slots, then {slots}");
}

/// Destructors of other thread-locals, before and after ours has gone.
#[test]
fn thread_locals_that_are_destroyed_may_read() {
    thread_local! {
        static FIRST: Late = const { Late(Cell::new(None)) };
        static LAST: Late = const { Late(Cell::new(None)) };
    }
    struct Late(Cell<Option<&'static Rcu<u64, Qsbr>>>);
    impl Drop for Late {
        fn drop(&mut self) {
            let cell = self.0.get().unwrap();
            let read = local::with(|reader| {
                assert_eq!(local::park(), Err(local::Busy));
                assert!(held(qsbr::domain()));
                *cell.load(reader)
            });
            assert_eq!(read, 7);
            local::unpark().unwrap();
            local::quiescent().unwrap();
        }
    }
    let _alone = QsbrGlobal::alone();
    static CELL: LazyLock<Rcu<u64, Qsbr>> = LazyLock::new(|| Rcu::in_flavour(7));
    let cell: &'static Rcu<u64, Qsbr> = &CELL;
    // A thread joins only after its thread-locals; a panic in their destructors would end the process.
    std::thread::spawn(move || {
        FIRST.with(|late| late.0.set(Some(cell)));
        local::with(|_| ());
        LAST.with(|late| late.0.set(Some(cell)));
    })
    .join()
    .unwrap();
    until("nothing of it is left", || (), || !held(qsbr::domain()));
}
