//! Bits (Q), lists (U), and sweeps of both: nothing is lost, nothing is freed before its own grace period, the worker does not sleep
//! beside it.

use crate::deferred::Mark;
use crate::grace::GracePeriods;
use crate::head::{Callback, RcuHead};
use crate::planted::{Bug, Word};
use crate::shared::Shared;
use crate::sync::{
    AtomicBool,
    Ordering::{AcqRel, Acquire, Release},
    Plant,
};
use crate::world::{AtOnce, Gp, explore, pointer, world};
use loom::thread;
use quietus::model::{Engine, Link, StandIn, cpu, interrupt};
use std::ptr::NonNull;
use std::sync::Arc;

/// What the models drive: kvfree's code, or the copy in which steps may change places.
pub(crate) trait Sweeper<G>: Send + Sync + 'static {
    fn gp(&self) -> &G;
    /// Retires an object, which is not touched any more.
    fn retire(&self, number: usize);
    /// A worker's sweep.
    fn sweep(&self);
    /// A barrier's.
    fn sweep_all(&self);
    fn pending(&self) -> bool;
}

/// kvfree's code: `Shared` with the real sweep, and how objects are retired.
struct Real<G> {
    shared: Arc<Shared<G>>,
    by: By,
    nodes: [Node; 3],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Bit,
    Head,
}

/// An object's head, and the number that its callback frees.
#[repr(C)]
struct Node {
    head: RcuHead,
    number: usize,
}

static FREE: Callback = Callback::new(free, 16);

unsafe fn free(head: NonNull<RcuHead>) {
    // SAFETY: queued as the head of a Node, which lives until the end of its execution.
    world().free(unsafe { head.cast::<Node>().as_ref() }.number);
}

fn real<G: GracePeriods>(by: By) -> impl Fn(G) -> Real<G> + Send + Sync + 'static {
    move |gp| Real {
        shared: Shared::new(gp),
        by,
        nodes: std::array::from_fn(|number| Node { head: RcuHead::new(), number }),
    }
}

impl<G: GracePeriods> Sweeper<G> for Real<G> {
    fn gp(&self) -> &G {
        &self.shared.gp
    }
    /// `resort`'s steps: the bit, or the head.
    fn retire(&self, number: usize) {
        let overflow = &self.shared.overflow;
        if self.by == By::Bit {
            // SAFETY: addresses stand for objects, each retired once.
            assert_eq!(unsafe { overflow.deferred.mark(pointer(number)) }, Mark::Done);
        } else {
            // SAFETY: each is queued once, and lives until the end of its execution.
            unsafe { overflow.linked.push(NonNull::from(&self.nodes[number].head), &FREE) };
        }
    }
    fn sweep(&self) {
        self.shared.sweep(None);
    }
    fn sweep_all(&self) {
        self.shared.sweep_all(thread::yield_now);
    }
    fn pending(&self) -> bool {
        self.shared.overflow.pending()
    }
}

// ── nothing is lost ──

/// Two retirers, a worker's sweep and a barrier's. What was retired before the barrier is free when it ends; nothing is lost; the
/// retirer's last store to the object is before its free.
fn nothing_is_lost<S: Sweeper<AtOnce>>(bug: Plant, make: impl Fn(AtOnce) -> S + Send + Sync + 'static) {
    explore(StandIn::Sc, 0, 2, bug, move || {
        let sweeper = Arc::new(make(AtOnce::new()));
        let other = {
            let sweeper = sweeper.clone();
            thread::spawn(move || {
                world().objects[0].write(5);
                sweeper.retire(0);
            })
        };
        let worker = {
            let sweeper = sweeper.clone();
            thread::spawn(move || sweeper.sweep())
        };
        world().objects[1].write(5);
        sweeper.retire(1);
        sweeper.sweep_all();
        assert!(world().is_freed(1), "a barrier has missed what was retired before it");
        other.join().unwrap();
        worker.join().unwrap();
        sweeper.sweep_all();
        assert!(world().is_freed(0), "an object is lost");
        assert!(!sweeper.pending(), "nothing is left, and something pending");
    });
}

#[test]
fn no_bit_is_lost() {
    nothing_is_lost(Plant::Nothing, real(By::Bit));
    nothing_is_lost(Plant::Nothing, Word::with(Bug::Nothing));
}

/// A barrier beside sweeps that take sets and leave them, because nobody but the barrier waits for grace periods.
#[test]
fn a_barrier_waits_for_its_set() {
    nothing_is_lost(Plant::Nothing, |_| real(By::Bit)(AtOnce::when_waited_for()));
    nothing_is_lost(Plant::Nothing, |_| real(By::Head)(AtOnce::when_waited_for()));
}

#[test]
#[should_panic(expected = "a barrier has missed")]
fn a_barrier_that_does_not_wait_is_found() {
    struct Hasty<S>(S);
    impl<S: Sweeper<AtOnce>> Sweeper<AtOnce> for Hasty<S> {
        fn gp(&self) -> &AtOnce {
            self.0.gp()
        }
        fn retire(&self, number: usize) {
            self.0.retire(number);
        }
        fn sweep(&self) {
            self.0.sweep();
        }
        /// `sweep_all` without the number of the set that has everything.
        fn sweep_all(&self) {
            self.0.sweep();
        }
        fn pending(&self) -> bool {
            self.0.pending()
        }
    }
    nothing_is_lost(Plant::Nothing, |_| Hasty(real(By::Bit)(AtOnce::when_waited_for())));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn setting_bits_relaxed_is_found() {
    nothing_is_lost(Plant::BitsRelaxed, real(By::Bit));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn taking_bits_relaxed_is_found() {
    nothing_is_lost(Plant::TakeBitsRelaxed, real(By::Bit));
}

#[test]
#[should_panic(expected = "an object is lost")]
fn dirty_before_the_bit_is_found() {
    nothing_is_lost(Plant::Nothing, Word::with(Bug::DirtyFirst));
}

#[test]
#[should_panic(expected = "an object is lost")]
fn taking_bits_before_dirty_is_found() {
    nothing_is_lost(Plant::Nothing, Word::with(Bug::BitsFirst));
}

#[test]
#[should_panic(expected = "a barrier has missed")]
fn passes_side_by_side_are_found() {
    nothing_is_lost(Plant::Nothing, Word::with(Bug::NotSerialised));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn touching_the_object_after_its_bit_is_found() {
    nothing_is_lost(Plant::Nothing, Word::with(Bug::TouchedAfterBit));
}

#[test]
fn no_head_is_lost() {
    nothing_is_lost(Plant::Nothing, real(By::Head));
}

#[test]
#[should_panic(expected = "before it was queued")]
fn pushing_relaxed_is_found() {
    nothing_is_lost(Plant::PushRelaxed, real(By::Head));
}

#[test]
#[should_panic(expected = "before it was queued")]
fn taking_a_list_relaxed_is_found() {
    nothing_is_lost(Plant::TakeListRelaxed, real(By::Head));
}

// ── a segment in another's place ──

/// Object 2 has the bit of object 0, in a segment that took the place of its segment as soon as 0 was free, while the retirer of 0
/// may still be at the mark that follows its bit.
fn a_segment_is_replaced<S: Sweeper<AtOnce>>(make: impl Fn(AtOnce) -> S + Send + Sync + 'static) {
    explore(StandIn::Sc, 0, 3, Plant::Nothing, move || {
        let sweeper = Arc::new(make(AtOnce::new()));
        let other = {
            let sweeper = sweeper.clone();
            thread::spawn(move || sweeper.retire(0))
        };
        sweeper.retire(1);
        sweeper.sweep_all();
        if !world().is_freed(0) {
            return other.join().unwrap();
        }
        let again = {
            let sweeper = sweeper.clone();
            thread::spawn(move || sweeper.retire(2))
        };
        sweeper.sweep();
        again.join().unwrap();
        sweeper.sweep_all();
        assert!(world().is_freed(2), "an object is lost");
        other.join().unwrap();
        sweeper.sweep_all();
    });
}

#[test]
fn bits_go_with_their_segments_address() {
    a_segment_is_replaced(real(By::Bit));
    a_segment_is_replaced(Word::with(Bug::Nothing));
}

#[test]
#[should_panic(expected = "freed twice")]
fn the_address_after_the_bit_is_found() {
    a_segment_is_replaced(Word::with(Bug::AddressLate));
}

// ── its own grace period ──

/// A reader, a retirer and a sweep, beside a set that waits already: what is retired meanwhile waits for a cookie of its own.
fn nothing_is_early<S: Sweeper<Gp>>(stand_in: StandIn, early: bool, make: impl Fn(Gp) -> S + Send + Sync + 'static) {
    explore(stand_in, 3, 2, Plant::Nothing, move || {
        let engine = Engine::new();
        let sweeper = Arc::new(make(Gp::new(&engine)));
        let link = Link::new(Some(&world().objects[0]));
        sweeper.retire(1);
        sweeper.gp().hold(true);
        sweeper.sweep();
        sweeper.gp().hold(false);
        let reader = {
            let (slot, link) = (engine.slot(), link.clone());
            thread::spawn(move || {
                cpu(0, || {
                    let guard = slot.enter();
                    link.follow(&guard);
                })
            })
        };
        let retirer = {
            let (sweeper, link) = (sweeper.clone(), link.clone());
            thread::spawn(move || {
                cpu(1, || {
                    link.publish(None);
                    sweeper.retire(0);
                    interrupt();
                })
            })
        };
        cpu(2, || {
            if early {
                sweeper.gp().cookies_from_now();
            }
            sweeper.sweep();
        });
        retirer.join().unwrap();
        reader.join().unwrap();
        sweeper.sweep_all();
        assert!(world().is_freed(0) && world().is_freed(1), "an object is lost");
    });
}

#[test]
fn bits_wait_for_their_own_cookie() {
    for stand_in in [StandIn::Sc, StandIn::Ipi] {
        nothing_is_early(stand_in, false, real(By::Bit));
        nothing_is_early(stand_in, false, Word::with(Bug::Nothing));
    }
}

#[test]
fn heads_wait_for_their_own_cookie() {
    for stand_in in [StandIn::Sc, StandIn::Ipi] {
        nothing_is_early(stand_in, false, real(By::Head));
    }
}

/// The bugs that the two above have to find, with either stand-in.
macro_rules! early {
    ($($name:ident: $stand_in:ident, $early:literal, $make:expr;)*) => {$(
        #[test]
        #[should_panic(expected = "Causality violation")]
        fn $name() {
            nothing_is_early(StandIn::$stand_in, $early, $make);
        }
    )*};
}

early! {
    a_cookie_before_bits_are_taken_is_found_sc: Sc, true, real(By::Bit);
    a_cookie_before_bits_are_taken_is_found_ipi: Ipi, true, real(By::Bit);
    a_cookie_before_lists_are_taken_is_found_sc: Sc, true, real(By::Head);
    a_cookie_before_lists_are_taken_is_found_ipi: Ipi, true, real(By::Head);
    merging_into_a_waiting_set_is_found_sc: Sc, false, Word::with(Bug::Merged);
    merging_into_a_waiting_set_is_found_ipi: Ipi, false, Word::with(Bug::Merged);
}

// ── the bell ──

/// What is retired without a block rings; the worker, before it sleeps for good, takes the bell back and then looks (`worker::round`).
fn bell(by: By, look_first: bool) {
    explore(StandIn::Sc, 0, 3, Plant::Nothing, move || {
        let sweeper = Arc::new(real(by)(AtOnce::new()));
        let (armed, woken) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let retirer = {
            let (sweeper, armed, woken) = (sweeper.clone(), armed.clone(), woken.clone());
            thread::spawn(move || {
                sweeper.retire(0);
                if !armed.swap(true, AcqRel) {
                    woken.store(true, Release);
                }
            })
        };
        sweeper.sweep();
        let early = look_first.then(|| sweeper.pending());
        armed.swap(false, AcqRel);
        let sleeps = !early.unwrap_or_else(|| sweeper.pending());
        retirer.join().unwrap();
        let asleep = sleeps && !woken.load(Acquire);
        assert!(!asleep || world().is_freed(0), "the worker sleeps for good beside what is retired");
    });
}

#[test]
fn the_worker_sees_what_has_no_block_or_is_woken() {
    bell(By::Bit, false);
    bell(By::Head, false);
}

#[test]
#[should_panic(expected = "sleeps for good")]
fn looking_before_silencing_is_found() {
    bell(By::Bit, true);
}
