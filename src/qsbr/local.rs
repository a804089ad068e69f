//! A qsbr reader in a thread-local, for threads whose loop belongs to somebody else: an executor's workers, a pool's.
//!
//! ```
//! use quietus::{Qsbr, Rcu, qsbr::local};
//! let limit: Rcu<u64, Qsbr> = Rcu::in_flavour(10);
//! assert_eq!(local::with(|reader| *limit.load(reader)), 10);
//! ```
//!
//! A thread starts *parked*, that is, offline: [`with`] then comes online for its closure's duration, behind a fence. Between
//! [`unpark`] and [`park`] the thread is online, [`with`] costs no fence, and the thread owes a [`quiescent`] now and then. For
//! tokio, for example:
//!
//! ```text
//! builder.on_thread_unpark(|| { let _ = local::unpark(); })
//!        .on_thread_park(|| { let _ = local::park(); })
//! ```
//!
//! Such hooks do not know what the thread is doing. So [`quiescent`], [`park`] and [`unpark`] refuse, with [`Busy`], while a
//! closure of [`with`] runs on the thread, which may hold references; then nothing changes.
//!
//! A thread that ends gives its slot back. While its thread-locals are destroyed it counts as parked for good: [`with`] works,
//! [`unpark`] does nothing. A signal handler may call all of these on a thread that has called [`with`] before.
//!
//! # Ordering
//! L: coming online, in `engine`. What a signal handler sees of the thread it has interrupted is said at each step; the
//! thread-locals are read and written by their own thread only, so that compiler fences are enough.

use crate::qsbr::reader::thread_name;
use crate::qsbr::{GLOBAL, Reader};
use crate::registry::Slot;
use crate::sync::{Ordering, compiler_fence, thread_number};
use std::cell::Cell;
use std::fmt;
use std::mem::ManuallyDrop;

thread_local! {
    /// The thread's slot. No destructor: readable at any time.
    static HOME: Cell<Option<&'static Slot>> = const { Cell::new(None) };
    /// The slot's number is stored *and fenced*: it can be read under.
    static ONLINE: Cell<bool> = const { Cell::new(false) };
    /// Closures of `with` that are running, and changes of state that are being made.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static AT_EXIT: AtExit = const { AtExit };
}

/// A closure of [`with`] is running on this thread, and may hold references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a read-side section of this thread is open: nothing was changed")
    }
}

impl std::error::Error for Busy {}

/// Runs `f` with this thread's reader online. On a thread that is online a few thread-locals, else also a fence; the first
/// call registers the thread. Calls nest.
///
/// What is loaded does not leave `f`:
///
/// ```compile_fail
/// let limit: quietus::Rcu<u64, quietus::Qsbr> = quietus::Rcu::in_flavour(10);
/// let value = quietus::qsbr::local::with(|reader| limit.load(reader));
/// ```
///
/// ```
/// let limit: quietus::Rcu<u64, quietus::Qsbr> = quietus::Rcu::in_flavour(10);
/// let value = quietus::qsbr::local::with(|reader| *limit.load(reader));
/// ```
#[inline]
pub fn with<R>(f: impl FnOnce(&Reader) -> R) -> R {
    // First of all: from here on a signal handler's `park` is refused.
    let _hold = Hold::new();
    match home() {
        Some(slot) => {
            let _online = (!is_online()).then(|| Visit::new(slot));
            // Not dropped: the slot stays the thread's.
            f(&ManuallyDrop::new(Reader::of(slot)))
        }
        None => f(&Reader::late()),
    }
}

/// A quiescent state of this thread: see [`Reader::quiescent`]. Nothing to do, and fine, on a thread that is parked.
pub fn quiescent() -> Result<(), Busy> {
    let _hold = Hold::alone()?;
    if let (Some(slot), true) = (known(), is_online()) {
        GLOBAL.quiescent(slot);
    }
    Ok(())
}

/// Takes this thread offline until [`unpark`]: it is going to sleep, or to block. A store.
pub fn park() -> Result<(), Busy> {
    let _hold = Hold::alone()?;
    if let Some(slot) = known() {
        leave(slot);
    }
    Ok(())
}

/// Puts this thread online until [`park`]: it is inside from now on, owes quiescent states, and [`with`] costs no fence.
/// Registers the thread if it is not yet. Does nothing on a thread whose thread-locals are gone.
pub fn unpark() -> Result<(), Busy> {
    let _hold = Hold::alone()?;
    if let (Some(slot), false) = (home(), is_online()) {
        enter(slot);
    }
    Ok(())
}

/// Runs `f` with this thread parked, and puts it back online if it was, also when `f` panics. `f` is not run if the thread is busy.
pub fn offline<R>(f: impl FnOnce() -> R) -> Result<R, Busy> {
    struct Back(bool);
    impl Drop for Back {
        fn drop(&mut self) {
            if self.0 {
                // Busy is impossible: the calls that `f` made have returned.
                let _ = unpark();
            }
        }
    }
    let was = is_online();
    park()?;
    let _back = Back(was);
    Ok(f())
}

fn is_online() -> bool {
    ONLINE.try_with(Cell::get).unwrap_or(false)
}

fn set_online(online: bool) {
    // A signal handler that finds the flag set finds the slot fenced, and one that finds the slot left finds the flag cleared.
    compiler_fence(Ordering::SeqCst);
    let _ = ONLINE.try_with(|cell| cell.set(online));
    compiler_fence(Ordering::SeqCst);
}

/// Online, and then says so.
fn enter(slot: &Slot) {
    GLOBAL.online(slot);
    set_online(true);
}

/// Says that it is not online, and then is not.
fn leave(slot: &Slot) {
    set_online(false);
    GLOBAL.offline(slot);
}

/// Online for a closure's duration, on a thread that was not (or, in a signal handler, not quite, or not quite any more).
struct Visit {
    slot: &'static Slot,
    /// The interrupted code had stored a number already: it must find one afterwards. A newer one does as well.
    keep: bool,
}

impl Visit {
    fn new(slot: &'static Slot) -> Visit {
        let keep = slot.is_inside();
        enter(slot);
        Visit { slot, keep }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if self.keep { set_online(false) } else { leave(self.slot) }
    }
}

/// Counts a closure, or a change of state, that others on this thread must not cross.
struct Hold(());

impl Hold {
    #[inline]
    fn new() -> Hold {
        let _ = DEPTH.try_with(|depth| depth.set(depth.get() + 1));
        compiler_fence(Ordering::SeqCst);
        Hold(())
    }

    /// The same, if there is none yet.
    fn alone() -> Result<Hold, Busy> {
        if DEPTH.try_with(Cell::get).unwrap_or(0) != 0 {
            return Err(Busy);
        }
        Ok(Hold::new())
    }
}

impl Drop for Hold {
    #[inline]
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        let _ = DEPTH.try_with(|depth| depth.set(depth.get() - 1));
    }
}

/// The thread's slot, if it has one.
fn known() -> Option<&'static Slot> {
    HOME.try_with(Cell::get).ok().flatten()
}

/// The thread's slot, claimed if it has none. `None`: its thread-locals are gone, nothing would give the slot back.
#[inline]
fn home() -> Option<&'static Slot> {
    known().or_else(home_slow)
}

#[cold]
fn home_slow() -> Option<&'static Slot> {
    AT_EXIT.try_with(|_| ()).ok()?;
    super::tell_of_forks();
    let slot = GLOBAL.claim(thread_number(), thread_name());
    match HOME.try_with(|home| home.get().or_else(|| home.replace(Some(slot)))) {
        Ok(None) => Some(slot),
        // A signal handler was here first: its slot stays.
        Ok(Some(first)) => {
            GLOBAL.give_back(slot);
            Some(first)
        }
        Err(_) => {
            GLOBAL.give_back(slot);
            None
        }
    }
}

struct AtExit;

impl Drop for AtExit {
    fn drop(&mut self) {
        // Forget first: a signal handler must not find a slot that is being given up.
        if let Ok(Some(slot)) = HOME.try_with(|home| home.replace(None)) {
            set_online(false);
            GLOBAL.give_back(slot);
        }
    }
}
