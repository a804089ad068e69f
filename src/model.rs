//! What a loom model of the engine needs: the two stand-ins for the asymmetric fence, and the engine's own functions
//! behind a few public names. Exists under `--cfg quietus_loom` only; tests/ordering_loom.rs uses it.
//!
//! # The stand-ins
//!
//! [`StandIn::Sc`] fences on both sides: the fenced mode, as it is. [`StandIn::Ipi`] has nothing on the readers' side.
//! A heavy fence asks each other thread of the model, and waits until each has answered; a thread answers at one of its
//! interrupt points, which lie between any two steps of a section, so loom tries every place the kernel's interrupt
//! could arrive at. A thread that has ended has answered. That is all that `membarrier(2)` promises, and it is less than
//! a fence on both sides: loads may still be satisfied out of order anywhere but at that point.

use crate::atomic::{Atomic, Shared};
use crate::engine::Left;
use crate::registry::Slot;
use crate::section::{Section, sealed::Sealed};
use crate::sync::{AtomicU64, Ordering, fence, thread_number};
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

pub use loom::cell::UnsafeCell;
pub use loom::thread;

/// Which of the two takes the place of the asymmetric fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandIn {
    /// `fence(SeqCst)` on both sides.
    Sc,
    /// Nothing, against a handshake.
    Ipi,
}

/// One thread as a target of heavy fences.
struct Cpu {
    asked: AtomicU64,
    answered: AtomicU64,
    /// The last request that this thread has answered; only it looks.
    seen: Cell<u64>,
}

struct World {
    stand_in: StandIn,
    cpus: Vec<Cpu>,
}

thread_local! {
    // loom runs all threads of a model on one thread of the operating system: this is the model's, not a thread's.
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

loom::thread_local! {
    static ME: Cell<usize> = Cell::new(usize::MAX);
}

fn world() -> Rc<World> {
    WORLD.with(|world| world.borrow().clone()).expect("within check")
}

/// Runs `model` under loom, with `cpus` threads that heavy fences reach, in every interleaving with at most `bound`
/// preemptions. Returns how many there were.
pub fn check(stand_in: StandIn, cpus: usize, bound: Option<usize>, model: impl Fn() + Sync + Send + 'static) -> u64 {
    let count = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = bound;
    builder.max_branches = 20_000;
    let counter = count.clone();
    builder.check(move || {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let cpu = || Cpu { asked: AtomicU64::new(0), answered: AtomicU64::new(0), seen: Cell::new(0) };
        let world = Rc::new(World { stand_in, cpus: (0..cpus).map(|_| cpu()).collect() });
        // What a failed execution left behind must not be dropped outside of it.
        std::mem::forget(WORLD.replace(Some(world)));
        model();
        WORLD.take();
    });
    count.load(std::sync::atomic::Ordering::Relaxed)
}

/// Runs `f` as the thread `id` of the model: until it returns, heavy fences of the other threads wait for its answer.
pub fn cpu<R>(id: usize, f: impl FnOnce() -> R) -> R {
    ME.with(|me| me.set(id));
    let result = f();
    let world = world();
    if world.stand_in == StandIn::Ipi {
        // Release: pairs with the load in heavy; a thread that is switched out for good has executed a full fence.
        world.cpus[id].answered.store(u64::MAX, Ordering::Release);
    }
    result
}

/// An interrupt point: a heavy fence's request may be answered here.
pub fn interrupt() {
    let id = ME.with(Cell::get);
    let world = world();
    if world.stand_in != StandIn::Ipi || id >= world.cpus.len() {
        return;
    }
    let cpu = &world.cpus[id];
    // Acquire: pairs with the request in heavy: what follows sees what the driver did before.
    let asked = cpu.asked.load(Ordering::Acquire);
    if asked > cpu.seen.get() {
        cpu.seen.set(asked);
        // Release: pairs with the load in heavy: the driver sees what came before.
        cpu.answered.store(asked, Ordering::Release);
    }
}

pub(crate) fn light() {
    if world().stand_in == StandIn::Sc {
        // SeqCst: pairs with the fence in heavy (B).
        fence(Ordering::SeqCst);
    }
}

pub(crate) fn heavy() -> bool {
    let world = world();
    if world.stand_in == StandIn::Sc {
        // SeqCst: pairs with the fence in light (B).
        fence(Ordering::SeqCst);
        return true;
    }
    let id = ME.with(Cell::get);
    for target in world.cpus.iter().enumerate().filter(|&(other, _)| other != id).map(|(_, cpu)| cpu) {
        // AcqRel: pairs with the load in interrupt (B).
        let request = target.asked.fetch_add(1, Ordering::AcqRel) + 1;
        // Acquire: pairs with the stores in interrupt and cpu (B).
        while target.answered.load(Ordering::Acquire) < request {
            interrupt();
            thread::yield_now();
        }
    }
    true
}

pub(crate) fn latch() {}

/// The engine, shared by the model's threads.
#[derive(Clone)]
pub struct Engine(Arc<crate::engine::Engine>);

#[allow(missing_docs)]
impl Engine {
    pub fn new() -> Engine {
        Engine(Arc::new(crate::engine::Engine::new()))
    }

    /// An engine whose readers come online; its fences are real ones, with either stand-in.
    pub fn qsbr() -> Engine {
        Engine(Arc::new(crate::engine::Engine::qsbr()))
    }

    /// A slot claimed for a thread that is not the caller; a model does this before it spawns that thread.
    pub fn slot(&self) -> Reader {
        Reader { slot: self.0.claim(u64::MAX, None), engine: self.clone() }
    }

    /// A slot claimed by the calling thread, as registration does.
    pub fn register(&self) -> Reader {
        Reader { slot: self.0.claim(thread_number(), None), engine: self.clone() }
    }

    pub fn start(&self) -> u64 {
        self.0.start()
    }

    pub fn elapsed(&self, cookie: u64) -> bool {
        self.0.elapsed(cookie)
    }

    pub fn advance(&self, want: u64) -> bool {
        self.0.advance(want)
    }
}

impl Default for Engine {
    fn default() -> Self {
        Engine::new()
    }
}

/// One thread's slot.
pub struct Reader {
    engine: Engine,
    slot: *const Slot,
}

// SAFETY: a slot is Sync, and lives as long as the engine beside it.
unsafe impl Send for Reader {}

#[allow(missing_docs)]
impl Reader {
    fn slot(&self) -> &Slot {
        // SAFETY: slots live as long as their engine.
        unsafe { &*self.slot }
    }

    pub fn enter(&self) -> Guard<'_> {
        interrupt();
        self.engine.0.enter(self.slot());
        Guard { reader: self }
    }

    /// The entry that the asymmetric fast path makes.
    pub fn enter_outermost(&self) -> Guard<'_> {
        interrupt();
        assert!(self.engine.0.enter_outermost(self.slot()), "nested");
        interrupt();
        Guard { reader: self }
    }

    /// An entry that is interrupted between its store and its fence by a signal whose handler is `handler`.
    pub fn enter_interrupted(&self, handler: impl FnOnce()) -> Guard<'_> {
        self.engine.0.store_current(self.slot());
        handler();
        light();
        Guard { reader: self }
    }

    /// Comes online, until the value is dropped.
    pub fn online(&self) -> Online<'_> {
        self.engine.0.online(self.slot());
        Online { reader: self }
    }

    pub fn has_slot_of(&self, other: &Reader) -> bool {
        std::ptr::eq(self.slot, other.slot)
    }

    pub fn give_back(self) {
        self.engine.0.give_back(self.slot());
    }
}

/// A section.
pub struct Guard<'r> {
    reader: &'r Reader,
}

#[allow(missing_docs)]
impl Guard<'_> {
    pub fn repin(&mut self) {
        self.reader.engine.0.repin(self.reader.slot());
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        assert_eq!(self.reader.engine.0.leave(self.reader.slot()), Left::Done);
    }
}

impl Sealed for Guard<'_> {}

// SAFETY: (1) as in memb: entered on the thread's slot, left by Drop. (2) Other guards of the slot are counted.
unsafe impl Section for Guard<'_> {}

/// The time from coming online to going offline.
pub struct Online<'r> {
    reader: &'r Reader,
}

#[allow(missing_docs)]
impl Online<'_> {
    pub fn quiescent(&mut self) {
        self.reader.engine.0.quiescent(self.reader.slot());
    }
}

impl Drop for Online<'_> {
    fn drop(&mut self) {
        self.reader.engine.0.offline(self.reader.slot());
    }
}

impl Sealed for Online<'_> {}

// SAFETY: (1) as in qsbr: made online, taken offline by Drop. (2) `quiescent` takes a `&mut`. The flavour is the one that models'
// links are made with; there is one engine in each model.
unsafe impl Section for Online<'_> {}

/// An object that knows whether it has been freed: reading it while, or after, it is freed fails the model.
pub struct Object(UnsafeCell<u32>);

// SAFETY: accesses are checked by loom; that is what it is for.
unsafe impl Sync for Object {}
// SAFETY: as above.
unsafe impl Send for Object {}

#[allow(missing_docs)]
impl Object {
    const FREED: u32 = 0xdead;

    pub fn new() -> Arc<Object> {
        Arc::new(Object(UnsafeCell::new(1)))
    }

    pub fn write(&self, value: u32) {
        // SAFETY: loom fails the model if anybody else accesses it without an order.
        self.0.with_mut(|cell| unsafe { *cell = value });
    }

    pub fn free(&self) {
        self.write(Self::FREED);
    }

    pub fn read(&self) -> u32 {
        // SAFETY: as in `write`.
        let value = self.0.with(|cell| unsafe { *cell });
        assert_ne!(value, Self::FREED, "a reader sees a freed object");
        value
    }
}

/// The pointer that readers follow.
pub struct Link<'o>(Atomic<Object>, PhantomData<&'o Object>);

#[allow(missing_docs)]
impl Link<'static> {
    pub fn new(object: Option<&Arc<Object>>) -> Arc<Link<'static>> {
        let link = Atomic::null();
        // Relaxed: nobody else knows the link yet.
        link.store(shared(object), Ordering::Relaxed);
        Arc::new(Link(link, PhantomData))
    }

    /// Publishes an object in place of what was there.
    pub fn publish(&self, object: Option<&Arc<Object>>) {
        interrupt();
        // Release: pairs with the load in follow (T).
        self.0.store(shared(object), Ordering::Release);
        interrupt();
    }

    /// Loads the pointer and reads the object.
    pub fn follow(&self, section: &impl Section) -> Option<u32> {
        self.load(section).map(Object::read)
    }

    /// Loads the pointer.
    pub fn load<'g>(&self, section: &'g impl Section) -> Option<&'g Object> {
        // Acquire: pairs with the store in publish (T).
        let object = self.0.load(Ordering::Acquire, section);
        // SAFETY: models keep their objects in memory; whether access was due is what loom checks.
        unsafe { object.as_ref() }
    }
}

fn shared(object: Option<&Arc<Object>>) -> Shared<'_, Object> {
    // SAFETY: (1), (2) models keep their objects in memory.
    object.map_or(Shared::null(), |object| unsafe { Shared::from_raw(std::ptr::NonNull::from(&**object)) })
}
