//! rcutorture's pipe: one element is current; whoever replaces it sends the old one through a pipe of [`LEN`] stages, a grace period each,
//! before it is used again. Readers look how far the element has come that they hold: further than the first stage, and a grace period
//! has ended that should have waited for them.
//!
//! `crowd`'s readers [`look`](Pipe::look), a thread of its own [`turn`]s, `figures` prints both rows of numbers.
//!
//! # Ordering
//! The index of the current element is swapped with AcqRel and loaded with Acquire. Stages are Relaxed: they are what is being tested.

use std::mem::offset_of;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use std::time::Duration;

use quietus::Domain;
use quietus::kvfree::{Callback, RcuHead};

use super::flavours::Flavour;
use super::random::Random;
use super::tally::{self, Count, Wrong};
use super::watch::Beat;
use super::world::World;

/// Stages (`RCU_TORTURE_PIPE_LEN`).
pub(super) const LEN: usize = 10;
const ELEMENTS: usize = 200;
/// The stage of an element that waits for its use.
const FREE: u64 = u64::MAX;

struct Element {
    stage: AtomicU64,
    /// How often it has been current: a long section must not meet it again.
    turn: AtomicU64,
    rcu: RcuHead,
}

/// The elements of a leg.
pub(super) struct Pipe {
    elements: [Element; ELEMENTS],
    current: AtomicUsize,
    /// Those whose callback has run, and which have further to go.
    due: Mutex<Vec<usize>>,
    /// How far readers have found the element they held.
    seen: [AtomicU64; LEN + 1],
    /// How many elements have come how far.
    reached: [AtomicU64; LEN + 1],
}

/// That of a leg.
pub(super) static PIPE: Pipe = Pipe {
    elements: [const { Element { stage: AtomicU64::new(FREE), turn: AtomicU64::new(0), rcu: RcuHead::new() } };
        ELEMENTS],
    current: AtomicUsize::new(0),
    due: Mutex::new(Vec::new()),
    seen: [const { AtomicU64::new(0) }; LEN + 1],
    reached: [const { AtomicU64::new(0) }; LEN + 1],
};

/// How grace periods are waited for.
#[derive(Debug, Clone, Copy)]
enum Way {
    Synchronize,
    TrySynchronize,
    Poll,
    Wait,
    Timeout,
    Defer,
    CallHead,
}

const WAYS: [Way; 7] =
    [Way::Synchronize, Way::TrySynchronize, Way::Poll, Way::Wait, Way::Timeout, Way::Defer, Way::CallHead];

impl Pipe {
    /// A reader's look, in a section: holds the current element for a while.
    pub(super) fn look(&self, dawdle: impl FnOnce()) {
        // Acquire: with the swap in `replace`.
        let element = &self.elements[self.current.load(Acquire)];
        let turn = element.turn.load(Relaxed);
        dawdle();
        let stage = element.stage.load(Relaxed);
        self.seen[(stage as usize).min(LEN)].fetch_add(1, Relaxed);
        if stage > 1 {
            let stage = if stage == FREE { "free".to_owned() } else { stage.to_string() };
            tally::fail(Wrong::Pipe, format_args!("a reader holds an element at stage {stage}"));
        } else if element.turn.load(Relaxed) != turn {
            tally::fail(Wrong::Pipe, "a reader holds an element that is used again");
        }
    }

    /// Makes a free element the current one. Which was it before? None if all are on their way.
    fn replace(&self) -> Option<usize> {
        let free = |element: &Element| element.stage.load(Relaxed) == FREE;
        let new = self.elements.iter().position(free)?;
        self.elements[new].turn.fetch_add(1, Relaxed);
        self.elements[new].stage.store(0, Relaxed);
        self.reached[0].fetch_add(1, Relaxed);
        // AcqRel: with the load in `look`.
        let old = self.current.swap(new, AcqRel);
        // The first of all is its own predecessor.
        (old != new).then_some(old)
    }

    /// There is a current element from here on.
    pub(super) fn begin(&self) {
        // Relaxed: nobody else is there yet.
        if self.elements[self.current.load(Relaxed)].stage.load(Relaxed) == FREE {
            self.replace();
        }
    }

    /// It has come a stage further. Has it further to go?
    fn age(&self, at: usize) -> bool {
        let stage = self.elements[at].stage.load(Relaxed) + 1;
        self.reached[(stage as usize).min(LEN)].fetch_add(1, Relaxed);
        tally::add(Count::Aged, 1);
        let further = stage < LEN as u64;
        self.elements[at].stage.store(if further { stage } else { FREE }, Relaxed);
        further
    }

    /// A callback has run.
    fn aged_by_callback(&self, at: usize) {
        if self.age(at) {
            self.due.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(at);
        }
    }

    fn take_due(&self) -> Vec<usize> {
        std::mem::take(&mut *self.due.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// Both rows: how far readers have found elements, and how many have come how far.
    pub(super) fn rows(&self) -> (Vec<u64>, Vec<u64>) {
        let row = |counts: &[AtomicU64]| counts.iter().map(|n| n.load(Relaxed)).collect();
        (row(&self.seen), row(&self.reached))
    }

    /// Callbacks that a domain has lost on its way out would leave elements behind: which have neither come back nor are current?
    pub(super) fn audit(&self) -> Option<String> {
        self.take_due().into_iter().for_each(|at| while self.age(at) {});
        let away = |element: &&Element| !matches!(element.stage.load(Relaxed), 0 | FREE);
        let away = self.elements.iter().filter(away).count();
        (away > 0).then(|| format!("{away} elements of the pipe never came back from a callback"))
    }
}

/// The thread that replaces elements and sends them through the pipe, in every way there is to wait.
pub(super) fn turn<F: Flavour>(world: &World<'_, F>, beat: &Beat, mut random: Random) {
    let mut removed = Vec::new();
    loop {
        let old = PIPE.replace();
        let aged = old.is_none_or(|old| PIPE.age(old));
        debug_assert!(aged, "the pipe has more than one stage");
        match *random.pick(&WAYS) {
            Way::Defer => old.into_iter().for_each(|at| defer(world.domain, at)),
            Way::CallHead => old.into_iter().for_each(|at| call_head(world.domain, at)),
            way => {
                removed.extend(old);
                beat.begin("a grace period of the pipe");
                wait(world, way);
                // Every element that was removed before has waited.
                removed.retain(|&at| PIPE.age(at));
            }
        }
        for at in PIPE.take_due() {
            if random.one_in(2) { defer(world.domain, at) } else { call_head(world.domain, at) }
        }
        beat.begin("the pipe");
        if world.stopped() {
            break;
        }
    }
    // The rest has nobody to wait for it: a grace period for each stage.
    while !removed.is_empty() {
        beat.begin("the last grace periods of the pipe");
        world.domain.synchronize();
        removed.retain(|&at| PIPE.age(at));
    }
}

fn wait<F: Flavour>(world: &World<'_, F>, way: Way) {
    let cookie = world.domain.cookie();
    match way {
        Way::Poll => {
            while !cookie.is_elapsed() {
                std::thread::yield_now();
            }
        }
        Way::Wait => cookie.wait(),
        Way::Timeout => {
            while !cookie.wait_timeout(Duration::from_micros(200)) {
                tally::add(Count::Timeouts, 1);
            }
        }
        Way::TrySynchronize => {
            if world.domain.try_synchronize().is_err() {
                tally::fail(Wrong::Inside, "a thread outside sections was refused to wait");
                cookie.wait();
            }
        }
        Way::Synchronize | Way::Defer | Way::CallHead => world.domain.synchronize(),
    }
}

fn defer<F: Flavour>(domain: &Domain<F>, at: usize) {
    domain.defer(move || PIPE.aged_by_callback(at));
}

fn call_head<F: Flavour>(domain: &Domain<F>, at: usize) {
    static AGE: Callback = Callback::new(age_by_head, size_of::<Element>());
    // SAFETY: (1) the elements are statics; one is queued again only after its callback has run.
    unsafe { domain.call_head(NonNull::from(&PIPE.elements[at].rcu), &AGE) };
}

/// The callback of `call_head`: which element it is, its address says.
unsafe fn age_by_head(rcu: NonNull<RcuHead>) {
    let base = PIPE.elements.as_ptr().addr() + offset_of!(Element, rcu);
    PIPE.aged_by_callback((rcu.as_ptr().addr() - base) / size_of::<Element>());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_goes_through_all_stages() {
        PIPE.begin();
        PIPE.begin();
        let first = PIPE.replace().expect("the first");
        PIPE.look(|| ());
        for stage in 1..LEN {
            assert!(PIPE.age(first));
            assert_eq!(PIPE.elements[first].stage.load(Relaxed), stage as u64);
        }
        assert!(PIPE.audit().is_some_and(|lost| lost.starts_with("1 element")), "on its way");
        assert!(!PIPE.age(first), "through");
        assert_eq!(PIPE.audit(), None);
        let (seen, reached) = PIPE.rows();
        assert_eq!((seen[0], reached[0], reached[1], reached[LEN]), (1, 2, 1, 1));
        // SAFETY: it only looks at the address.
        unsafe { age_by_head(NonNull::from(&PIPE.elements[PIPE.current.load(Relaxed)].rcu)) };
        assert_eq!(PIPE.take_due(), [PIPE.current.load(Relaxed)]);
    }
}
