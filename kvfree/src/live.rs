//! Every `Kvfree` there is, for the allocator's hook (somebody's freed objects, please), for those who wait for room, and for forks.
//!
//! Handed to by [`kvfree`](crate::kvfree); hands to whatever each of them does about it.

use crate::grace::GracePeriods;
use crate::shared::Shared;
#[cfg(not(quietus_shuttle))]
use crate::sync::Instant;
use crate::sync::Lock;
use quietus_slab::raw::{self, Hook};
use std::sync::{Arc, Weak};

/// A `Kvfree`, whatever its source.
pub(crate) trait Keeper: Send + Sync {
    fn help_dry(&self) -> bool;
    fn give_back(&self, cache: u16);
    /// Is the calling thread inside a section of its source, as far as that can tell?
    fn is_inside(&self) -> bool;
    /// The process is about to fork: begins no reclaim until [`freeze`](Self::freeze) is over, and lets those end that run, until `end`.
    #[cfg(not(quietus_shuttle))]
    fn settle_down(&self, end: Instant);
    /// The process forks now. The answer is called afterwards, in the parent (false) and in the child (true).
    #[cfg(not(quietus_shuttle))]
    fn freeze(self: Arc<Self>) -> Thaw;
}

/// Ends a [`Keeper::freeze`].
#[cfg(not(quietus_shuttle))]
pub(crate) type Thaw = Box<dyn FnOnce(bool)>;

/// Those alive.
static LIVE: Lock<Vec<Weak<dyn Keeper>>> = Lock::new(Vec::new());

/// One more. The allocator gets to know of it.
pub(crate) fn add(keeper: Weak<dyn Keeper>) {
    // Where schedules are explored there is no list: the allocator belongs to all of them at once.
    if cfg!(not(quietus_shuttle)) {
        let mut live = LIVE.lock();
        live.retain(|w| w.strong_count() > 0);
        live.push(keeper);
    }
    #[cfg(not(quietus_shuttle))]
    use crate::fork::{after, at, before};
    #[cfg(quietus_shuttle)]
    let (before, at, after) = (|| (), || (), |_| ());
    raw::hook(Hook { dry, destroy, before_fork: before, at_fork: at, after_fork: after });
}

/// All of them.
pub(crate) fn all() -> Vec<Arc<dyn Keeper>> {
    LIVE.lock().iter().filter_map(Weak::upgrade).collect()
}

/// An allocation found its barn empty: has anybody something that has elapsed?
fn dry() -> bool {
    let mut any = false;
    for i in 0.. {
        // The lock is not held while one helps, or goes.
        let Some(keeper) = LIVE.try_lock().and_then(|live| live.get(i).map(Weak::upgrade)) else { break };
        any |= keeper.is_some_and(|keeper| keeper.help_dry());
    }
    any
}

/// Is the calling thread inside a section of any of their sources?
pub(crate) fn any_inside() -> bool {
    for i in 0.. {
        // The lock is not held while one looks, or goes.
        let Some(keeper) = LIVE.lock().get(i).map(Weak::upgrade) else { break };
        if keeper.is_some_and(|keeper| keeper.is_inside()) {
            return true;
        }
    }
    false
}

/// A cache is about to be destroyed: everybody gives its objects back.
fn destroy(cache: u16) {
    all().iter().for_each(|keeper| keeper.give_back(cache));
}

impl<G: GracePeriods> Keeper for Shared<G> {
    fn help_dry(&self) -> bool {
        Shared::help_dry(self)
    }
    fn give_back(&self, cache: u16) {
        self.barrier_on(cache);
    }
    fn is_inside(&self) -> bool {
        self.gp.inside() == Some(true)
    }
    #[cfg(not(quietus_shuttle))]
    fn settle_down(&self, end: Instant) {
        crate::fork::settle_down(self, end);
    }
    #[cfg(not(quietus_shuttle))]
    fn freeze(self: Arc<Self>) -> Thaw {
        crate::fork::freeze(self)
    }
}
