//! What becomes of retired objects when the process forks.
//!
//! The child has a copy of everything pending, and of no thread but the one that forked. Each process frees its own copy, once: what was
//! freed before is not pending in the child, and what is pending runs its destructors in either process, as everything does
//! that a fork copies. The child's worker is started when it is first needed.
//!
//! Handed to by the allocator ([`live`](crate::live)), which has the handlers, and keeps everybody out of every [`Lock`](crate::sync::Lock), ours too, in
//! the moment itself. Before, nobody may take another batch ([`Queue::still`](crate::queue::Queue::still)), and reclaims that are under way may end,
//! for [`PATIENCE`] at most; what one of them still holds then is lost to the child, and counted as leaked.
//!
//! # Ordering
//! That of the locks.

use crate::grace::GracePeriods;
use crate::live::{self, Keeper, Thaw};
use crate::reclaim;
use crate::shared::Shared;
use crate::stats::Size;
use crate::sync::{Instant, thread};
use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Duration;

/// How long a fork waits for a destructor or a sweep that is running.
const PATIENCE: Duration = Duration::from_millis(100);

thread_local! {
    /// What this thread's fork has to undo. Without a destructor: a destructor of another thread-local may fork.
    static FROZEN: RefCell<ManuallyDrop<Vec<Thaw>>> = const { RefCell::new(ManuallyDrop::new(Vec::new())) };
}

/// The process is about to fork.
pub(crate) fn before() {
    let end = Instant::now() + PATIENCE;
    live::all().iter().for_each(|keeper| keeper.settle_down(end));
}

/// It forks now; nobody else is in any lock.
pub(crate) fn at() {
    let mut thaws: Vec<Thaw> = live::all().into_iter().map(Keeper::freeze).collect();
    let checks = crate::check::freeze();
    thaws.push(Box::new(move |_| drop(checks)));
    FROZEN.with(|frozen| **frozen.borrow_mut() = thaws);
}

/// It has forked.
pub(crate) fn after(child: bool) {
    let thaws = FROZEN.with(|frozen| std::mem::take(&mut **frozen.borrow_mut()));
    thaws.into_iter().rev().for_each(|thaw| thaw(child));
}

/// See [`Keeper::settle_down`].
pub(crate) fn settle_down<G: GracePeriods>(shared: &Shared<G>, end: Instant) {
    shared.lock_queue().still = true;
    // A thread that forks in a deferred function goes on with it, in the child, too, and must not wait for itself here.
    let busy = || !shared.running.is_idle() || shared.overflow.set.is_locked();
    while !reclaim::in_any_call() && busy() && Instant::now() < end {
        thread::sleep(Duration::from_micros(50));
    }
}

/// See [`Keeper::freeze`].
pub(crate) fn freeze<G: GracePeriods>(shared: Arc<Shared<G>>) -> Thaw {
    let mine = reclaim::in_any_call();
    // SAFETY: it is dropped before `shared`, whose part the mutex is; a moved `Arc` moves nothing that it points to.
    let overflow = unsafe { &(*Arc::as_ptr(&shared)).overflow };
    let set = overflow.set.try_lock_for(if mine { Duration::ZERO } else { PATIENCE });
    shared.gp.before_fork();
    Box::new(move |child| {
        // SAFETY: (1) called by fork, on the thread that was frozen by.
        unsafe { shared.gp.after_fork(child) };
        if child {
            if !mine {
                shared.settle_in_child();
                if set.is_none() && shared.overflow.set.is_locked() {
                    // Whoever swept is gone. What it was just freeing is lost, the rest of its set goes on.
                    // SAFETY: its holder does not exist, and has left the set fit for going on before each object.
                    unsafe { shared.overflow.set.force_unlock() };
                    let ([objects, bytes], c) = (shared.overflow.lose(), &shared.counters);
                    c.leaked.add(objects);
                    c.overflow_objects.sub(objects);
                    c.overflow_bytes.sub(bytes);
                }
            }
            shared.lose_worker();
        }
        shared.lock_queue().still = false;
        drop(set);
        drop(shared);
    })
}

impl<G: GracePeriods> Shared<G> {
    /// The batches that others were reclaiming are lost; what is queued is what is pending.
    fn settle_in_child(&self) {
        self.running.forget();
        let (size, c) = (self.lock_queue().size(), &self.counters);
        let lost = Size {
            objects: c.waiting_objects().saturating_sub(size.objects),
            bytes: c.waiting_bytes().saturating_sub(size.bytes),
        };
        c.forsaken(lost);
        c.finished(lost);
    }

    /// The worker is gone, unless it is the thread that has forked. The next who needs it starts another.
    fn lose_worker(&self) {
        if self.config.workers && !self.is_worker() {
            // What the child retires into a block that is open already would ring nobody.
            self.drain(u64::MAX);
            // Relaxed: the child has one thread.
            self.armed.store(false, Relaxed);
            // Release: pairs with the swap in `revive`.
            self.lost.store(true, Release);
        }
    }
}
