//! All that kvfree asks of RCU: the trait [`GracePeriods`].
//!
//! Handed to by [`queue`](crate::queue) (a cookie per batch) and [`reclaim`](crate::reclaim) (has it elapsed?).

/// A point in the sequence of grace periods, handed out by [`GracePeriods::start`]: elapsed once every read-side section that was
/// open then has ended. A plain number, valid for the source that made it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cookie(pub u64);

/// A source of grace periods.
///
/// # Safety
/// 1. `poll(c)` or `advance(c)` answers true only if every section that was open when [`start`](Self::start) gave `c` has ended,
///    and those sections' accesses *happen before* the answer.
/// 2. Stores of the caller before `start` (an unlink), and stores it has observed from others, are seen by every section that
///    begins after the cookie's grace period has begun: a section that may still see them as not done counts as open at `start`.
/// 3. Once true for `c`, the answer stays true for `c` and all smaller cookies.
/// 4. `start` never gives a smaller cookie than one it gave before, as far as its callers' order goes.
/// 5. `start`, `poll` and `advance` never wait, never allocate, and never retire.
pub unsafe trait GracePeriods: Send + Sync + 'static {
    /// A cookie for "everything unlinked up to now".
    fn start(&self) -> Cookie;
    /// Has the cookie's grace period ended? Cheap: a load.
    fn poll(&self, cookie: Cookie) -> bool;
    /// Pushes the grace period on without waiting, if nobody else is doing so; then as [`poll`](Self::poll).
    fn advance(&self, cookie: Cookie) -> bool {
        self.poll(cookie)
    }
    /// Would [`advance`](Self::advance) cost next to nothing just now (no fence among all CPUs)? Then it pays for a single block.
    fn is_cheap(&self) -> bool {
        false
    }
    /// Waits until the cookie has elapsed. Called outside sections only.
    fn synchronize(&self, cookie: Cookie);
    /// A worker's or ticker's look at whatever else depends on these grace periods: tasks to wake, a stall to report. Once a round; may
    /// run user code, never waits. `true`: soon again.
    fn attend(&self) -> bool {
        false
    }
    /// Is the calling thread inside a section of this source? Waiting there would never end. `None`: the source cannot tell; then
    /// barriers are allowed, and retiring never waits.
    fn inside(&self) -> Option<bool> {
        None
    }
    /// Is the calling thread inside a section of this source, or of another that belongs to it but has no `Kvfree`? Those of every `Kvfree` are
    /// asked by themselves.
    fn inside_any(&self) -> bool {
        self.inside() == Some(true)
    }
    /// The process is about to fork, on this thread: no lock of this source may be in the middle of anything until
    /// [`after_fork`](Self::after_fork).
    fn before_fork(&self) {}
    /// The process has forked. In the child the sections of all other threads are over, since the threads are.
    ///
    /// # Safety
    /// 1. This thread has called [`before_fork`](Self::before_fork), and has forked since, once. If `child`, it is the process's only one.
    unsafe fn after_fork(&self, child: bool) {
        let _ = child;
    }
}
