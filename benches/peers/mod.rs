//! What the benchmarks measure, behind four small traits: [`Readers`] ← [`Reclaims`] ← [`Cycles`], and [`Waits`].
//!
//! One file per contender: `quietus` and `qsbr`, the peers `crossbeam`, `seize`, `sdd`, `haphazard`, `urcu`, and in `floor` what uses
//! no reclamation at all. `allocators` has the same for memory alone, `boxes` for what has a destructor. `crew` runs threads, `ring` joins two, `rss` runs
//! processes.
//!
//! Everything that is not ours allocates through the global allocator, which is mimalloc in every benchmark.

// Each benchmark uses a part of this.
#![allow(dead_code)]

pub(crate) mod allocators;
pub(crate) mod boxes;
pub(crate) mod crew;
pub(crate) mod crossbeam;
pub(crate) mod floor;
pub(crate) mod haphazard;
pub(crate) mod qsbr;
pub(crate) mod quietus;
pub(crate) mod ring;
pub(crate) mod rss;
pub(crate) mod sdd;
pub(crate) mod seize;
pub(crate) mod urcu;

use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, Ordering::Acquire};

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The object of all benchmarks: 64 bytes, nothing to drop.
pub(crate) type Node = [u64; 8];

/// Shared slots that writers publish into: many enough that two threads seldom meet.
pub(crate) const SLOTS: usize = 1024;

/// Who can read a slot inside a section.
pub(crate) trait Readers: Sized + Sync {
    /// As reports show it.
    const NAME: &'static str;
    /// A shared pointer to a node; frees what is in it when dropped.
    type Slot: Send + Sync;
    /// What a thread that takes part keeps; made and dropped on it.
    type Local;
    /// A fresh one, or why there is none on this machine.
    fn new() -> Result<Self, String>;
    /// Introduces the calling thread.
    fn local(&self) -> Self::Local;
    /// A slot with a value in it.
    fn slot(&self, value: Node) -> Self::Slot;
    /// Guard, load, look at the node, leave.
    fn read(&self, local: &mut Self::Local, slot: &Self::Slot) -> u64;
}

/// Who can take a node out of the readers' reach and have it freed.
pub(crate) trait Reclaims: Readers {
    /// Guard, allocate, write, publish, retire what was there, leave.
    fn replace(&self, local: &mut Self::Local, slot: &Self::Slot, value: Node);
    /// What a thread that goes away should do for those that stay.
    fn flush(&self, _local: &mut Self::Local) {}
    /// Frees all that this thread has retired, and, where the contender can say it, all that others have, who have left.
    fn barrier(&self, local: &mut Self::Local);
}

/// Who can retire a node that was never published.
pub(crate) trait Cycles: Reclaims {
    /// Guard, allocate, write, retire, leave.
    fn cycle(&self, local: &mut Self::Local, value: Node);
}

/// Who can wait for a grace period.
pub(crate) trait Waits: Readers {
    /// Waits until every section that is open now has ended.
    fn synchronize(&self, local: &mut Self::Local);
}

/// A fresh contender; `None`, with a line that says so, if this machine has none.
pub(crate) fn make<P: Readers>() -> Option<P> {
    match P::new() {
        Ok(peer) => Some(peer),
        Err(why) => {
            println!("{}: skipped: {why}", P::NAME);
            None
        }
    }
}

/// The slots that writers publish into.
pub(crate) fn slots<P: Readers>(peer: &P) -> Vec<P::Slot> {
    (0..SLOTS).map(|n| peer.slot([n as u64; 8])).collect()
}

/// A slot whose nodes are Boxes: what most peers work with.
pub(crate) struct BoxSlot(pub(crate) AtomicPtr<Node>);

impl BoxSlot {
    pub(crate) fn new(value: Node) -> BoxSlot {
        BoxSlot(AtomicPtr::new(boxed(value)))
    }

    /// The node's first word.
    ///
    /// # Safety
    /// 1. Nobody frees what is in the slot during the call.
    #[inline(always)]
    pub(crate) unsafe fn look(&self) -> u64 {
        // SAFETY: never null; live by (1).
        unsafe { (*self.0.load(Acquire))[0] }
    }
}

impl Drop for BoxSlot {
    fn drop(&mut self) {
        // SAFETY: never null, a Box's, ours alone by now.
        unsafe { unbox(*self.0.get_mut()) }
    }
}

#[inline(always)]
pub(crate) fn boxed(value: Node) -> *mut Node {
    Box::into_raw(Box::new(value))
}

/// # Safety
/// 1. `node` came from [`boxed`], and nobody uses it any more.
#[inline(always)]
pub(crate) unsafe fn unbox(node: *mut Node) {
    // SAFETY: by (1).
    drop(unsafe { Box::from_raw(node) });
}

/// A pointer that may go to another thread with its node.
#[derive(Clone, Copy)]
pub(crate) struct Handed(pub(crate) NonNull<Node>);

// SAFETY: nodes are plain data, and the pointer is used by one thread at a time.
unsafe impl Send for Handed {}

/// Marsaglia's xorshift: cheap, the same for everyone.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: usize) -> Random {
        Random(0x9E37_79B9_7F4A_7C15 + seed as u64)
    }
    #[inline(always)]
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    #[inline(always)]
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }
}
