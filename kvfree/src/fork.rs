//! What becomes of retired objects when the process forks.
//!
//! The child has a copy of everything pending, and of no thread but the one that forked. Each process frees its own copy, once: what was
//! freed before is not pending in the child, and what is pending runs its destructors in either process, as everything does
//! that a fork copies. The child's worker is started when it is first needed.
//!
//! # Why `pthread_atfork`
//! Noticing a new process id later would be too late: a thread that is gone may have left a queue half-linked, and its lock taken. So
//! the thread that forks first takes every lock ([`freeze`]) and lets reclaims that are under way end, for [`PATIENCE`] at most; what one
//! of them still holds then is lost to the child, and counted as leaked. `QUIETUS_ATFORK=off` switches the handlers off: a child may
//! then `exec` or `_exit`, and nothing else.
//!
//! # Ordering
//! That of the locks.

use crate::grace::GracePeriods;
use crate::live::{self, Keeper, List, Thaw};
use crate::queue::Queue;
use crate::reclaim;
use crate::shared::Shared;
use quietus_slab::raw::{self, Held};
use std::cell::RefCell;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

/// How long a fork waits for a destructor or a sweep that is running.
const PATIENCE: Duration = Duration::from_millis(100);

/// What a fork has frozen: each one's thaw, then the list.
struct Frozen(Vec<Thaw>, #[allow(dead_code, reason = "held")] List);

thread_local! {
    static FROZEN: RefCell<Option<Frozen>> = const { RefCell::new(None) };
}

/// Has forks tell us. Once for the process; later calls do nothing.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if std::env::var_os("QUIETUS_ATFORK").is_none_or(|setting| setting != "off") {
            #[cfg(all(target_os = "linux", not(miri)))]
            // SAFETY: the handlers are functions of this crate, which is never unloaded while its threads run.
            unsafe {
                libc::pthread_atfork(Some(prepare), Some(parent), Some(child));
            }
        }
    });
}

#[cfg(all(target_os = "linux", not(miri)))]
extern "C" fn prepare() {
    if raw::held() {
        return; // in a signal handler that interrupted the allocator: its child may `exec`
    }
    let (keepers, list) = live::all();
    let mut thaws: Vec<Thaw> = keepers.into_iter().map(Keeper::freeze).collect();
    let checks = crate::check::freeze();
    thaws.push(Box::new(move |_| drop(checks)));
    let _ = FROZEN.try_with(|frozen| frozen.replace(Some(Frozen(thaws, list))));
}

#[cfg(all(target_os = "linux", not(miri)))]
extern "C" fn parent() {
    thaw(false);
}

#[cfg(all(target_os = "linux", not(miri)))]
extern "C" fn child() {
    thaw(true);
}

fn thaw(child: bool) {
    let frozen = FROZEN.try_with(RefCell::take).ok().flatten();
    if let Some(Frozen(thaws, list)) = frozen {
        thaws.into_iter().rev().for_each(|thaw| thaw(child));
        drop(list);
    }
}

/// Takes every lock of `shared`; the answer gives them back, and in a child puts in order what the others have left.
pub(crate) fn freeze<G: GracePeriods>(shared: Arc<Shared<G>>) -> Thaw {
    // A thread that forks in a deferred function goes on with it, in the child, too, and must not wait for itself here.
    let mine = reclaim::in_any_call();
    let patience = if mine { Duration::ZERO } else { PATIENCE };
    let end = Instant::now() + patience;
    // SAFETY: `locks` below is dropped before `shared`, whose part the locks are; a moved `Arc` moves nothing that it points to.
    let still = unsafe { &*Arc::as_ptr(&shared) };
    let set = still.overflow.set.try_lock_for(patience);
    let used = still.lanes.used();
    let queue = still.lock_queue();
    while !still.running.is_idle() && Instant::now() < end {
        std::thread::sleep(Duration::from_micros(50));
    }
    still.gp.before_fork();
    Box::new(move |child| {
        let mut locks = (queue, used, set);
        // SAFETY: (1) called by fork, on the thread that was frozen by.
        unsafe { shared.gp.after_fork(child) };
        if child && !mine {
            shared.settle_in_child(&mut locks.0);
            if locks.2.is_none() && shared.overflow.set.is_locked() {
                // Whoever swept is gone. What it was just freeing is lost, the rest of its set goes on.
                // SAFETY: its holder does not exist, and has left the set fit for going on before each object.
                unsafe { shared.overflow.set.force_unlock() };
            }
        }
        if child {
            shared.lose_worker();
        }
        drop(locks);
        drop(shared);
    })
}

impl<G: GracePeriods> Shared<G> {
    /// The batches that others were reclaiming are lost; what is queued is what is pending.
    fn settle_in_child(&self, queue: &mut Held<'_, Queue>) {
        self.running.forget();
        let (size, c) = (queue.size(), &self.counters);
        c.leaked.add(c.waiting_objects.get().saturating_sub(size.objects));
        c.waiting_objects.set(size.objects);
        c.waiting_bytes.set(size.bytes);
    }

    /// The worker is gone, unless it is the thread that has forked. The next who needs it starts another.
    fn lose_worker(&self) {
        if self.config.workers && !self.is_worker() {
            // Relaxed: the child has one thread.
            self.armed.store(false, Relaxed);
            // Release: pairs with the swap in `revive`.
            self.lost.store(true, Release);
        }
    }
}
