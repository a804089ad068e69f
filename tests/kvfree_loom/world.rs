//! One execution's objects, pages and source of grace periods.

use crate::grace::{Cookie, GracePeriods};
use crate::sync::{Plant, plant};
use quietus::model::{self, Engine, Object, StandIn};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// What lies at which address. The third has the number, the offset and so the bit of the first, in a segment that took its place.
pub(crate) const ADDRESSES: [usize; 3] = [0x1_0000, 0x1_0010, 0x2_0000];

pub(crate) struct World {
    pub(crate) objects: [Arc<Object>; 3],
    freed: RefCell<Vec<usize>>,
    /// Pages in the supply.
    pub(crate) pages: Cell<u32>,
    /// A refill is between its begin and the clearing of its flag.
    pub(crate) filling: Cell<bool>,
}

thread_local! {
    // loom runs all threads of a model on the thread of the test.
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

pub(crate) fn world() -> Rc<World> {
    WORLD.with(|world| world.borrow().clone()).expect("within explore")
}

impl World {
    fn new() -> Self {
        World {
            objects: [Object::new(), Object::new(), Object::new()],
            freed: RefCell::default(),
            pages: Cell::new(0),
            filling: Cell::new(false),
        }
    }
    /// Frees the object with this number, which loom forbids beside any access to it that is not ordered before.
    pub(crate) fn free(&self, number: usize) {
        assert!(!self.freed.borrow().contains(&number), "object {number} is freed twice");
        self.freed.borrow_mut().push(number);
        self.objects[number].free();
    }
    pub(crate) fn is_freed(&self, number: usize) -> bool {
        self.freed.borrow().contains(&number)
    }
}

/// The address of an object, and back.
pub(crate) fn pointer(number: usize) -> *mut u8 {
    std::ptr::without_provenance_mut(ADDRESSES[number])
}

pub(crate) fn number(p: *mut u8) -> usize {
    ADDRESSES.iter().position(|&a| a == p.addr()).expect("an address that nobody has retired")
}

/// Runs a model with a bug in every interleaving with at most `bound` preemptions.
pub(crate) fn explore(
    stand_in: StandIn,
    cpus: usize,
    bound: usize,
    bug: Plant,
    run: impl Fn() + Send + Sync + 'static,
) {
    plant(bug);
    model::check(stand_in, cpus, Some(bound), move || {
        // What a failed execution left behind must not be dropped outside of it.
        std::mem::forget(WORLD.replace(Some(Rc::new(World::new()))));
        run();
        WORLD.take();
    });
}

/// The engine as kvfree's source of grace periods. With `early`, every cookie is that one: as if taken before what it is to cover. While
/// it is held, no grace period ends.
pub(crate) struct Gp {
    engine: Engine,
    held: AtomicBool,
    early: AtomicU64,
}

impl Gp {
    pub(crate) fn new(engine: &Engine) -> Gp {
        Gp { engine: engine.clone(), held: AtomicBool::new(false), early: AtomicU64::new(0) }
    }
    pub(crate) fn cookies_from_now(&self) {
        self.early.store(self.engine.start(), Relaxed);
    }
    pub(crate) fn hold(&self, held: bool) {
        self.held.store(held, Relaxed);
    }
}

// SAFETY: (1) to (5) the engine's, whose models are tests/ordering_loom.rs; broken if a twin says so.
unsafe impl GracePeriods for Gp {
    fn start(&self) -> Cookie {
        let early = self.early.load(Relaxed);
        Cookie(if early != 0 { early } else { self.engine.start() })
    }
    fn poll(&self, cookie: Cookie) -> bool {
        !self.held.load(Relaxed) && self.engine.elapsed(cookie.0)
    }
    fn advance(&self, cookie: Cookie) -> bool {
        !self.held.load(Relaxed) && self.engine.advance(cookie.0)
    }
    fn synchronize(&self, cookie: Cookie) {
        while !self.engine.advance(cookie.0) {
            model::interrupt();
            loom::thread::yield_now();
        }
    }
}

/// Grace periods that end at once, or as soon as somebody waits for them: where only losses matter.
pub(crate) struct AtOnce {
    now: AtomicU64,
    completed: AtomicU64,
}

impl AtOnce {
    pub(crate) fn new() -> Self {
        AtOnce { now: AtomicU64::new(1), completed: AtomicU64::new(u64::MAX) }
    }
    pub(crate) fn when_waited_for() -> Self {
        AtOnce { now: AtomicU64::new(1), completed: AtomicU64::new(0) }
    }
}

// SAFETY: (1) to (5) there are no sections.
unsafe impl GracePeriods for AtOnce {
    fn start(&self) -> Cookie {
        Cookie(self.now.fetch_add(1, Relaxed) + 1)
    }
    fn poll(&self, cookie: Cookie) -> bool {
        self.completed.load(Relaxed) >= cookie.0
    }
    fn synchronize(&self, cookie: Cookie) {
        self.completed.fetch_max(cookie.0, Relaxed);
    }
}
