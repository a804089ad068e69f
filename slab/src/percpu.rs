//! One 64-bit word per CPU and purpose, changed without atomics by restartable sequences or, where they are missing, under a
//! try-lock per slot: the same operations either way.
//!
//! Handed to by [`front`](crate::front) (`{main, spare}` of a cache) and by `quietus-kvfree` (`{open, closed}` of a lane);
//! hands to [`rseq`](crate::rseq).
//!
//! # Layout
//! The area is an array of *regions* of 64 KiB, of which only touched pages are backed. With sequences there is one region for
//! each possible CPU, and after them the *slots*: regions used under their try-lock by threads that cannot run a sequence
//! (not registered, or their CPU is being drained). Without sequences there are slots only, one per possible CPU.
//! Regions of simulated CPUs ([`machine`](crate::machine)) are slots in an area of their own.
//! The first cache line of a region holds the stop flag of a CPU, or the lock of a slot; the words
//! behind it are handed out by [`Word::allocate`]. A word holds two block numbers, low and high.
//!
//! # Ordering
//! Pair **R**: [`stop`] — flag, then the restarting membarrier, then the edit, then the flag cleared with Release — against the flag's
//! load inside each section. A slot's lock is Acquire to take and Release to give back. The mode is fixed at first use, for
//! the whole process: a try-lock does not exclude a sequence's commit, so the two never share a region.

use crate::cpu;
use crate::lock::{Held, Lock as Mutex, once};
pub(crate) use crate::machine::REGION_SHIFT;
use crate::machine::{self, Machine};
use crate::page::{self, BlockNo};
use crate::{os, rseq};
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};
use std::time::Instant;

/// Where a region's stop flag, or lock, stands. Regions and blocks are both aligned to pages, and loads that have the page offset
/// of an earlier store look dependent on it to the processor: so not where a block has a field that fast paths store.
pub(crate) const STOP_OFFSET: usize = 32;
/// First word that is handed out: behind the flag's cache line.
const FIRST_WORD: u32 = 8;
const WORDS: u32 = 1 << (REGION_SHIFT - 3);
/// Slots beside the CPUs' regions where sequences are used.
const STRAYS: u32 = 4;

struct Area {
    base: *mut u8,
    /// Regions below this number belong to CPUs and their sequences.
    cpus: u32,
    /// Number of regions.
    regions: u32,
    reason: &'static str,
}
// SAFETY: `base` points to immortal zeroed memory that is only accessed as atomics, or by sequences under pair R.
unsafe impl Sync for Area {}
// SAFETY: as above.
unsafe impl Send for Area {}

static AREA: OnceLock<Area> = OnceLock::new();

/// How the environment variable `QUIETUS_RSEQ` reads: `on` and `auto` use sequences where they work, `off` never does.
fn switched_off() -> bool {
    std::env::var("QUIETUS_RSEQ").is_ok_and(|v| v == "off" || v == "0")
}

fn area() -> &'static Area {
    once(&AREA, || {
        page::init();
        let cpus = cpu::topology().possible;
        let found = if switched_off() { Err("switched off by QUIETUS_RSEQ") } else { rseq::detect() };
        let (own, slots) = if found.is_ok() { (cpus, STRAYS) } else { (0, cpus) };
        let regions = own + slots;
        let base =
            os::reserve((regions as usize) << REGION_SHIFT).expect("no address space for per-CPU words").as_ptr();
        if let Ok(offset) = found {
            // Relaxed: stored by `page::init` on this thread, or before it was seen to be done.
            rseq::enable(offset, base, page::BASE.load(Relaxed).cast(), own);
        }
        Area { base, cpus: own, regions, reason: found.err().unwrap_or("in use") }
    })
}

/// Are restartable sequences in use, and why (not)? Fixes the mode if nothing has yet.
pub fn rseq_report() -> (bool, &'static str) {
    let a = area();
    (a.cpus > 0, a.reason)
}

/// Sets up the area; called before a first word is handed out, so that fast paths need not look.
pub(crate) fn init() {
    area();
}

/// A region: a CPU's, or a slot's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site(u32);

/// The low and high block of a word's value.
pub fn unpack(value: u64) -> (BlockNo, BlockNo) {
    (BlockNo(value as u32), BlockNo((value >> 32) as u32))
}

/// The value of a word that names two blocks.
pub fn pack(low: BlockNo, high: BlockNo) -> u64 {
    u64::from(low.0) | u64::from(high.0) << 32
}

/// One word in every region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Word(u32);

static WORD_POOL: Mutex<(u32, Vec<u32>)> = Mutex::new((FIRST_WORD, Vec::new()));

impl Word {
    /// The word that is 0 everywhere and stays so: every pop and push on it fails.
    pub const NONE: Word = Word(8 * (WORDS - 1));

    /// A word of its own, 0 in every region. `None` when all 8,183 are in use.
    pub fn allocate() -> Option<Word> {
        init();
        Self::from_pool(&mut WORD_POOL.lock())
    }

    /// [`allocate`](Self::allocate), if nobody else is at it.
    pub fn try_allocate() -> Option<Word> {
        init();
        Self::from_pool(&mut *WORD_POOL.try_lock()?)
    }

    fn from_pool(pool: &mut (u32, Vec<u32>)) -> Option<Word> {
        if let Some(w) = pool.1.pop() {
            return Some(Word(w));
        }
        if pool.0 >= WORDS - 1 {
            return None;
        }
        pool.0 += 1;
        Some(Word(8 * (pool.0 - 1)))
    }

    /// Gives a word back.
    ///
    /// # Safety
    /// 1. The word came from [`allocate`](Self::allocate), is 0 in every region, and nobody uses it any more.
    pub unsafe fn release(self) {
        WORD_POOL.lock().1.push(self.0);
    }

    /// The number that [`from_raw`](Self::from_raw) takes.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// # Safety
    /// 1. `n` came from [`get`](Self::get).
    #[inline(always)]
    pub unsafe fn from_raw(n: u32) -> Word {
        Word(n)
    }

    fn at(self, site: Site) -> &'static AtomicU64 {
        debug_assert!(self.0.is_multiple_of(8) && self.0 < 1 << REGION_SHIFT);
        // SAFETY: the region and the offset are inside an area, which is immortal, zeroed, and aligned to a page.
        unsafe { &*region(site).add(self.0 as usize).cast::<AtomicU64>() }
    }

    /// The value in a region: a stale look, to be confirmed by [`exchange`](Self::exchange).
    pub fn load(self, site: Site) -> u64 {
        // Acquire: the header of the block named was written before the word (R).
        self.at(site).load(Acquire)
    }

    /// Replaces the value `old` by `new` in the region, from this thread. Whoever gets true owns the blocks that `old` names
    /// and `new` does not, **in whatever state they are by now**.
    pub fn exchange(self, site: Site, old: u64, new: u64) -> bool {
        if site.0 < area().cpus {
            return rseq::cpu() == Some(site.0) && rseq::exchange(self.0, old, new);
        }
        let Some(_lock) = Lock::try_take(site) else { return false };
        let word = self.at(site);
        // Relaxed: under the slot's lock. Release: its header, for stale looks.
        word.load(Relaxed) == old && {
            word.store(new, Release);
            true
        }
    }

    /// Closes the open block of `{open, closed}`: see [`rseq::close`].
    pub fn close(self, site: Site, old: u64, fresh: BlockNo) -> bool {
        if site.0 < area().cpus {
            return rseq::cpu() == Some(site.0) && rseq::close(self.0, old, fresh.0);
        }
        let Some(_lock) = Lock::try_take(site) else { return false };
        let (open, closed) = unpack(old);
        let word = self.at(site);
        // Relaxed: under the slot's lock.
        word.load(Relaxed) == old && {
            if open.is_some() {
                open.block().set_next(closed);
            }
            // Release: the headers, for stale looks (R).
            word.store(pack(fresh, open), Release);
            true
        }
    }

    /// Takes a pointer from the low block. Null: empty, or not possible just now.
    #[inline(always)]
    pub fn pop(self) -> *mut u8 {
        rseq::pop(self.0)
    }
    /// Puts a pointer into the low block. False: full, or not possible just now.
    #[inline(always)]
    pub fn push(self, p: *mut u8) -> bool {
        rseq::push(self.0, p)
    }
    /// Puts a retired pointer and its weight into the low block. False: full, or not possible just now.
    #[inline(always)]
    pub fn retire(self, p: *mut u8, weight: u32) -> bool {
        rseq::retire(self.0, p, weight)
    }
    /// Puts two words and a weight into the low block. False: full, or not possible just now.
    #[inline(always)]
    pub fn retire_pair(self, p: *mut u8, q: *mut u8, weight: u32) -> bool {
        rseq::retire_pair(self.0, p, q, weight)
    }

    /// [`pop`](Self::pop) in a region of the caller's choice.
    pub fn pop_at(self, site: Site) -> *mut u8 {
        if site.0 < area().cpus {
            return rseq::pop(self.0);
        }
        // SAFETY: `with_low` holds the slot's lock, so the low block is ours.
        self.with_low(site, |b| unsafe { b.block().pop() }).flatten().unwrap_or(std::ptr::null_mut())
    }
    /// [`push`](Self::push) in a region of the caller's choice.
    pub fn push_at(self, site: Site, p: *mut u8) -> bool {
        if site.0 < area().cpus {
            return rseq::push(self.0, p);
        }
        push_low(self, site, p)
    }
    /// [`retire`](Self::retire) in a region of the caller's choice.
    pub fn retire_at(self, site: Site, p: *mut u8, weight: u32) -> bool {
        if site.0 < area().cpus {
            return rseq::retire(self.0, p, weight);
        }
        // SAFETY: as in `pop_at`.
        self.with_low(site, |b| unsafe { b.block().retire(&[p], weight) }).unwrap_or(false)
    }
    /// [`retire_pair`](Self::retire_pair) in a region of the caller's choice.
    pub fn retire_pair_at(self, site: Site, p: *mut u8, q: *mut u8, weight: u32) -> bool {
        if site.0 < area().cpus {
            return rseq::retire_pair(self.0, p, q, weight);
        }
        // SAFETY: as in `pop_at`.
        self.with_low(site, |b| unsafe { b.block().retire(&[p, q], weight) }).unwrap_or(false)
    }

    /// Runs `f` on the low block of a slot's word, under the slot's lock. `None`: somebody else has the lock.
    pub(crate) fn with_low<R>(self, site: Site, f: impl FnOnce(BlockNo) -> R) -> Option<R> {
        let _lock = Lock::try_take(site)?;
        // Relaxed: under the slot's lock.
        Some(f(unpack(self.at(site).load(Relaxed)).0))
    }
}

fn push_low(word: Word, site: Site, p: *mut u8) -> bool {
    // SAFETY: `with_low` holds the slot's lock, so the low block is ours.
    word.with_low(site, |b| unsafe { b.block().push(p) }).unwrap_or(false)
}

/// The lock of a slot, held.
pub(crate) struct Lock(&'static AtomicU32);

impl Lock {
    fn of(site: Site) -> &'static AtomicU32 {
        debug_assert!(site.0 >= area().cpus);
        stop_flag(site)
    }
    fn try_take(site: Site) -> Option<Lock> {
        let word = Self::of(site);
        // Acquire: pairs with the Release of the last holder (R, try-lock form).
        let taken = word.load(Relaxed) == 0 && word.compare_exchange(0, 1, Acquire, Relaxed).is_ok();
        // Not `then_some`: a Lock that is made and dropped would unlock for whoever has it.
        taken.then(|| Lock(word))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Release: pairs with the Acquire of the next holder (R, try-lock form).
        self.0.store(0, Release);
    }
}

/// Takes the slots one after another, for a fork; those that are not free by `end` stay out.
pub(crate) fn take_slots(end: Instant) -> Vec<Lock> {
    let Some(a) = AREA.get() else { return Vec::new() };
    let take = |site| loop {
        match Lock::try_take(site) {
            None if Instant::now() < end => std::thread::yield_now(),
            lock => return lock,
        }
    };
    (a.cpus..a.regions).map(Site).filter_map(take).collect()
}

/// A CPU's stop flag, or a slot's lock: both stand at `STOP_OFFSET`.
fn stop_flag(site: Site) -> &'static AtomicU32 {
    // SAFETY: inside a region of an immortal area.
    unsafe { &*region(site).add(STOP_OFFSET).cast::<AtomicU32>() }
}

/// First byte of a region.
fn region(site: Site) -> *mut u8 {
    let a = area();
    if site.0 < machine::FIRST {
        debug_assert!(site.0 < a.regions);
        return a.base.wrapping_add((site.0 as usize) << REGION_SHIFT);
    }
    machine::base(site.0)
}

/// The regions this thread may work in now, best first: its CPU's (unless that is stopped), then slots, beginning with
/// one chosen by CPU. A failed try-lock goes on to the neighbour and never spins.
pub fn sites() -> impl Iterator<Item = Site> {
    sites_of(None)
}

/// [`sites`] of a machine: on a simulated one, the CPU that the thread says it is on.
pub(crate) fn sites_of(machine: Option<&'static Machine>) -> impl Iterator<Item = Site> {
    let a = area();
    let (first, slots) = machine.map_or((a.cpus, a.regions - a.cpus), |m| (m.first(), m.topology().possible));
    // Relaxed: a hint; the section itself looks again (R).
    let own = match machine {
        None => rseq::cpu().map(Site).filter(|&s| stop_flag(s).load(Relaxed) == 0),
        Some(_) => None,
    };
    // Which CPU it is is asked late: mostly the first answer serves.
    let start = move || machine.map_or_else(cpu::current, Machine::current);
    own.into_iter().chain((0..slots.min(8)).map(move |k| Site(first + (start() + k) % slots)))
}

/// The region that a CPU's threads work in first.
pub(crate) fn site_of(machine: Option<&'static Machine>, cpu: u32) -> Option<Site> {
    let a = area();
    let first = machine.map_or(0, Machine::first);
    let cpus = machine.map_or(if a.cpus > 0 { a.cpus } else { a.regions }, |m| m.topology().possible);
    (cpu < cpus).then_some(Site(first + cpu))
}

/// Every region of a machine.
pub(crate) fn all_sites_of(machine: Option<&'static Machine>) -> impl Iterator<Item = Site> {
    let (first, regions) = machine.map_or((0, regions()), |m| (m.first(), m.topology().possible));
    (first..first + regions).map(Site)
}

/// Every region of the real machine.
pub fn all_sites() -> impl Iterator<Item = Site> {
    all_sites_of(None)
}

impl Site {
    /// Do sections work here, rather than a lock?
    pub(crate) fn has_sections(self) -> bool {
        self.0 < area().cpus
    }
    /// The number of the region.
    pub fn index(self) -> u32 {
        self.0
    }
    /// The region with this number.
    pub(crate) fn from_index(n: u32) -> Site {
        debug_assert!(n < area().regions);
        Site(n)
    }
    /// The CPU whose threads work here first; `None`: a slot for strays, or a simulated CPU.
    pub(crate) fn cpu(self) -> Option<u32> {
        let a = area();
        (a.cpus == 0 || self.0 < a.cpus).then_some(self.0).filter(|&n| n < machine::FIRST)
    }
}

/// Number of regions: CPUs and slots.
pub fn regions() -> u32 {
    area().regions
}

static DRAIN: Mutex<()> = Mutex::new(());

/// A region in which nobody else can work until this is dropped.
pub struct Stopped<'a> {
    site: Site,
    _lock: Option<&'a Lock>,
}

impl Stopped<'_> {
    /// The region.
    pub fn site(&self) -> Site {
        self.site
    }
    /// Replaces a word's value and returns the old one, whose blocks are the caller's now.
    pub fn take(&self, word: Word, new: u64) -> u64 {
        let w = word.at(self.site);
        // Acquire: after the restart (R) this is the last committed value. Release: headers of the new blocks.
        let old = w.load(Acquire);
        w.store(new, Release);
        old
    }
}

/// Stops every region for which `wanted` holds, calls `edit` for each, and lets them go on. Concurrent calls wait for each
/// other; threads working in the regions never wait: they fail over. All CPUs together cost one membarrier (about 9 µs with
/// two running threads). False: the kernel refused the membarrier, and no CPU region was edited.
///
/// `edit` must not block, allocate from a cache, or retire.
pub fn stop(mut wanted: impl FnMut(Site) -> bool, mut edit: impl FnMut(&Stopped<'_>)) -> bool {
    let serial: Held<'_, ()> = DRAIN.lock();
    let a = area();
    let (mut stopped, mut last) = (0, 0);
    for s in (0..a.cpus).map(Site).filter(|&s| wanted(s)) {
        // SeqCst: the flag is out before the membarrier restarts the sections, each of which looks at it again (R).
        stop_flag(s).store(1, SeqCst);
        (stopped, last) = (stopped + 1, s.0);
    }
    let done = match stopped {
        0 => true,
        1 => rseq::restart(Some(last)),
        _ => rseq::restart(None),
    };
    // Only `stop` sets the flags, one call at a time, so those that are set are ours.
    // Relaxed: our own stores, or another's under the lock that is held (R).
    for s in (0..a.cpus).map(Site).filter(|&s| stopped > 0 && stop_flag(s).load(Relaxed) != 0) {
        if done {
            edit(&Stopped { site: s, _lock: None });
        }
        // Release: the edit is seen by the next section, which loads the flag first (R).
        stop_flag(s).store(0, Release);
    }
    stop_slots((a.cpus..a.regions).map(Site), wanted, edit);
    drop(serial);
    done
}

/// [`stop`] for the regions of a machine: on a simulated one, all are slots.
pub(crate) fn stop_of(
    machine: Option<&'static Machine>,
    wanted: impl FnMut(Site) -> bool,
    edit: impl FnMut(&Stopped<'_>),
) -> bool {
    if machine.is_none() {
        return stop(wanted, edit);
    }
    let _serial: Held<'_, ()> = DRAIN.lock();
    stop_slots(all_sites_of(machine), wanted, edit);
    true
}

/// The part of [`stop`] for slots: whoever is at work in one is waited for.
fn stop_slots(
    slots: impl Iterator<Item = Site>,
    mut wanted: impl FnMut(Site) -> bool,
    mut edit: impl FnMut(&Stopped<'_>),
) {
    for s in slots {
        if wanted(s) {
            let lock = loop {
                match Lock::try_take(s) {
                    Some(lock) => break lock,
                    None => std::thread::yield_now(),
                }
            };
            edit(&Stopped { site: s, _lock: Some(&lock) });
        }
    }
}
