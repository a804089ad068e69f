//! What the allocator asks of whoever keeps freed objects for a while (`quietus-kvfree`): something back before a dry cache takes
//! fresh memory, and everything of a cache back before it is destroyed; and what it has to do about forks.
//!
//! Handed to by [`cache`](crate::cache), [`typed`](crate::typed) and [`fork`](crate::fork); hands to whoever registered.

use crate::lock::Lock;
use crate::slab::Slab;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// What a keeper of freed objects offers.
#[derive(Clone, Copy)]
pub struct Hook {
    /// Gives something back, if it can at once, and says whether it did. Must not allocate from a cache or wait.
    pub dry: fn() -> bool,
    /// Gives everything of the cache with this id back. Waits.
    pub destroy: fn(u16),
    /// The process is about to fork, on this thread: what is under way had better end.
    pub before_fork: fn(),
    /// It forks now: nobody else is inside one of the allocator's locks, until the next.
    pub at_fork: fn(),
    /// It has forked; true: this is the child.
    pub after_fork: fn(bool),
}

/// Calls back after a grace period: what a cache of [type-stable](crate::StableBuilder::type_stable) memory asks of whoever knows its readers.
///
/// # Safety
/// 1. [`Call::run`] is called only after every section has ended in which an object could have been found that was freed before
///    [`after`](Self::after) was called; and those accesses *happen before* it.
pub unsafe trait Grace: Sync {
    /// Keeps the call, and runs it after a grace period. Called on slow paths of frees, in whatever thread those are in: must not wait, or
    /// use any cache. A call that is dropped leaks its memory.
    fn after(&self, call: Call);
}

/// A slab that is to go after a grace period.
#[must_use = "dropped, its memory is leaked"]
pub struct Call(&'static Slab);

impl Call {
    pub(crate) fn new(slab: &'static Slab) -> Call {
        Call(slab)
    }
    /// Drops the values and gives the memory back. Must not be called from inside [`Grace::after`] before the grace period has ended.
    pub fn run(self) {
        if let Some(core) = self.0.cache() {
            core.give_late(self.0);
        }
    }
    /// The call as an address: of two words, aligned as pointers, in the slab's descriptor, which are the holder's until
    /// [`from_raw`](Self::from_raw), to queue it by (the kernel's `rcu_head` in a `struct slab`).
    pub fn into_raw(self) -> NonNull<[*mut (); 2]> {
        self.0.link_words()
    }
    /// The call again.
    ///
    /// # Safety
    /// 1. `raw` came from [`into_raw`](Self::into_raw), and is given back once.
    pub unsafe fn from_raw(raw: NonNull<[*mut (); 2]>) -> Call {
        // SAFETY: by (1) these are the words of a slab, which stays until the call is run.
        Call(unsafe { Slab::of_link_words(raw) })
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Call")
    }
}

/// Hooks there can be.
const MOST: usize = 4;
static HOOKS: Lock<[Option<Hook>; MOST]> = Lock::new([None; MOST]);
static ANY: AtomicBool = AtomicBool::new(false);

/// Registers a hook, once each; false when there are four already.
pub fn hook(hook: Hook) -> bool {
    let mut hooks = HOOKS.lock();
    if hooks.iter().flatten().any(|h| std::ptr::fn_addr_eq(h.dry, hook.dry)) {
        return true;
    }
    let Some(place) = hooks.iter_mut().find(|h| h.is_none()) else { return false };
    *place = Some(hook);
    // Relaxed: a hint; the hooks are read under their lock.
    ANY.store(true, Relaxed);
    true
}

/// A cache is dry. Asks one after another; true as soon as something came back.
pub(crate) fn dry() -> bool {
    // Relaxed: as above.
    if !ANY.load(Relaxed) {
        return false;
    }
    let hooks = *HOOKS.lock();
    hooks.into_iter().flatten().any(|hook| (hook.dry)())
}

/// The cache with this id is about to be destroyed.
pub(crate) fn destroy(id: u16) {
    each(|hook| (hook.destroy)(id));
}

fn each(f: impl FnMut(Hook)) {
    let hooks = *HOOKS.lock();
    hooks.into_iter().flatten().for_each(f);
}

/// The process is about to fork.
pub(crate) fn before_fork() {
    each(|hook| (hook.before_fork)());
}

/// It forks now.
pub(crate) fn at_fork() {
    each(|hook| (hook.at_fork)());
}

/// It has forked.
pub(crate) fn after_fork(child: bool) {
    each(|hook| (hook.after_fork)(child));
}
