//! The page of pointers — a **block** — and the lock-free supply of such pages.
//!
//! A block is one page: a header and 504 pointer slots. The same type is the kernel's *sheaf* (free objects of one cache) and
//! its `kvfree_rcu_bulk_data` (retired pointers). Blocks live in one immortal array and are known by 32-bit **numbers** (their byte
//! offset in it), so that two of them fit the one word that a per-CPU commit stores.
//!
//! Handed to by [`percpu`](crate::percpu), [`node`](crate::node) and `quietus-kvfree` (reserve, batches).
//!
//! # Layout
//! The first page, number 0, has capacity 0 and belongs to nobody: "no block" needs no test on a fast path, because it is empty for a pop
//! and full for a push. The second is its twin and marks the words of a dead cache.
//!
//! Blocks are a cache line longer than a page: with headers at equal offsets of their pages, programs that use many sizes would
//! find all of them in one set of the first-level cache (measured: a tenth off an allocate-and-retire cycle of mixed sizes).
//!
//! # Ordering
//! A block has one owner at a time (a per-CPU word, a list under a lock, a stack, a thread). Its fields are atomics only
//! because a stale reader may look: statistics, and the pop of a stack, which reads `next` of a block that it may not get.
//! Pair **N**: [`Stack::push`] Release, [`Stack::pop`] Acquire — the contents of a page that changes hands.

use crate::lock::once;
use crate::os;
use std::cell::UnsafeCell;
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicPtr, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

/// Pointer slots in a block.
pub const SLOTS: u32 = 504;
/// Bytes of a block: one page, and a cache line more, so that the headers of many blocks in use do not all fall into one set of
/// the cache.
pub const BLOCK_BYTES: usize = os::PAGE + 64;
/// Bytes per unit of a block's weight.
pub const WEIGHT_UNIT: usize = 16;

/// One page of pointers. See the module for who owns it when.
#[repr(C, align(64))]
pub struct Block {
    /// As a sheaf: number of free objects in the slots.
    pub(crate) len: AtomicU32,
    pad: u32,
    /// Slots that may be used.
    pub(crate) cap: AtomicU32,
    /// The next block of the chain or stack that this one is in.
    pub(crate) next: AtomicU32,
    /// As a retire block: low half, number of slots in use; high half, their bytes in units of [`WEIGHT_UNIT`].
    pub(crate) fill: AtomicU64,
    /// Free for the owner of a closed chain: the grace period it waits for.
    pub cookie: AtomicU64,
    /// Free for the owner of a closed chain: first block of the next batch in the queue.
    pub batch: AtomicU32,
    /// Free for the opener: the CPU whose reserve this block came from.
    pub owner: AtomicU32,
    /// Free for the opener: when it was opened, in a clock of the opener's choice.
    pub opened: AtomicU64,
    /// Free for the opener: which lane filled it.
    pub lane: AtomicU32,
    reserved: [u32; 3],
    pub(crate) slots: [UnsafeCell<*mut u8>; SLOTS as usize],
    apart: [u64; 8],
}

const _: () = assert!(size_of::<Block>() == BLOCK_BYTES);
const _: () = assert!(std::mem::offset_of!(Block, slots) == 64);
const _: () = assert!(std::mem::offset_of!(Block, len) == 0 && std::mem::offset_of!(Block, fill) == 16);
const _: () = assert!(std::mem::offset_of!(Block, cap) == 8 && std::mem::offset_of!(Block, next) == 12);

// SAFETY: every field but `slots` is atomic; `slots` are touched only by the block's one owner (module doc), and ownership
// moves through Release/Acquire pairs (N, locks) or through the per-CPU protocol.
unsafe impl Sync for Block {}

/// Number of a block in the immortal array.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BlockNo(pub(crate) u32);

impl BlockNo {
    /// "No block": a page of capacity 0.
    pub const NONE: BlockNo = BlockNo(0);
    /// The mark of a dead cache's words: also of capacity 0.
    pub(crate) const DEAD: BlockNo = BlockNo(BLOCK_BYTES as u32);

    /// Is this a page that can hold something?
    pub fn is_some(self) -> bool {
        self.0 > Self::DEAD.0
    }
    /// The number itself.
    pub fn get(self) -> u32 {
        self.0
    }
    /// The block of a number that [`get`](Self::get) gave.
    pub fn from_raw(n: u32) -> Self {
        BlockNo(n)
    }
    /// The page.
    #[inline]
    pub fn block(self) -> &'static Block {
        // Relaxed: having a number means having synchronised with the storing of these (`range`).
        let base = BASE.load(Relaxed);
        assert!(self.0 <= LAST.load(Relaxed) && (self.0 as usize).is_multiple_of(BLOCK_BYTES), "not a block's number");
        // SAFETY: a multiple of a block inside the range, which is immortal and zeroed at first;
        // all zero is a valid `Block`. Relaxed suffices for `BASE`: having a number means having synchronised with `range`.
        unsafe { &*base.byte_add(self.0 as usize) }
    }
}

impl Block {
    /// Free objects in a sheaf. Racy unless the caller owns the block.
    pub fn len(&self) -> u32 {
        // Relaxed: the block is ours, or this is a stale look (N).
        self.len.load(Relaxed)
    }
    /// Is there no free object in the sheaf?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Slots in use in a retire block. Racy unless the caller owns the block.
    pub fn filled(&self) -> u32 {
        // Relaxed: the block is ours, or this is a stale look (N).
        self.fill.load(Relaxed) as u32
    }
    /// Bytes in a retire block, as told by whoever retired.
    pub fn bytes(&self) -> usize {
        // Relaxed: the block is ours, or this is a stale look (N).
        (self.fill.load(Relaxed) >> 32) as usize * WEIGHT_UNIT
    }
    /// Slots that may be used.
    pub fn capacity(&self) -> u32 {
        // Relaxed: the block is ours, or this is a stale look (N).
        self.cap.load(Relaxed)
    }
    /// Makes an owned block empty, with room for `cap` slots.
    pub fn reset(&self, cap: u32) {
        debug_assert!(cap <= SLOTS);
        // Relaxed: the block is ours, or this is a stale look (N).
        self.len.store(0, Relaxed);
        self.fill.store(0, Relaxed);
        self.cap.store(cap, Relaxed);
        self.next.store(0, Relaxed);
    }
    /// The next block of an owned chain.
    pub fn next(&self) -> BlockNo {
        // Relaxed: the block is ours, or this is a stale look (N).
        BlockNo(self.next.load(Relaxed))
    }
    /// Links an owned block in front of `next`.
    pub fn set_next(&self, next: BlockNo) {
        // Relaxed: the block is ours, or this is a stale look (N).
        self.next.store(next.0, Relaxed);
    }
    /// Slot `i` of a block.
    ///
    /// # Safety
    /// 1. The caller owns the block, and slot `i` is in use.
    pub unsafe fn slot(&self, i: u32) -> *mut u8 {
        // SAFETY: by (1) nobody writes it; `i` < len <= SLOTS.
        unsafe { *self.slots.get_unchecked(i as usize).get() }
    }
    /// Adds a pointer to an owned block; false when it is full.
    ///
    /// # Safety
    /// 1. The caller owns the block.
    pub unsafe fn push(&self, p: *mut u8) -> bool {
        let n = self.len();
        if n >= self.cap.load(Relaxed) {
            return false;
        }
        // SAFETY: by (1) nobody else touches the slots; n < cap <= SLOTS.
        unsafe { *self.slots[n as usize].get() = p };
        // Relaxed: the block is ours, or this is a stale look (N).
        self.len.store(n + 1, Relaxed);
        true
    }
    /// Takes the newest pointer of an owned block.
    ///
    /// # Safety
    /// 1. The caller owns the block.
    pub unsafe fn pop(&self) -> Option<*mut u8> {
        let n = self.len().checked_sub(1)?;
        // SAFETY: by (1); n < len.
        let p = unsafe { self.slot(n) };
        // Relaxed: the block is ours, or this is a stale look (N).
        self.len.store(n, Relaxed);
        Some(p)
    }
    /// The free objects of an owned sheaf.
    ///
    /// # Safety
    /// 1. The caller owns the block for `'a`, and pushes and pops nothing meanwhile.
    pub unsafe fn pointers<'a>(&self) -> &'a [*mut u8] {
        // SAFETY: by (1) `len` slots are initialised and nobody writes them; UnsafeCell<*mut u8> has the layout of *mut u8.
        unsafe { std::slice::from_raw_parts(self.slots.as_ptr().cast::<*mut u8>(), self.len() as usize) }
    }
    /// The slots in use of an owned retire block.
    ///
    /// # Safety
    /// 1. As [`pointers`](Self::pointers).
    pub unsafe fn retired<'a>(&self) -> &'a [*mut u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.slots.as_ptr().cast::<*mut u8>(), self.filled() as usize) }
    }
    /// Adds `items` to a retire block: all, or none.
    ///
    /// # Safety
    /// 1. The caller owns the block.
    pub unsafe fn retire(&self, items: &[*mut u8], weight: u32) -> bool {
        let n = self.filled();
        if n + items.len() as u32 > self.capacity() {
            return false;
        }
        for (slot, &p) in self.slots[n as usize..].iter().zip(items) {
            // SAFETY: by (1) nobody else touches the slots.
            unsafe { *slot.get() = p };
        }
        // Relaxed: the block is ours, or this is a stale look (N).
        let fill = self.fill.load(Relaxed);
        self.fill.store(fill + items.len() as u64 + (u64::from(weight) << 32), Relaxed);
        true
    }
    /// Turns an owned retire block, whose objects are free by now, into a sheaf of them.
    pub fn become_sheaf(&self) {
        // Relaxed: the block is ours, or this is a stale look (N).
        self.len.store(self.filled(), Relaxed);
        self.fill.store(0, Relaxed);
    }
    /// Limits an owned block to `cap` slots.
    pub fn set_capacity(&self, cap: u32) {
        debug_assert!(cap <= SLOTS);
        // Relaxed: the block is ours, or this is a stale look (N).
        self.cap.store(cap, Relaxed);
    }
    /// Invariants of a block at rest; looked at in debug builds when a barn takes it.
    pub fn check(&self) {
        // Relaxed: the block is ours, or this is a stale look (N).
        debug_assert!(self.cap.load(Relaxed) <= SLOTS, "block capacity out of range");
        debug_assert!(self.len() <= SLOTS && self.filled() <= SLOTS, "block length out of range");
    }
}

/// The immortal array.
struct Range {
    limit: u32,
    bump: AtomicU32,
}

/// First block; null until [`range`] has run.
pub(crate) static BASE: AtomicPtr<Block> = AtomicPtr::new(std::ptr::null_mut());
/// The greatest number there is.
static LAST: AtomicU32 = AtomicU32::new(0);
/// Blocks the supply may hand out in all: for tests of exhaustion.
static LIMIT: AtomicU32 = AtomicU32::new(u32::MAX);

fn range() -> &'static Range {
    static RANGE: OnceLock<Range> = OnceLock::new();
    once(&RANGE, || {
        let (base, bytes) = os::reserve_up_to(os::BLOCK_RANGE, 1 << 20).expect("no address space for blocks (1 MiB)");
        // Relaxed: having a number means having synchronised with the storing of these (`range`).
        BASE.store(base.as_ptr().cast(), Relaxed);
        let limit = bytes.min(1 << 32) / BLOCK_BYTES;
        LAST.store(((limit - 1) * BLOCK_BYTES) as u32, Relaxed);
        Range { limit: limit as u32, bump: AtomicU32::new(2) }
    })
}

/// Makes sure that the array exists, so that block numbers (0 among them) can be followed.
pub(crate) fn init() {
    range();
}

/// A lock-free stack of blocks. The head is a number and a 32-bit tag that every change moves on, so that a block that left
/// and came back is not mistaken for itself.
#[derive(Debug, Default)]
pub struct Stack {
    head: AtomicU64,
}

impl Stack {
    /// An empty stack.
    pub const fn new() -> Self {
        Stack { head: AtomicU64::new(0) }
    }
    /// Puts a block that the caller owns on the stack. Lock-free.
    pub fn push(&self, b: BlockNo) {
        debug_assert!(b.is_some());
        // Relaxed: checked by the exchange below, or a hint.
        let mut head = self.head.load(Relaxed);
        loop {
            // Relaxed: published by the exchange below (N).
            b.block().next.store(head as u32, Relaxed);
            let new = ((head >> 32).wrapping_add(1) << 32) | u64::from(b.0);
            // Release: hands the contents of the block to the pop that takes it (N).
            match self.head.compare_exchange_weak(head, new, Release, Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
    /// Takes the newest block. Lock-free, no system call, touches no page that was not touched before.
    pub fn pop(&self) -> Option<BlockNo> {
        // Acquire: pairs with the push of this head (N), so `next` below is the one stored before it.
        let mut head = self.head.load(Acquire);
        loop {
            let b = BlockNo(head as u32);
            if !b.is_some() {
                return None;
            }
            // A stale number may be another's by now; the tag then fails the exchange.
            // Relaxed: checked by the exchange below, through the tag (N).
            let next = b.block().next.load(Relaxed);
            let new = ((head >> 32).wrapping_add(1) << 32) | u64::from(next);
            // AcqRel: Acquire as above; Release keeps the chain below published by whoever pushed it (N).
            match self.head.compare_exchange_weak(head, new, AcqRel, Acquire) {
                Ok(_) => return Some(b),
                Err(now) => head = now,
            }
        }
    }
    /// Is nothing on it just now?
    pub fn is_empty(&self) -> bool {
        // Relaxed: checked by the exchange below, or a hint.
        !BlockNo(self.head.load(Relaxed) as u32).is_some()
    }
    /// Takes everything: the first block of a chain linked by [`Block::next`], or `NONE`.
    pub fn take_all(&self) -> BlockNo {
        // Acquire: as in `pop` (N).
        let mut head = self.head.load(Acquire);
        loop {
            let new = (head >> 32).wrapping_add(1) << 32;
            // AcqRel: as in `pop` (N).
            match self.head.compare_exchange_weak(head, new, AcqRel, Acquire) {
                Ok(_) => return BlockNo(head as u32),
                Err(now) => head = now,
            }
        }
    }
}

static SPARE: Stack = Stack::new();
static SPARE_LEN: AtomicU32 = AtomicU32::new(0);

/// A page from the supply: takes no lock, makes no system call, faults in no page. `None` when the supply is empty.
/// (This is the lock-free page allocation interface that the kernel's refill-worker patch wishes for.)
pub fn try_page() -> Option<BlockNo> {
    let b = SPARE.pop()?;
    // Relaxed: a statistic.
    SPARE_LEN.fetch_sub(1, Relaxed);
    Some(b)
}

/// A page from the supply, else a fresh one, which costs a page fault at its first use. `None` when all block numbers are
/// in use (4 GiB of blocks). Takes no lock.
pub fn page() -> Option<BlockNo> {
    try_page().or_else(fresh)
}

/// Gives a page back. Lock-free.
pub fn put_page(b: BlockNo) {
    if !b.is_some() {
        return;
    }
    b.block().reset(0);
    // Relaxed: a statistic.
    SPARE_LEN.fetch_add(1, Relaxed);
    SPARE.push(b);
}

/// Puts `n` fresh, already touched pages into the supply: background work. Returns how many it got.
pub fn grow(n: u32) -> u32 {
    (0..n).take_while(|_| fresh().map(put_page).is_some()).count() as u32
}

#[cold]
fn fresh() -> Option<BlockNo> {
    let r = range();
    // Relaxed: numbers that nobody has seen; a block is handed over otherwise (N).
    let limit = r.limit.min(LIMIT.load(Relaxed));
    let n = r.bump.fetch_update(Relaxed, Relaxed, |n| (n < limit).then_some(n + 1)).ok()?;
    let b = BlockNo(n * BLOCK_BYTES as u32);
    b.block().reset(0); // touches the page
    Some(b)
}

/// What the block array holds.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct PageStats {
    /// Blocks ever made (each one page, never unmapped, always reused).
    pub blocks: u32,
    /// Of these, waiting in the supply.
    pub spare: u32,
    /// Most blocks there can be.
    pub limit: u32,
}

/// Statistics of the block array.
pub fn page_stats() -> PageStats {
    let r = range();
    PageStats {
        // Relaxed: numbers that nobody has seen; a block is handed over otherwise (N).
        blocks: r.bump.load(Relaxed) - 2,
        // Relaxed: a statistic.
        spare: SPARE_LEN.load(Relaxed),
        // Relaxed: numbers that nobody has seen; a block is handed over otherwise (N).
        limit: r.limit.min(LIMIT.load(Relaxed)),
    }
}

/// Limits the number of blocks, so that tests can exhaust them. Not for users.
#[doc(hidden)]
pub fn set_page_limit(limit: Option<u32>) {
    // Relaxed: numbers that nobody has seen; a block is handed over otherwise (N).
    LIMIT.store(limit.unwrap_or(u32::MAX), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn number_zero_is_empty_and_full() {
        init();
        let none = BlockNo::NONE.block();
        // SAFETY: capacity 0: neither call touches anything.
        unsafe {
            assert!(none.pop().is_none());
            assert!(!none.push(std::ptr::null_mut()));
        }
    }

    #[test]
    fn a_block_holds_what_it_was_given() {
        let b = page().unwrap();
        b.block().reset(3);
        // SAFETY: `b` is ours.
        unsafe {
            for i in 1..=3usize {
                assert!(b.block().push(i as *mut u8));
            }
            assert!(!b.block().push(std::ptr::dangling_mut()));
            assert_eq!(b.block().pointers().len(), 3);
            assert_eq!(b.block().pop(), Some(3 as *mut u8));
        }
        assert_eq!(b.block().len(), 2);
        put_page(b);
    }

    /// Each block is in one pair of hands at a time, whatever the interleaving (tag removed: fails within seconds).
    #[test]
    fn stack_hands_each_block_to_one() {
        let stack = Stack::new();
        let blocks: Vec<BlockNo> = (0..8).map(|_| page().unwrap()).collect();
        let place = |b: BlockNo| b.0 as usize / BLOCK_BYTES;
        let most = blocks.iter().map(|&b| place(b)).max().unwrap();
        let held: Vec<AtomicBool> = (0..=most).map(|_| AtomicBool::new(false)).collect();
        blocks.iter().for_each(|&b| stack.push(b));
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..100_000 {
                        let mine: Vec<BlockNo> = (0..3).filter_map(|_| stack.pop()).collect();
                        for b in &mine {
                            assert!(!held[place(*b)].swap(true, AcqRel), "block {} has two owners", b.0);
                        }
                        for b in mine {
                            held[place(b)].store(false, Release);
                            stack.push(b);
                        }
                    }
                });
            }
        });
        let mut n = 0;
        while let Some(b) = stack.pop() {
            n += 1;
            put_page(b);
        }
        assert_eq!(n, 8);
    }
}
