//! What the threads of one phase share: a domain, links to objects, and the word to stop.
//!
//! `leg` makes one for each phase; `crowd` and the checks work in it; `watch` sees to it that they do.
//!
//! # Ordering
//! A link is swapped with AcqRel and loaded with Acquire, so that an object's words come with the pointer. The word to stop is
//! Relaxed: joining the threads orders what they did.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use std::sync::{Mutex, MutexGuard};
use std::thread::{self, Scope};

use quietus::Domain;

use super::doors::{Door, House};
use super::flavours::Flavour;
use super::object::Head;
use super::random::Random;
use super::tally::{self, Wrong};
use super::watch::{Beat, Beats};
use crate::args::Fault;
use crate::crew;

/// Links for each door.
const LINKS: usize = 2;
/// The owner of objects that stand in no link.
pub(super) const NOBODY: u64 = u64::MAX;

/// Where readers find an object, and the door through which it will end.
pub(super) struct Link {
    pub(super) door: Door,
    object: AtomicPtr<Head>,
}

impl Link {
    /// What stands there. Only to be followed in a section of the domain.
    pub(super) fn load(&self) -> Option<NonNull<Head>> {
        // Acquire: with the swap below: the object's words.
        NonNull::new(self.object.load(Acquire))
    }

    /// Puts another there, and returns the one before, which this thread alone has unlinked.
    pub(super) fn swap(&self, new: *mut Head) -> Option<NonNull<Head>> {
        // AcqRel: with the load above, and with the swap by which the old one came here.
        NonNull::new(self.object.swap(new, AcqRel))
    }
}

/// A phase.
pub(super) struct World<'d, F: Flavour> {
    pub(super) domain: &'d Domain<F>,
    pub(super) house: House,
    pub(super) links: Vec<Link>,
    pub(super) seed: u64,
    pub(super) faults: &'d [Fault],
    /// Readers so far, for seeds and names.
    threads: AtomicU64,
    stop: AtomicBool,
    /// Who stalls and who floods take turns.
    turn: Mutex<()>,
    pub(super) beats: Beats,
}

impl<'d, F: Flavour> World<'d, F> {
    /// A world with an object in each link.
    pub(super) fn new(domain: &'d Domain<F>, seed: u64, faults: &'d [Fault]) -> Self {
        let doors = Door::ALL.iter().copied().cycle().take(LINKS * Door::ALL.len());
        let world = World {
            domain,
            house: House::new(),
            links: doors.map(|door| Link { door, object: AtomicPtr::new(ptr::null_mut()) }).collect(),
            seed,
            faults,
            threads: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            turn: Mutex::new(()),
            beats: Beats::default(),
        };
        for (owner, link) in world.links.iter().enumerate() {
            if let Some(object) = world.house.make(link.door, owner as u64) {
                link.swap(object.as_ptr());
            }
        }
        world
    }

    /// Whether this fault was asked for.
    pub(super) fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    /// Whether to come to an end.
    pub(super) fn stopped(&self) -> bool {
        // Relaxed: see the module.
        self.stop.load(Relaxed) || tally::hopeless()
    }

    /// Everybody is to come to an end.
    pub(super) fn stop(&self) {
        // Relaxed: see the module.
        self.stop.store(true, Relaxed);
    }

    /// Those who come from here on work, after others have come to an end.
    pub(super) fn go_on(&self) {
        // Relaxed: see the module.
        self.stop.store(false, Relaxed);
    }

    /// A turn to do what nobody else may do just then.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Chance for a thread.
    pub(super) fn random(&self) -> Random {
        // Relaxed: a number of one's own.
        Random::new(self.seed, self.threads.fetch_add(1, Relaxed))
    }

    /// Looks at an object that was found in this link.
    pub(super) fn look(&self, owner: usize, object: NonNull<Head>, id: u64, when: &str) {
        // SAFETY: the section protects the object: that is what is being tested. All of it is atomics.
        if let Err(seen) = unsafe { object.as_ref() }.look(owner as u64, id) {
            let door = self.links[owner].door.name();
            tally::fail(Wrong::Early, format_args!("a reader saw {seen:?} {when} ({door}, object {id})"));
        }
    }

    /// Starts a thread of this world. A panic in it is a failure.
    pub(super) fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        name: &str,
        work: impl FnOnce(&'scope Self, &Beat, Random) + Send + 'scope,
    ) {
        let (random, beat) = (self.random(), self.beats.add(name));
        crew::start(scope, name, move || {
            let done = catch_unwind(AssertUnwindSafe(|| work(self, &beat, random)));
            beat.end();
            if let Err(payload) = done {
                tally::fail(Wrong::Panic, format_args!("{}: {}", thread_name(), said(&*payload)));
            }
        });
    }
}

fn thread_name() -> String {
    thread::current().name().unwrap_or("a thread").to_owned()
}

/// What a panic said.
fn said(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("it did not say why")
}
