//! Signals: a timer for each thread of the crowd, whose handler retires through `constrained`, and reads where the flavour allows it,
//! in the middle of whatever the thread does.
//!
//! The crowd arms its threads, and stocks objects for the handler to retire: a handler had better not allocate.
//!
//! # Ordering
//! A handler is its own thread: compiler fences are enough.

use std::cell::Cell;
use std::ptr::{self, NonNull};
use std::sync::Once;
use std::sync::atomic::{Ordering::SeqCst, compiler_fence};

use quietus::slab::SlabBox;

use crate::args::Fault;
use crate::torture::doors::Door;
use crate::torture::flavours::{Flavour, Handler};
use crate::torture::object::{Counted, Head, Plain};
use crate::torture::tally::{self, Count, Wrong};
use crate::torture::world::{NOBODY, World};

/// Between two signals.
const EVERY: libc::c_long = 300_000;
/// Objects kept for the handler.
const KEPT: usize = 32;
/// Of these, one handler retires so many.
const AT_ONCE: usize = 4;

thread_local! {
    /// The world this thread works in, for the handler of its flavour; null: not armed.
    static WORLD: Cell<*const ()> = const { Cell::new(ptr::null()) };
    /// While the thread puts objects there the handler leaves them alone.
    static FILLING: Cell<bool> = const { Cell::new(false) };
    static STOCK: Cell<usize> = const { Cell::new(0) };
    static OBJECTS: [Cell<*mut Head>; KEPT] = const { [const { Cell::new(ptr::null_mut()) }; KEPT] };
}

/// Objects at even places have no destructor.
fn door(place: usize) -> Door {
    if place.is_multiple_of(2) { Door::RetireIn } else { Door::RetireInDrop }
}

extern "C" fn handler<F: Flavour>(_: libc::c_int) {
    // SAFETY: this thread's own word, which stays.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    tally::add(Count::Signals, 1);
    // SAFETY: `arm` puts a world of this flavour there, and takes it away before that world goes.
    if let Some(world) = unsafe { WORLD.get().cast::<World<'_, F>>().as_ref() } {
        work(world);
    }
    // SAFETY: as above.
    unsafe { *errno = before };
}

fn work<F: Flavour>(world: &World<'_, F>) {
    if F::HANDLER == Handler::ReadsAndRetires {
        let owner = tally::count(Count::Signals) as usize % world.links.len();
        F::in_handler(world.domain, || {
            let Some(object) = world.links[owner].load() else { return };
            // SAFETY: the section protects the object: that is what is being tested. All of it is atomics.
            let head = unsafe { object.as_ref() };
            if head.look(owner as u64, head.id()).is_err() {
                tally::fail_quietly(Wrong::Early);
            }
        });
        tally::add(Count::HandlerSections, 1);
    }
    let retires = F::HANDLER != Handler::Nothing && !FILLING.get();
    for _ in 0..if retires { AT_ONCE } else { 0 } {
        let left = STOCK.get();
        if left == 0 {
            return;
        }
        STOCK.set(left - 1);
        let Some(object) = NonNull::new(OBJECTS.with(|all| all[left - 1].get())) else { return };
        // SAFETY: the thread gave it to the handler, and nobody else knows it.
        unsafe { object.as_ref() }.retired(NOBODY);
        let constrained = world.domain.constrained();
        // SAFETY: as above; made for this door, from the house's cache.
        unsafe {
            match door(left - 1) {
                Door::RetireIn => constrained.retire_in(&world.house.plain, object.cast::<Plain>()),
                _ => constrained.retire(object.cast::<Counted>()),
            }
        }
        tally::add(Count::HandlerRetires, 1);
    }
}

/// Puts objects where the handler finds them. Nothing, unless the thread is armed.
pub(in crate::torture) fn stock<F: Flavour>(world: &World<'_, F>) {
    if WORLD.get().is_null() || F::HANDLER == Handler::Nothing || STOCK.get() > KEPT / 2 {
        return;
    }
    FILLING.set(true);
    compiler_fence(SeqCst); // the handler is this thread
    while STOCK.get() < KEPT {
        let place = STOCK.get();
        let Some(object) = world.house.make(door(place), NOBODY) else { break };
        OBJECTS.with(|all| all[place].set(object.as_ptr()));
        STOCK.set(place + 1);
    }
    compiler_fence(SeqCst);
    FILLING.set(false);
}

/// A thread's timer. When it goes there are no more signals, and what is left in stock is freed.
pub(in crate::torture) struct Armed(Option<libc::timer_t>);

/// Starts a timer for this thread, if that was asked for.
pub(in crate::torture) fn arm<F: Flavour>(world: &World<'_, F>) -> Armed {
    if !world.has(Fault::Signals) {
        return Armed(None);
    }
    static INSTALL: Once = Once::new();
    // One flavour a process.
    INSTALL.call_once(install::<F>);
    // What is made at first use is made before: a handler must not find it half made.
    if let Some(object) = world.house.make(Door::RetireIn, NOBODY) {
        // SAFETY: (1) made for this door, never linked. (2) It does not wait.
        unsafe { world.house.end(world.domain, Door::RetireIn, NOBODY, object) };
    }
    WORLD.set(ptr::from_ref(world).cast());
    let timer = timer();
    if timer.is_none() {
        tally::fail(Wrong::Panic, "no timer for a thread's signals");
    }
    Armed(timer)
}

fn install<F: Flavour>() {
    // SAFETY: `handler` is a signal handler; the structure is zeroed, filled in, and lives through the call.
    let answer = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler::<F> as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(libc::SIGALRM, &raw const action, ptr::null_mut())
    };
    assert_eq!(answer, 0, "a handler for SIGALRM");
}

/// A timer that signals this thread, and no other.
fn timer() -> Option<libc::timer_t> {
    // SAFETY: all structures are zeroed, filled in, and live through the calls.
    unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGALRM;
        event.sigev_notify_thread_id = libc::gettid();
        let mut timer: libc::timer_t = std::mem::zeroed();
        if libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) != 0 {
            return None;
        }
        let tick = libc::timespec { tv_sec: 0, tv_nsec: EVERY };
        let every = libc::itimerspec { it_interval: tick, it_value: tick };
        (libc::timer_settime(timer, 0, &raw const every, ptr::null_mut()) == 0).then_some(timer)
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        let Some(timer) = self.0 else { return };
        // SAFETY: made by `timer`, deleted once.
        unsafe { libc::timer_delete(timer) };
        // A signal may still be on its way: it finds no world.
        WORLD.set(ptr::null());
        compiler_fence(SeqCst); // the handler is this thread
        for place in 0..STOCK.replace(0) {
            let Some(object) = NonNull::new(OBJECTS.with(|all| all[place].get())) else { continue };
            // SAFETY: the handler has not taken it, and does not any more; made for its door.
            unsafe {
                object.as_ref().retired(NOBODY);
                match door(place) {
                    Door::RetireIn => drop(SlabBox::from_raw(object.cast::<Plain>())),
                    _ => drop(SlabBox::from_raw(object.cast::<Counted>())),
                }
            }
        }
    }
}
