//! [`EpochRef`]: a crossbeam-epoch collector as a source of grace periods.
//!
//! Handed to by domains, cookies and `kvfree`; hands to crossbeam-epoch: one deferred function at a time, which completes a number.
//!
//! `kvfree` must not allocate, wait or run user code in [`start`](GracePeriods::start), `poll` and `advance`, all of which
//! deferring and flushing may do. So `advance` only raises [`Progress::wanted`] and wakes the [`driver`](crate::epoch::driver);
//! [`step`](EpochRef::step) is for the driver, tickers, waiters and those who ask a cookie.
//!
//! # Ordering
//! E, F: the number is read (Acquire) before its function is deferred, and crossbeam fences (SeqCst) between the deferring and the
//! reading of the epoch that the function is filed under. So of a thread that pins, either the fence comes later in the single
//! order than ours, and it sees the unlinks of all cookies up to the number; or earlier, and its guard is one of those that the
//! function waits for, whoever deferred it. G: the function runs after those guards' accesses, and its Release to `completed` is
//! acquired by `poll`.

use crate::engine::Counts;
use crate::epoch::{driver, handles};
use crate::latency::Latency;
use crate::registry::Holdout;
use crate::sequence::Sequence;
use crate::source::{self, Source};
use crate::sync::{contain, stat};
use crate::wait::{InsideSection, wait};
use crate::watch::Watch;
use crossbeam_epoch::{Collector, Guard, LocalHandle};
use parking_lot::Mutex;
use quietus_kvfree::{Cookie, GracePeriods};
use std::borrow::Borrow;
use std::cell::Cell;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{AcqRel, Acquire, Release},
};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Numbers, and what deferred functions do to them. They hold it, and not the collector, which would then keep itself alive.
pub(super) struct Progress {
    sequence: Sequence,
    /// A function of ours is deferred and has not run yet.
    deferred: AtomicBool,
    /// How far grace periods are to be pushed.
    wanted: AtomicU64,
    /// The driver is to end.
    stopping: AtomicBool,
    pub(super) driver: OnceLock<Thread>,
    started: Mutex<Option<Instant>>,
    grace_periods: stat::AtomicU64,
    latency: Latency,
    watch: Watch,
}

impl Progress {
    fn new() -> Progress {
        Progress {
            sequence: Sequence::new(),
            deferred: AtomicBool::new(false),
            wanted: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            driver: OnceLock::new(),
            started: Mutex::new(None),
            grace_periods: stat::AtomicU64::new(0),
            latency: Latency::new(),
            watch: Watch::new(),
        }
    }

    /// How far grace periods are to be pushed, if they are not there yet.
    pub(super) fn wanted(&self) -> Option<u64> {
        // Acquire: pairs with the fetch_max in `advance`.
        let wanted = self.wanted.load(Acquire);
        (!self.sequence.elapsed(wanted)).then_some(wanted)
    }

    pub(super) fn stopping(&self) -> bool {
        // Acquire: pairs with the store in Drop.
        self.stopping.load(Acquire)
    }

    fn wake(&self) {
        if let Some(driver) = self.driver.get() {
            driver.unpark();
        }
    }

    /// Defers the function that completes the number which is current now, unless one is under way. `handle` has no other
    /// functions deferred, so that no panic of theirs can keep ours from running.
    fn defer(self: &Arc<Self>, want: u64, handle: &LocalHandle) {
        // First of all, since pinning may run what others have deferred, and panic.
        let guard = handle.pin();
        // AcqRel: pairs with the store in `complete`; of several threads one defers.
        if self.deferred.swap(true, AcqRel) {
            return;
        }
        let n = self.sequence.begin(want);
        *self.started.lock() = Some(Instant::now());
        let progress = Arc::clone(self);
        guard.defer(move || progress.complete(n));
        guard.flush(); // files ours, and only then looks for others
    }

    fn complete(&self, n: u64) {
        self.sequence.complete(n);
        // Relaxed: a statistic.
        self.grace_periods.fetch_add(1, stat::Relaxed);
        if let Some(started) = self.started.lock().take() {
            self.latency.record(started.elapsed());
        }
        // Release: pairs with the swap in `defer`.
        self.deferred.store(false, Release);
    }
}

thread_local! {
    /// This thread is in `step`, and therefore pinned.
    static STEPPING: Cell<bool> = const { Cell::new(false) };
}

/// In `step` until dropped.
struct Stepping(bool);

impl Stepping {
    fn begin() -> Stepping {
        Stepping(STEPPING.try_with(|stepping| stepping.replace(true)).unwrap_or(false))
    }
}

impl Drop for Stepping {
    fn drop(&mut self) {
        let _ = STEPPING.try_with(|stepping| stepping.set(self.0));
    }
}

struct Inner {
    progress: Arc<Progress>,
    collector: Collector,
    /// It is crossbeam-epoch's default collector, for which it knows the thread's handle.
    is_default: bool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Release: pairs with the load in `stopping`. The thread is not waited for: the last handle may go on it.
        self.progress.stopping.store(true, Release);
        self.progress.wake();
    }
}

/// A handle on a collector, and on our numbers for it.
#[derive(Clone)]
pub struct EpochRef(Arc<Inner>);

impl EpochRef {
    /// A source over `collector`, with a thread that drives it or without.
    pub(super) fn new(collector: &Collector, driven: bool) -> EpochRef {
        let progress = Arc::new(Progress::new());
        if driven {
            driver::start(&progress, collector);
        }
        let is_default = collector == crossbeam_epoch::default_collector();
        EpochRef(Arc::new(Inner { progress, collector: collector.clone(), is_default }))
    }

    #[inline]
    pub(super) fn collector(&self) -> &Collector {
        &self.0.collector
    }

    /// Pins the calling thread.
    #[inline]
    pub(super) fn pin(&self) -> Guard {
        if self.0.is_default { crossbeam_epoch::pin() } else { handles::of(&self.0.collector, &self.0.progress).pin() }
    }
}

/// One push towards `want`: defers our function if none is under way, by a handle that `own` gives for nothing else, and tries to
/// advance the epoch, under a guard that `pin` gives. May allocate, and runs what others have deferred.
pub(super) fn step<H: Borrow<LocalHandle>>(
    progress: &Arc<Progress>,
    want: u64,
    own: impl FnOnce() -> H,
    pin: impl FnOnce() -> Guard,
) {
    let _stepping = Stepping::begin();
    // A panic of what others have deferred is theirs; it has been reported, and must not end the driver, nor a barrier half-way.
    contain(|| {
        // Acquire: spares the handle; the swap in `defer` decides.
        if !progress.sequence.elapsed(want) && !progress.deferred.load(Acquire) {
            progress.defer(want, own().borrow());
        }
        pin().flush();
    });
}

// SAFETY: 1, 2: see "Ordering" in the module. 3: `completed` only grows. 4: so does the sequence. 5: `start` and `poll` are one
// atomic operation each, `advance` two and a wake-up.
unsafe impl GracePeriods for EpochRef {
    #[inline]
    fn start(&self) -> Cookie {
        Cookie(self.0.progress.sequence.start())
    }
    #[inline]
    fn poll(&self, cookie: Cookie) -> bool {
        self.0.progress.sequence.elapsed(cookie.0)
    }
    fn advance(&self, cookie: Cookie) -> bool {
        if self.poll(cookie) {
            return true;
        }
        // AcqRel: pairs with the load in `wanted`; the driver's token, which `unpark` leaves, is looked at after it.
        self.0.progress.wanted.fetch_max(cookie.0, AcqRel);
        self.0.progress.wake();
        false
    }
    fn synchronize(&self, cookie: Cookie) {
        Source::wait_for(self, cookie.0);
    }
    fn attend(&self) -> bool {
        source::attend(self)
    }
    fn inside_any(&self) -> bool {
        GracePeriods::inside(self) == Some(true) || crate::local::is_inside_any_global()
    }
    fn before_fork(&self) {
        self.0.progress.watch.before_fork();
    }
    unsafe fn after_fork(&self, child: bool) {
        // SAFETY: (1) is contract 1.
        unsafe { self.0.progress.watch.after_fork(child) };
    }
    fn inside(&self) -> Option<bool> {
        if STEPPING.try_with(Cell::get).unwrap_or(false) {
            return Some(true); // in a function that somebody has deferred, run by us, pinned
        }
        // The thread's usual handle knows; whether it is pinned through yet another one, nobody can say.
        let pinned = if self.0.is_default {
            crossbeam_epoch::is_pinned()
        } else {
            handles::known(&self.0.collector).is_some_and(|handle| handle.is_pinned())
        };
        pinned.then_some(true)
    }
}

// SAFETY: 1: `push` and `try_wait_until` ask what `poll` asks.
unsafe impl Source for EpochRef {
    fn push(&self, number: u64) -> bool {
        if self.poll(Cookie(number)) {
            return true;
        }
        step(&self.0.progress, number, || self.0.collector.register(), || self.pin());
        self.poll(Cookie(number))
    }
    fn try_wait_until(&self, number: u64, deadline: Option<Instant>) -> Result<bool, InsideSection> {
        if self.inside() == Some(true) {
            return Err(InsideSection);
        }
        Ok(wait(deadline, || self.push(number), || source::look(self)))
    }
    fn drive(&self) {
        if let Some(wanted) = self.0.progress.wanted() {
            self.push(wanted);
        }
    }
    fn holdouts(&self, _: u64) -> Vec<Holdout> {
        Vec::new()
    }
    fn watch(&self) -> &Watch {
        &self.0.progress.watch
    }
    fn running(&self) -> Option<Option<(u64, Duration)>> {
        let progress = &self.0.progress;
        let started = *progress.started.try_lock()?;
        Some(started.map(|started| (progress.sequence.running(), started.elapsed())))
    }
    fn stalled_by(&self, _: u64) -> Option<Vec<Holdout>> {
        Some(Vec::new())
    }
    fn counts(&self) -> Counts {
        let progress = &self.0.progress;
        Counts {
            // Relaxed: a statistic.
            grace_periods: progress.grace_periods.load(stat::Relaxed),
            p50: progress.latency.quantile(0.50),
            p99: progress.latency.quantile(0.99),
            latency: progress.latency.buckets(),
            ..Counts::default()
        }
    }
}
