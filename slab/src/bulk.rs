//! Many objects at once: allocations and a few frees in runs, by the CPU's blocks; many frees grouped by cache into blocks of their own, which
//! go to the barns whole.
//!
//! Handed to by [`kmalloc`](crate::kmalloc), [`typed`](crate::typed) and by `quietus-kvfree`'s reclaim; hands to [`run`](crate::run) and
//! [`cache`](crate::cache). Grouping never sorts and never goes to the slabs unless a barn overflows.

use crate::cache::Core;
use crate::page::{self, BlockNo};
use crate::percpu::{Word, sites};
use crate::segment::{SLAB_SHIFT, slab_of, word_of};
use crate::{array, front, large, lock};
use std::mem::MaybeUninit;
use std::sync::atomic::Ordering::Relaxed;

/// Fewer objects than this go to the CPU's blocks: opening groups costs more.
const FEW: usize = 256;
/// Shorter runs are pushed one by one.
const RUN: usize = 4;
/// Groups that are open at a time; a cache whose place is taken sends the earlier one's block off.
const GROUPS: usize = 64;

/// Blocks being filled, by cache.
struct Groups([Option<(&'static Core, BlockNo)>; GROUPS]);

impl Groups {
    /// Adds a free object of `core`.
    fn add(&mut self, core: &'static Core, p: *mut u8) {
        let entry = &mut self.0[usize::from(core.id()) % GROUPS];
        if let Some((owner, b)) = *entry {
            // SAFETY: blocks in groups are ours.
            if std::ptr::eq(owner, core) && unsafe { b.block().push(p) } {
                return;
            }
            *entry = None;
            owner.take_in_loose(b);
        }
        let fresh = if core.block_capacity() > 0 { page::page() } else { None };
        let Some(b) = fresh else {
            // SAFETY: the object is free and ours.
            return unsafe { core.free_direct(&[p]) };
        };
        b.block().reset(core.block_capacity());
        // SAFETY: the block is ours, and has room.
        let pushed = unsafe { b.block().push(p) };
        debug_assert!(pushed);
        *entry = Some((core, b));
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for (core, b) in self.0.iter_mut().filter_map(Option::take) {
            core.take_in_loose(b);
        }
    }
}

impl Core {
    /// Fills `out` with free objects, from the front, and counts them in `n`, which says at any time how many there are: an account may panic. What is left
    /// over at least one block takes whole blocks from the barn or the slabs, and the CPU's stay as they are.
    pub(crate) fn alloc_run(&'static self, out: &mut [MaybeUninit<*mut u8>], n: &mut usize) {
        while *n < out.len() {
            let rest = &mut out[*n..];
            *n += match self.pop_run(rest) {
                0 => match self.whole_block(rest) {
                    0 => {
                        let p = if self.is_array() { self.alloc_past() } else { self.alloc_slow() };
                        if p.is_null() {
                            break;
                        }
                        rest[0].write(p);
                        1
                    }
                    got => got,
                },
                got => got,
            }
        }
    }

    /// A run of what this CPU has. (Bulk operations leave arrays alone.)
    fn pop_run(&'static self, out: &mut [MaybeUninit<*mut u8>]) -> usize {
        if self.is_array() {
            return 0;
        }
        match self.word().pop_run(out) {
            0 => self.sites().next().map_or(0, |site| self.word().pop_run_at(site, out)),
            got => got,
        }
    }

    /// A block with objects, whose page goes back at once, if all of it is wanted.
    fn whole_block(&'static self, out: &mut [MaybeUninit<*mut u8>]) -> usize {
        let cap = self.block_capacity() as usize;
        if cap == 0 || out.len() < cap || self.is_array() || lock::held() {
            return 0;
        }
        let Some(b) = self.full_block() else { return 0 };
        // SAFETY: the block is ours.
        let got = unsafe { b.block().pop_run(out) };
        self.take_in_loose(b); // a page; or what was more than a block is to hold
        got
    }

    /// One object that is not an array's.
    fn alloc_past(&'static self) -> *mut u8 {
        let p = if lock::held() { None } else { self.alloc_direct() };
        p.unwrap_or(std::ptr::null_mut())
    }
}

/// Most objects in a [`Stock`].
pub(crate) const STOCK: usize = 64;

/// Free objects that whoever allocates many has in hand; what is left is freed.
pub(crate) struct Stock {
    core: &'static Core,
    objects: [MaybeUninit<*mut u8>; STOCK],
    len: usize,
}

impl Stock {
    pub(crate) fn new(core: &'static Core) -> Self {
        Stock { core, objects: [const { MaybeUninit::uninit() }; STOCK], len: 0 }
    }
    pub(crate) fn len(&self) -> usize {
        self.len
    }
    /// Fills an empty one with up to `n` objects.
    pub(crate) fn fill(&mut self, n: usize) {
        debug_assert_eq!(self.len, 0);
        self.core.alloc_run(&mut self.objects[..n], &mut self.len);
    }
    /// The next one, newest first.
    #[inline(always)]
    pub(crate) fn take(&mut self) -> Option<*mut u8> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: below the length `fill` has written all.
        Some(unsafe { self.objects[self.len].assume_init() })
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        // SAFETY: below the length `fill` has written all, and they are ours.
        unsafe { free_bulk(std::slice::from_raw_parts(self.objects.as_ptr().cast(), self.len)) }
    }
}

/// Frees a few objects: those of one cache that stand together go to the CPU's block as a run.
///
/// # Safety
/// 1. As [`free_bulk`].
unsafe fn free_few(objects: &[*mut u8]) {
    let mut rest = objects;
    while let Some(&first) = rest.first() {
        if first.is_null() {
            rest = &rest[1..];
            continue;
        }
        // SAFETY: by (1).
        let word = unsafe { word_of(first) };
        let n = same_slab(rest);
        // SAFETY: by (1).
        let same = |p: *mut u8| !p.is_null() && unsafe { word_of(p) } == word;
        let (run, others) = rest.split_at(n + rest[n..].iter().take_while(|&&p| same(p)).count());
        rest = others;
        // SAFETY: the number came from `Word::get`; by (1).
        unsafe { free_run(Word::from_raw(word), run) };
    }
}

/// How many objects at the front, by eights but the first, lie in the first one's slab: told by their addresses alone.
fn same_slab(objects: &[*mut u8]) -> usize {
    let Some(&first) = objects.first() else { return 0 };
    let other =
        |eight: &&[*mut u8]| eight.iter().fold(0, |bits, p| bits | (p.addr() ^ first.addr())) >> SLAB_SHIFT != 0;
    let eights = objects.chunks_exact(8);
    (8 * eights.take_while(|eight| !other(eight)).count()).max(1)
}

/// Frees a run, in as many pieces as blocks have to change for it.
///
/// # Safety
/// 1. As [`free_bulk`]; `word` is that of all of them, or was.
unsafe fn free_run(word: Word, mut run: &[*mut u8]) {
    while let Some(&first) = run.first() {
        let n = match run.len() {
            0..RUN => 0,
            _ => match word.push_run(run) {
                // No sequences here, or the block is full: then this fails, too.
                0 => sites().next().map_or(0, |site| word.push_run_at(site, run)),
                n => n,
            },
        };
        run = &run[n..];
        if n == 0 {
            // SAFETY: by (1). The slow path makes room for the others.
            unsafe { front::free(first) };
            run = &run[1..];
        }
    }
}

/// Frees objects of any caches and sizes. About a nanosecond or two each from 64 on; null pointers are skipped.
///
/// # Safety
/// 1. Each pointer is null or an object of this allocator that nobody uses any more, and none is there twice.
pub unsafe fn free_bulk(objects: &[*mut u8]) {
    if objects.len() < FEW {
        let arrays = array::any();
        if !arrays {
            // SAFETY: by (1).
            return unsafe { free_few(objects) };
        }
        for &p in objects.iter().filter(|p| !p.is_null()) {
            // SAFETY: by (1).
            match unsafe { slab_of(p) }.cache().filter(|core| core.is_array()) {
                // SAFETY: by (1).
                Some(core) => unsafe { core.free_unparked(p) },
                // SAFETY: by (1).
                None => unsafe { front::free(p) },
            }
        }
        return;
    }
    let mut groups = Groups([None; GROUPS]);
    for &p in objects.iter().filter(|p| !p.is_null()) {
        // SAFETY: by (1).
        let slab = unsafe { slab_of(p) };
        match slab.cache() {
            // SAFETY: by (1).
            Some(core) if slab.is_guest() => unsafe { core.free_unparked(p) },
            Some(core) => groups.add(core, p),
            // SAFETY: by (1); without a cache it is a large allocation.
            None => unsafe { large::free(slab) },
        }
    }
}

/// Hands a block full of free objects **of one lane** back: if that is the lane of their cache, and the cache is not chained, they are
/// all of this cache, and the block becomes a sheaf of its barn; no object is touched. Else each goes to the cache that it is of
/// by now. An empty block goes to the page supply.
///
/// # Safety
/// 1. The caller owns the block, and its objects, which all were of one cache when they were put in. That cache's id is the block's
///    `lane`, if it was ever chained since.
pub unsafe fn recycle(b: BlockNo) {
    if !b.is_some() {
        return;
    }
    if b.block().filled() == 0 {
        return page::put_page(b);
    }
    // SAFETY: by (1) the block holds an object.
    let slab = unsafe { slab_of(b.block().slot(0)) };
    b.block().become_sheaf();
    // Relaxed: the block is ours.
    let lane = b.block().lane.load(Relaxed);
    match slab.cache() {
        Some(core) if u32::from(core.id()) != lane || core.parent().is_some() => scatter(b),
        Some(core) if b.block().len() * 2 >= core.block_capacity() => core.take_in(b),
        Some(core) => {
            b.block().set_capacity(core.block_capacity().max(b.block().len()));
            core.take_in_loose(b);
        }
        None => scatter(b),
    }
}

/// Frees the objects of a sheaf, each to its own cache.
fn scatter(b: BlockNo) {
    // SAFETY: by the contract of `recycle` the block and the objects are the caller's.
    unsafe { free_bulk(b.block().pointers()) };
    page::put_page(b);
}
