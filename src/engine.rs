//! One source of grace periods: the readers' side that enters and leaves, and the driver's side that completes numbers.
//!
//! Guards hand their thread's slot to [`Engine::enter_outermost`], [`Engine::enter`] and [`Engine::leave`]. Whoever has unlinked an object
//! takes a number from [`Engine::start`], and any thread that cares, or is idle, pushes grace periods on with
//! [`Engine::advance`], which never blocks. Waiting is built on top of it, in `wait`.
//!
//! A grace period is: read the number `n` it is going to complete; heavy fence; look at each slot until it is 0 or at
//! least `n`; publish `n`. It may be cut short in the look at the slots and continued by another thread, which then
//! goes on with **the number that was fenced**: the current one may be newer than the fence.
//!
//! # Ordering
//!
//! B, C, D, K, L between a slot and the scan; E, F, G in `sequence`; H between two threads that share one grace period, through
//! the lock; I and J in `registry`. The table is in docs/ORDERING.md.

use crate::latency::{Bucket, Latency};
use crate::membarrier;
use crate::registry::{EXITED, Holdout, Registry, Slot};
use crate::sequence::Sequence;
use crate::sync::stat::{AtomicU64, Relaxed};
use crate::sync::{Mutex, Ordering, const_unless_loom, fence, thread_number};
use std::ptr;
use std::time::{Duration, Instant};

/// A domain's grace periods. The process has a global one; any number of private ones may exist beside it.
pub struct Engine {
    readers: Readers,
    sequence: Sequence,
    registry: Registry,
    running: Mutex<Running>,
    grace_periods: AtomicU64,
    membarriers: AtomicU64,
    refusals: AtomicU64,
    latency: Latency,
    #[cfg(not(quietus_loom))]
    pub(crate) watch: crate::watch::Watch,
}

/// What a reader does when it enters, and so what a driver has to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Readers {
    /// They enter often, behind the light half of the asymmetric fence.
    Sections,
    /// They come online seldom, behind a full fence (`qsbr`).
    Online,
}

/// What the grace-period lock protects: the grace period that was fenced and is not complete yet.
struct Running {
    /// Its number; 0: none is running.
    fenced: u64,
    /// The slot that held it up last, or null. Every slot before it on the list has been seen to be out of the way.
    at: *const Slot,
    started: Option<Instant>,
}

// SAFETY: `at` is compared with addresses of slots, and never followed.
unsafe impl Send for Running {}

/// What is left to do after a guard has gone.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Nothing.
    Done,
    /// That was the last guard of a thread that has exited: forget every pointer to the slot, then
    /// [`Engine::give_back`] it. The slot still protects its section.
    GiveBack,
}

/// Numbers for reports.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Grace periods completed.
    pub(crate) grace_periods: u64,
    /// Heavy fences issued: less than one per grace period where nobody else was registered.
    pub(crate) membarriers: u64,
    /// Heavy fences that the kernel refused.
    pub(crate) refusals: u64,
    /// Slots that are claimed, or were once.
    pub(crate) slots: u64,
    /// From before the heavy fence to completion.
    pub(crate) p50: Option<Duration>,
    /// The same, for the slowest in a hundred.
    pub(crate) p99: Option<Duration>,
    /// The whole histogram.
    pub(crate) latency: Vec<Bucket>,
}

impl Engine {
    const_unless_loom! {
        /// An engine that nobody reads through yet.
        pub(crate) fn new() -> Engine {
            Engine::of(Readers::Sections)
        }
    }

    const_unless_loom! {
        /// An engine whose readers come online and go offline, and are inside all the time between.
        pub(crate) fn qsbr() -> Engine {
            Engine::of(Readers::Online)
        }
    }

    const_unless_loom! {
        fn of(readers: Readers) -> Engine {
            Engine {
                readers,
                sequence: Sequence::new(),
                registry: Registry::new(),
                running: Mutex::new(Running { fenced: 0, at: ptr::null(), started: None }),
                grace_periods: AtomicU64::new(0),
                membarriers: AtomicU64::new(0),
                refusals: AtomicU64::new(0),
                latency: Latency::new(),
                #[cfg(not(quietus_loom))]
                watch: crate::watch::Watch::new(),
            }
        }
    }

    // ── the readers' side ──

    /// Enters an outermost section where the mode is asymmetric. `false`: `slot` is inside already, nothing was done.
    #[inline(always)]
    pub(crate) fn enter_outermost(&self, slot: &Slot) -> bool {
        // Relaxed: the owner reads its own store.
        if slot.seq.load(Ordering::Relaxed) != 0 {
            return false;
        }
        self.store_current(slot);
        membarrier::light_asymmetric();
        true
    }

    /// Enters a section in any mode, nested or not. `slot` is the calling thread's.
    #[inline]
    pub(crate) fn enter(&self, slot: &Slot) {
        // Relaxed: the owner reads its own store.
        if slot.seq.load(Ordering::Relaxed) != 0 {
            // Relaxed: owner-only word.
            slot.extra.store(slot.extra.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        } else {
            self.store_current(slot);
        }
        // Nested as well: in fenced mode a signal handler may run between the outer store and the outer fence.
        membarrier::light();
        membarrier::interrupt();
    }

    #[inline(always)]
    pub(crate) fn store_current(&self, slot: &Slot) {
        let current = self.sequence.enter();
        membarrier::interrupt();
        // Release: pairs with the load in scan: the slot's previous section (D), the sequence read (A).
        slot.seq.store(current, Ordering::Release);
    }

    /// Ends one guard's section: the last one out clears the slot.
    #[inline(always)]
    pub(crate) fn leave(&self, slot: &Slot) -> Left {
        // Relaxed: owner-only word.
        if slot.extra.load(Ordering::Relaxed) != 0 {
            return leave_slow(slot);
        }
        // Release: pairs with the load in scan (C).
        slot.seq.store(0, Ordering::Release);
        membarrier::interrupt();
        Left::Done
    }

    /// Moves the section to the current number, so that it no longer holds up older ones; nothing while another guard
    /// is alive. The caller has no reference left from before.
    #[inline]
    pub(crate) fn repin(&self, slot: &Slot) {
        // Relaxed: owner-only word.
        if slot.extra.load(Ordering::Relaxed) & !EXITED != 0 {
            return;
        }
        // The sequence is acquired (K, A), the store is the one that entering makes: Release (K). No fence: a reader
        // that a driver sees here has acquired that driver's number, one that it does not see is still inside.
        self.store_current(slot);
        membarrier::interrupt();
    }

    // ── readers that come online ──

    /// Begins to be inside: from now on the slot holds up grace periods. No-one is inside through it yet.
    pub(crate) fn online(&self, slot: &Slot) {
        self.store_current(slot);
        // SeqCst: pairs with the fence in `fence` (L): a driver that still sees 0 is seen by what we load from here on.
        fence(Ordering::SeqCst);
        membarrier::interrupt();
    }

    /// [`online`](Self::online) for readers that come and go all the time: on x86-64 the store and the fence are one instruction.
    #[cfg(not(quietus_loom))]
    #[inline(always)]
    pub(crate) fn online_often(&self, slot: &Slot) {
        if cfg!(target_arch = "x86_64") {
            let current = self.sequence.enter();
            // SeqCst: as the store and the fence in `online` (A, D, L). A locked exchange is a full barrier for the processor; in
            // the language's own terms it is less than a fence, hence the compiler's.
            slot.seq.swap(current, Ordering::SeqCst);
            crate::sync::compiler_fence(Ordering::SeqCst);
        } else {
            self.online(slot);
        }
    }

    /// A quiescent state: what was loaded before is not used any more. No fence, as in `repin`.
    #[inline]
    pub(crate) fn quiescent(&self, slot: &Slot) {
        let current = self.sequence.enter();
        membarrier::interrupt();
        // Release: pairs with the load in scan (K): what was read before; and the sequence read (A).
        slot.seq.store(current, Ordering::Release);
        membarrier::interrupt();
    }

    /// Ends being inside, until the next `online`.
    #[inline]
    pub(crate) fn offline(&self, slot: &Slot) {
        // Release: pairs with the load in scan (C).
        slot.seq.store(0, Ordering::Release);
        membarrier::interrupt();
    }

    /// A slot for the thread with this number. It stays the thread's until it is given back.
    pub(crate) fn claim(&self, thread: u64, name: Option<Box<str>>) -> &Slot {
        self.registry.claim(thread, name)
    }

    /// Ends the last section of a slot, if there is one, and gives the slot up.
    pub(crate) fn give_back(&self, slot: &Slot) {
        // Release: pairs with the load in scan (C).
        slot.seq.store(0, Ordering::Release);
        self.registry.give_up(slot);
    }

    /// Whether the calling thread is inside a section of this engine, through whatever slot. Walks the list.
    pub(crate) fn is_inside(&self) -> bool {
        self.registry.is_inside(thread_number())
    }

    // ── numbers ──

    /// A cookie for what the calling thread has unlinked so far.
    #[inline]
    pub(crate) fn start(&self) -> u64 {
        self.sequence.start()
    }

    /// Whether every section that was open when the cookie was taken has ended.
    #[inline]
    pub(crate) fn elapsed(&self, cookie: u64) -> bool {
        self.sequence.elapsed(cookie)
    }

    // ── the driver's side ──

    /// Pushes grace periods on towards `want`, without ever waiting: for a reader, for the kernel, or for another
    /// thread that is just doing the same. Returns whether `want` is elapsed.
    pub(crate) fn advance(&self, want: u64) -> bool {
        if self.elapsed(want) {
            return true;
        }
        let Some(mut running) = self.running.try_lock() else { return self.elapsed(want) };
        // Twice at most: the grace period that another thread began with an older number, then one that reaches `want`.
        loop {
            if running.fenced == 0 && (self.elapsed(want) || !self.fence(&mut running, want)) {
                return self.elapsed(want);
            }
            if !self.scan(&mut running) {
                return self.elapsed(want);
            }
            self.complete(&mut running);
        }
    }

    /// Would a grace period need no heavy fence: is no slot another thread's, or do readers fence for themselves?
    pub(crate) fn is_cheap(&self) -> bool {
        self.readers == Readers::Online || self.registry.only_mine(thread_number())
    }

    /// Begins a grace period. `false`: the kernel refused the fence, and there is none.
    fn fence(&self, running: &mut Running, want: u64) -> bool {
        // Before the fence: what is unlinked later is not covered by it (E).
        let n = self.sequence.begin(want);
        // A grace period with nobody to wait for is not timed: it would take less time than the clock does. (If it is the calling thread
        // that is in the way, the scan looks at the clock.)
        let mut started = None;
        if self.readers == Readers::Online {
            started = clock();
            // SeqCst: pairs with the fences in `online` and `claim` (L): who comes online unseen by the scan sees the unlinks.
            fence(Ordering::SeqCst);
        } else if !self.registry.only_mine(thread_number()) {
            started = clock();
            // Relaxed: a statistic.
            self.membarriers.fetch_add(1, Relaxed);
            if !membarrier::heavy() {
                // Relaxed: a statistic.
                self.refusals.fetch_add(1, Relaxed);
                return false;
            }
        }
        // The scan reads the list, and the owners, after the fence: a thread that claims its slot later sees the unlinks (I). The lock
        // passes the number on, after the fence, to whoever begins or continues the scan (H).
        *running = Running { fenced: n, at: ptr::null(), started };
        true
    }

    /// Looks at the slots from where the last look stopped. `false`: the slot it stopped at is in the way.
    fn scan(&self, running: &mut Running) -> bool {
        for slot in self.registry.claimed_from(running.at) {
            // Acquire: pairs with the stores in leave (C), store_current (D, K) and give_back.
            let seq = slot.seq.load(Ordering::Acquire);
            if seq != 0 && seq < running.fenced {
                running.at = slot;
                running.started = running.started.or_else(clock);
                return false;
            }
        }
        true
    }

    fn complete(&self, running: &mut Running) {
        self.sequence.complete(running.fenced);
        // Relaxed: a statistic.
        self.grace_periods.fetch_add(1, Relaxed);
        if let Some(started) = running.started {
            self.latency.record(started.elapsed());
        }
        *running = Running { fenced: 0, at: ptr::null(), started: None };
    }

    /// In a fork child: the sections of all threads but the calling one are over, and the grace period that was running begins anew.
    ///
    /// # Safety
    ///
    /// 1. The process has one thread.
    #[cfg(not(quietus_loom))]
    pub(crate) unsafe fn forked(&self) {
        if self.running.is_locked() {
            // SAFETY: by (1) its holder does not exist, and what it has left is overwritten; or it is this thread, which was interrupted by
            // the handler that has forked, and whose child may only `exec`.
            unsafe { self.running.force_unlock() };
        }
        *self.running.lock() = Running { fenced: 0, at: ptr::null(), started: None };
        // SAFETY: by (1).
        unsafe { self.registry.forked(thread_number()) };
    }

    // ── reports ──

    /// The statistics so far.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            grace_periods: self.grace_periods.load(Relaxed),
            membarriers: self.membarriers.load(Relaxed),
            // Relaxed: a statistic.
            refusals: self.refusals.load(Relaxed),
            slots: self.registry.used(),
            p50: self.latency.quantile(0.50),
            p99: self.latency.quantile(0.99),
            latency: self.latency.buckets(),
        }
    }

    /// The grace period that is running, and for how long; the outer `None`: somebody is busy with it.
    #[cfg(not(quietus_loom))]
    pub(crate) fn running(&self) -> Option<Option<(u64, Duration)>> {
        let running = self.running.try_lock()?;
        Some(running.started.filter(|_| running.fenced != 0).map(|started| (running.fenced, started.elapsed())))
    }

    /// The slots whose sections are older than `cookie`: those that keep it from elapsing.
    pub(crate) fn holdouts(&self, cookie: u64) -> Vec<Holdout> {
        self.registry.holdouts(cookie)
    }

    /// Ends every section there is: the domain is going, and only leaked guards are left.
    ///
    /// # Safety
    ///
    /// 1. Nothing is read through any of them any more.
    #[cfg(not(quietus_loom))]
    pub(crate) unsafe fn abandon_sections(&self) {
        // SAFETY: (1) is contract 1.
        unsafe { self.registry.abandon_sections() };
    }
}

#[cold]
#[inline(never)]
fn leave_slow(slot: &Slot) -> Left {
    // Relaxed: owner-only word.
    let extra = slot.extra.load(Ordering::Relaxed);
    if extra == EXITED {
        return Left::GiveBack;
    }
    // Relaxed: as above.
    slot.extra.store(extra - 1, Ordering::Relaxed);
    Left::Done
}

fn clock() -> Option<Instant> {
    (!cfg!(quietus_loom)).then(Instant::now)
}
