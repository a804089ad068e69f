//! Which slot is the calling thread's: thread-locals, and what happens to slots when threads end.
//!
//! `memb` asks here for the slot of the global engine ([`current`], one load) or of a private one ([`private_slot`]);
//! both are claimed from the engine when they are first needed.
//!
//! # The global engine
//!
//! Two thread-local words without destructors, so that they can be read at any time, even while other thread-locals are
//! destroyed. `CURRENT` is what the fast path loads: the thread's slot, or the address of [`OUTSIDE`], a slot that
//! always looks nested. Thus one test ("is the slot's number 0?") also finds out that the thread is not registered, and
//! that the mode is fenced, in which `CURRENT` never points anywhere else. `HOME` is the thread's slot in either mode.
//!
//! A third thread-local, with a destructor, gives the slot back when the thread exits. If guards are alive at that time
//! (leaked, or kept in a thread-local that is destroyed later) the slot is marked instead, and the last guard to go
//! gives it back; if none ever goes, the slot stays active for ever: grace periods stall, nothing is freed early. A
//! thread that pins again after that claims a slot for the length of that section.
//!
//! # Private engines
//!
//! A short list of (engine, slot) per thread, with a destructor that does the same. It holds engines weakly: an engine
//! that is gone is found on the next claim and dropped from the list. Since the weak reference keeps the allocation,
//! an address on the list means the same engine as long as the entry exists, and may be compared.
//!
//! # Ordering
//!
//! None of its own: all of this is one thread's. A signal handler may find the list borrowed; it then claims a slot for
//! the length of its section.

use crate::engine::Engine;
use crate::fork;
use crate::membarrier;
use crate::registry::Slot;
use crate::sync::{Ordering, compiler_fence, thread_number};
use std::cell::{Cell, RefCell};
use std::ptr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

/// The engine behind `pin`.
pub(crate) static GLOBAL: Engine = Engine::new();

/// The engine behind `qsbr::reader`.
pub(crate) static QSBR: Engine = Engine::qsbr();

/// Whether the calling thread is inside a section of either global engine.
pub(crate) fn is_inside_any_global() -> bool {
    is_inside_global() || QSBR.is_inside()
}

/// Where `CURRENT` points when there is no slot to use without asking further: always inside, never on a list.
static OUTSIDE: Slot = Slot::new(u64::MAX);

thread_local! {
    static CURRENT: Cell<&'static Slot> = const { Cell::new(&OUTSIDE) };
    static HOME: Cell<Option<&'static Slot>> = const { Cell::new(None) };
    static AT_EXIT: AtExit = const { AtExit };
    static PRIVATE: RefCell<Private> = const { RefCell::new(Private(Vec::new())) };
    static LAST: Cell<*const Entry> = const { Cell::new(ptr::null()) };
}

/// The slot to try to enter an outermost section of [`GLOBAL`] with; [`OUTSIDE`], which cannot be entered, if the slow
/// path has to be asked.
#[inline(always)]
pub(crate) fn current() -> &'static Slot {
    CURRENT.try_with(Cell::get).unwrap_or(&OUTSIDE)
}

/// The calling thread's slot of [`GLOBAL`], claimed if it has none.
pub(crate) fn global_slot() -> &'static Slot {
    match HOME.try_with(Cell::get) {
        Ok(Some(slot)) => slot,
        _ => global_slot_slow(),
    }
}

extern "C" fn forked() {
    // SAFETY: (1) called by fork, in the child.
    unsafe { GLOBAL.forked() };
}

#[cold]
fn global_slot_slow() -> &'static Slot {
    static DONE: AtomicBool = AtomicBool::new(false);
    fork::install(&DONE, forked);
    let lives = AT_EXIT.try_with(|_| ()).is_ok();
    let slot = GLOBAL.claim(thread_number(), thread_name(lives));
    if !lives {
        slot.mark_exited();
    }
    if let Ok(Some(other)) = HOME.try_with(|home| home.replace(Some(slot))) {
        // A signal handler was here first, and has left its section, unless it leaked the guard.
        if other.is_inside() {
            other.mark_exited();
        } else {
            GLOBAL.give_back(other);
        }
    }
    if membarrier::is_asymmetric() {
        let _ = CURRENT.try_with(|current| current.set(slot));
    }
    slot
}

/// Makes the thread forget its slot of [`GLOBAL`], which it is about to give back.
pub(crate) fn forget_global() {
    let _ = CURRENT.try_with(|current| current.set(&OUTSIDE));
    let _ = HOME.try_with(|home| home.set(None));
}

/// Whether the calling thread is inside a section of [`GLOBAL`].
pub(crate) fn is_inside_global() -> bool {
    match HOME.try_with(Cell::get) {
        Ok(home) => home.is_some_and(Slot::is_inside),
        Err(_) => GLOBAL.is_inside(),
    }
}

struct AtExit;

impl Drop for AtExit {
    fn drop(&mut self) {
        if let Ok(Some(slot)) = HOME.try_with(Cell::get) {
            if slot.is_inside() {
                slot.mark_exited();
            } else {
                // Forget first: a signal handler must not find a slot that is being given up.
                forget_global();
                GLOBAL.give_back(slot);
            }
        }
    }
}

/// One thread's slots of private engines. Boxed, so that `LAST` can point to one.
#[allow(clippy::vec_box, reason = "`LAST` points to an entry while the list may grow")]
struct Private(Vec<Box<Entry>>);

struct Entry {
    engine: Weak<Engine>,
    slot: *const Slot,
}

/// The calling thread's slot of a private engine, claimed if it has none.
#[inline]
pub(crate) fn private_slot(engine: &Arc<Engine>) -> &Slot {
    match last_slot(engine) {
        Some(slot) => slot,
        None => private_slot_slow(engine),
    }
}

/// The slot, if `engine` is the one that was last asked for.
#[inline]
fn last_slot(engine: &Arc<Engine>) -> Option<&Slot> {
    // SAFETY: LAST is null or points to an entry of this thread's list; it is cleared before entries are dropped.
    let last = unsafe { LAST.try_with(Cell::get).ok()?.as_ref() }?;
    if last.engine.as_ptr() != Arc::as_ptr(engine) {
        return None;
    }
    // SAFETY: the weak reference keeps the allocation, so the address means `engine` and no other; its slots live as long
    // as it does, and the caller holds it.
    Some(unsafe { &*last.slot })
}

/// Whether the calling thread is inside a section of a private engine.
#[inline]
pub(crate) fn is_inside_private(engine: &Arc<Engine>) -> bool {
    match last_slot(engine) {
        Some(slot) => slot.is_inside(),
        None => engine.is_inside(),
    }
}

#[cold]
#[inline(never)]
fn private_slot_slow(engine: &Arc<Engine>) -> &Slot {
    let found = PRIVATE.try_with(|private| {
        let mut private = private.try_borrow_mut().ok()?;
        let address = Arc::as_ptr(engine);
        let at = match private.0.iter().position(|entry| entry.engine.as_ptr() == address) {
            Some(at) => at,
            None => {
                private.purge();
                let slot: *const Slot = engine.claim(thread_number(), thread_name(true));
                private.0.push(Box::new(Entry { engine: Arc::downgrade(engine), slot }));
                private.0.len() - 1
            }
        };
        let entry: &Entry = &private.0[at];
        // Release (compiler only): a signal handler that reads LAST finds the entry complete.
        compiler_fence(Ordering::Release);
        let _ = LAST.try_with(|last| last.set(entry));
        Some(entry.slot)
    });
    match found {
        // SAFETY: the slot is `engine`'s, which the caller holds.
        Ok(Some(slot)) => unsafe { &*slot },
        // The list is destroyed, or this is a signal handler in the middle of the above: a slot for this section.
        _ => {
            let slot = engine.claim(thread_number(), None);
            slot.mark_exited();
            slot
        }
    }
}

/// To be called before an entry is dropped: LAST may point to it.
fn forget_last() {
    let _ = LAST.try_with(|last| last.set(ptr::null()));
    // Release (compiler only): a signal handler must not find an entry that is being dropped.
    compiler_fence(Ordering::Release);
}

impl Private {
    /// Drops the entries of engines that are gone.
    fn purge(&mut self) {
        if self.0.iter().any(|entry| entry.engine.strong_count() == 0) {
            forget_last();
            self.0.retain(|entry| entry.engine.strong_count() != 0);
        }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        forget_last();
        for entry in self.0.drain(..) {
            let Some(engine) = entry.engine.upgrade() else { continue };
            // SAFETY: the slot is `engine`'s, which we hold.
            let slot = unsafe { &*entry.slot };
            if slot.is_inside() {
                slot.mark_exited();
            } else {
                engine.give_back(slot);
            }
        }
    }
}

/// The calling thread's name, while it still has one.
fn thread_name(lives: bool) -> Option<Box<str>> {
    if lives { std::thread::current().name().map(Box::from) } else { None }
}
