//! One thread's guards: order, swaps, repinning, waiting inside a section.

use super::completes;
use crate::engine_ref::EngineRef;
use crate::memb::{DomainGuard, pin};
use crate::wait::InsideSection;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

#[test]
fn dropping_the_outer_guard_leaves_the_inner_one_in_force() {
    let engine = EngineRef::private();
    let outer = DomainGuard::pin(&engine);
    let inner = DomainGuard::pin(&engine);
    drop(outer);
    assert!(!completes(&engine));
    drop(inner);
    assert!(completes(&engine));
}

#[test]
fn the_last_of_many_guards_counts_in_whatever_order_they_go() {
    for seed in 0..50_usize {
        let engine = EngineRef::private();
        let mut guards: Vec<_> = (0..5).map(|_| DomainGuard::pin(&engine)).collect();
        let mut at = seed;
        while !guards.is_empty() {
            assert!(!completes(&engine));
            at = at * 31 + 7;
            drop(guards.swap_remove(at % guards.len()));
        }
        assert!(completes(&engine));
        assert!(!engine.inside());
    }
}

#[test]
fn swapped_guards_protect() {
    let engine = EngineRef::private();
    let mut first = DomainGuard::pin(&engine);
    {
        let mut second = DomainGuard::pin(&engine);
        std::mem::swap(&mut first, &mut second);
    }
    assert!(!completes(&engine));
    drop(first);
    assert!(completes(&engine));
}

#[test]
fn repin_beside_another_guard_does_nothing() {
    let engine = EngineRef::private();
    let first = DomainGuard::pin(&engine);
    let mut second = DomainGuard::pin(&engine);
    let cookie = engine.start();
    second.repin();
    assert!(!engine.advance(cookie));
    drop(first);
    second.repin();
    assert!(engine.advance(cookie));
    assert!(!completes(&engine));
}

#[test]
fn a_pending_grace_period_completes_when_its_readers_go() {
    let engine = EngineRef::private();
    let guard = DomainGuard::pin(&engine);
    let first = engine.start();
    assert!(!engine.advance(first));
    let second = engine.start();
    assert!(!engine.advance(second));
    drop(guard);
    assert!(!engine.elapsed(first), "nobody has looked yet");
    assert!(engine.advance(first));
    assert!(engine.advance(second));
    let counts = engine.counts();
    assert_eq!(counts.grace_periods, 2, "one for the first cookie, one for the second");
}

#[test]
fn cookies_share_grace_periods() {
    let engine = EngineRef::private();
    let cookies: Vec<u64> = (0..100).map(|_| engine.start()).collect();
    assert!(engine.advance(cookies[0]));
    assert!(cookies.iter().all(|&cookie| engine.elapsed(cookie)));
    assert_eq!(engine.counts().grace_periods, 1);
    #[cfg(not(quietus_no_grace_periods))]
    assert!(!engine.elapsed(engine.start()));
}

#[test]
fn waiting_inside_ones_own_section_panics() {
    let engine = EngineRef::private();
    let guard = DomainGuard::pin(&engine);
    assert!(engine.inside());
    assert_eq!(engine.try_wait_until(engine.start(), None), Err(InsideSection));
    let panic = catch_unwind(AssertUnwindSafe(|| engine.synchronize())).unwrap_err();
    assert!(panic.downcast_ref::<String>().unwrap().contains("inside one's own read-side section"));
    // Another engine's section is none of its business.
    let other = EngineRef::private();
    assert_eq!(other.try_wait_until(other.start(), None), Ok(true));
    drop(guard);
    assert!(!engine.inside());
    engine.synchronize();
}

#[test]
fn waiting_inside_a_global_section_panics() {
    let guard = pin();
    assert!(EngineRef::Global.inside());
    assert_eq!(EngineRef::Global.try_wait_until(EngineRef::Global.start(), None), Err(InsideSection));
    catch_unwind(crate::synchronize).unwrap_err();
    drop(guard);
    crate::synchronize();
}

#[test]
fn a_wait_can_be_given_up() {
    let engine = EngineRef::private();
    std::thread::scope(|scope| {
        let (entered, wait) = std::sync::mpsc::channel();
        let (leave, left) = std::sync::mpsc::channel::<()>();
        let borrowed = &engine;
        scope.spawn(move || {
            let _guard = DomainGuard::pin(borrowed);
            entered.send(()).unwrap();
            let _ = left.recv();
        });
        wait.recv().unwrap();
        let (cookie, started) = (engine.start(), Instant::now());
        assert_eq!(engine.try_wait_until(cookie, Some(started + Duration::from_millis(20))), Ok(false));
        assert!(started.elapsed() >= Duration::from_millis(20));
        assert_eq!(engine.holdouts(cookie).len(), 1);
        leave.send(()).unwrap();
        assert_eq!(engine.try_wait_until(cookie, None), Ok(true));
        assert!(engine.holdouts(cookie).is_empty());
    });
}

#[test]
fn engines_do_not_wait_for_each_other() {
    let (first, second) = (EngineRef::private(), EngineRef::private());
    let guard = DomainGuard::pin(&first);
    assert!(completes(&second));
    let nested = DomainGuard::pin(&second);
    assert!(!completes(&second));
    assert!(!completes(&first));
    drop(guard);
    assert!(completes(&first));
    drop(nested);
    assert!(completes(&second));
}

#[test]
fn engines_come_and_go() {
    let kept = EngineRef::private();
    for _ in 0..1000 {
        let engine = EngineRef::private();
        let guard = DomainGuard::pin(&engine);
        let other = DomainGuard::pin(&kept);
        assert!(!completes(&engine));
        assert!(!completes(&kept));
        drop((guard, other));
        assert!(completes(&engine));
    }
    assert!(completes(&kept));
    assert_eq!(kept.counts().slots, 1);
}
