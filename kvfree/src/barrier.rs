//! Barriers: wait until everything retired before is free.
//!
//! Handed to by [`kvfree`](crate::kvfree); hands to [`drain`](crate::drain) and [`reclaim`](crate::reclaim).

use crate::grace::GracePeriods;
use crate::shared::Shared;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Rounds for destructors that retire more, before a barrier is content with what was retired before it. Other threads' calls
/// cannot be told from those that follow ours, so that a barrier beside them makes all of these rounds.
const ROUNDS: u32 = 256;

impl<G: GracePeriods> Shared<G> {
    /// Frees everything retired before the call, and what its destructors retire. Waits for grace periods; runs deferred
    /// functions on this thread.
    pub(crate) fn barrier(&self) {
        assert!(!self.in_call(), "quietus: a barrier inside a deferred function or destructor would wait for itself");
        assert!(!self.gp.inside(), "quietus: a barrier inside a read-side section would wait for itself");
        for _ in 0..ROUNDS {
            let calls = self.counters.calls_run.get();
            self.passes.fetch_add(1, Relaxed);
            let mut pause = Pause(0);
            while !self.drain(u64::MAX) {
                pause.wait("the kernel refuses the membarrier that takes blocks back from CPUs");
            }
            let last = self.queue.lock().last();
            self.gp.synchronize(self.gp.start());
            let mut pause = Pause(0);
            while !self.reclaim_up_to(last) {
                pause.wait("");
            }
            if self.counters.calls_run.get() == calls {
                return; // nothing has run that could have retired more
            }
            if self.counters.waiting_objects.get() == 0 && !self.any_open() {
                return;
            }
        }
    }
}

/// Yields, then sleeps; panics with a message after ten seconds, if it was given one.
struct Pause(u32);

impl Pause {
    fn wait(&mut self, message: &str) {
        self.0 += 1;
        match self.0 {
            0..=16 => std::thread::yield_now(),
            n => {
                assert!(message.is_empty() || n < 10_000, "quietus: {message}");
                std::thread::sleep(Duration::from_millis(1).min(Duration::from_micros(50) * n));
            }
        }
    }
}
