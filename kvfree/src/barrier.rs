//! Barriers: wait until everything retired before is free.
//!
//! Handed to by [`kvfree`](crate::kvfree); hands to [`drain`](crate::drain) and [`reclaim`](crate::reclaim).

use crate::event::event;
use crate::grace::GracePeriods;
use crate::lane::Lane;
use crate::queue::Want;
use crate::shared::Shared;
use crate::sync::thread;
use std::time::Duration;

/// Rounds for destructors that retire what has a destructor, before a barrier is content with what was retired before it.
const ROUNDS: u32 = 10_000;

impl<G: GracePeriods> Shared<G> {
    /// Frees everything retired before the call, and what its destructors retire. Waits for grace periods; runs deferred
    /// functions on this thread.
    #[track_caller]
    pub(crate) fn barrier(&self) {
        self.assert_may_wait();
        event!(debug, bytes = self.queued_bytes(), "barrier");
        let mut last_round = false;
        for _ in 0..ROUNDS {
            let c = &self.counters;
            // Acquire: pairs with the end of each call that is counted: the drain below sees what it has retired.
            let (calls, chained) = (c.calls_run.get_acquire(), c.chained.get());
            let mut pause = Pause(0);
            while !self.drain(u64::MAX) {
                pause.wait("the kernel refuses the membarrier that takes blocks back from CPUs");
            }
            let last = self.lock_queue().last();
            self.gp.synchronize(self.gp.start());
            let mut pause = Pause(0);
            while !self.reclaim_up_to(Want::All, last, None) {
                if self.is_abandoned() {
                    return; // the handle has been ended meanwhile, and what was left with it
                }
                pause.wait("");
            }
            self.sweep_all(|| pause.wait(""));
            if last_round || c.calls_run.get_acquire() == calls {
                return; // nothing that we wait for has run and could have retired more
            }
            if self.nothing_left() {
                return;
            }
            // What has run, here or elsewhere, has retired no further calls: then one round more, for its memory. (Calls that
            // others retire meanwhile are not waited for, or a barrier beside them would never end.)
            last_round = c.chained.get() == chained;
        }
    }
}

impl<G: GracePeriods> Shared<G> {
    /// Is nothing retired, open, queued or running? Looked at in the order of the way: what others take goes from the words to the queue,
    /// under the queue's lock, and is counted there. If a call has run meanwhile, what it has retired may be behind us: then no.
    pub(crate) fn nothing_left(&self) -> bool {
        // Acquire: pairs with the end of each call that is counted; it comes before its batch or its set counts as done.
        let calls = self.counters.calls_run.get_acquire();
        let nothing = !self.any_open() && {
            let _queue = self.queue.lock();
            self.counters.waiting_objects() == 0
        };
        nothing && self.counters.calls_run.get_acquire() == calls
    }

    #[track_caller]
    fn assert_may_wait(&self) {
        assert!(!self.in_call(), "quietus: a barrier inside a deferred function or destructor would wait for itself");
        assert!(
            self.gp.inside() != Some(true),
            "quietus: a barrier inside one's own read-side section would never end: drop the guard, or take the reader offline, first"
        );
    }

    /// [`barrier_for`](Self::barrier_for) by somebody who has no part in this handle, and destroys the cache.
    #[track_caller]
    pub(crate) fn barrier_on(&self, id: Lane) {
        if !self.config.confined {
            self.barrier_for(id);
        }
    }

    /// Frees what the cache with this id has pending, and what its destructors retire of it. Does not wait for others' deferred
    /// functions, but for those queued by their heads; if objects of this cache were retired as calls it is a full barrier.
    #[track_caller]
    pub(crate) fn barrier_for(&self, id: Lane) {
        let want = Want::Cache(id);
        let mut last_round = false;
        for _ in 0..ROUNDS {
            if self.was_called(id) {
                return self.barrier();
            }
            let c = &self.counters;
            // Acquire: as in `barrier`.
            let (calls, chained) = (c.calls_run.get_acquire(), c.chained.get());
            let mut pause = Pause(0);
            while !self.drain_cache(id) {
                pause.wait("the kernel refuses the membarrier that takes blocks back from CPUs");
            }
            let last = self.lock_queue().last();
            if self.lock_queue().done(&self.running, want, last) && !self.overflow.pending() {
                if last_round || c.calls_run.get_acquire() == calls {
                    return; // and nothing that was running just before has retired more
                }
                last_round = c.chained.get() == chained; // as in `barrier`
                continue;
            }
            self.assert_may_wait();
            self.gp.synchronize(self.gp.start());
            let mut pause = Pause(0);
            while !self.reclaim_up_to(want, last, None) {
                if self.is_abandoned() {
                    return; // as in `barrier`
                }
                pause.wait("");
            }
            self.sweep_all(|| pause.wait(""));
            if last_round || c.calls_run.get_acquire() == calls {
                return;
            }
            last_round = c.chained.get() == chained; // as in `barrier`
        }
    }
}

/// Yields, then sleeps; panics with a message after ten seconds, if it was given one.
struct Pause(u32);

impl Pause {
    fn wait(&mut self, message: &str) {
        self.0 += 1;
        match self.0 {
            0..=16 => thread::yield_now(),
            n => {
                assert!(message.is_empty() || n < 10_000, "quietus: {message}");
                thread::sleep(Duration::from_millis(1).min(Duration::from_micros(50) * n));
            }
        }
    }
}
