//! Segments: 4 MiB ranges cut into 64 KiB slabs, and the way from any pointer to its slab.
//!
//! Handed to by [`node`](crate::node) (slabs) and [`large`](crate::large); hands to [`source`](crate::source).
//!
//! # Layout
//! A segment is aligned to its size. Its first slab holds no objects but the header and one descriptor for each slab, so that
//! pointer → descriptor is a mask, a shift and a multiplication. What a free needs of a slab, the number of its cache's per-CPU word, stands by
//! itself in front of them: those of sixteen slabs in a cache line. An allocation too large for a size class has a segment of its
//! own whose descriptor (of the 64 KiB in which the object begins) says so.
//!
//! # Ordering
//! Relaxed but for the numbers: the free slabs are the pool lock's; what a descriptor's hot line says is constant while objects are out.
//!
//! The header is reached from an object's address, through exposed provenance: the reference an object was used through covers
//! the object alone.

use crate::AllocError;
use crate::known;
use crate::lock::Lock;
use crate::slab::{BITMAP_WORDS, Slab};
use crate::source::{self, PageSource};
use crate::{cpu, os};
use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

/// Bytes of a segment, and its alignment.
pub const SEGMENT: usize = 4 << 20;
/// Objects begin at multiples of this.
pub const GRANULE: usize = 8;
pub(crate) const SLAB_SHIFT: u32 = 16;
/// Bytes of a slab: the objects of one cache.
pub const SLAB_BYTES: usize = 1 << SLAB_SHIFT;
const SLABS: usize = SEGMENT / SLAB_BYTES;
/// Where the slabs' words begin in a segment.
const WORDS: usize = 256;
/// Where descriptors begin in a segment.
pub(crate) const DESCRIPTORS: usize = WORDS + SLABS * size_of::<AtomicU32>();
/// End of header and descriptors.
pub(crate) const HEADER: usize = DESCRIPTORS + SLABS * size_of::<Slab>();

const _: () = assert!(HEADER <= SLAB_BYTES && SLABS == 64 && SEGMENT == known::UNIT);

#[repr(C, align(256))]
pub(crate) struct Segment {
    /// Slabs that are not in use, one bit each (pool lock).
    free: AtomicU64,
    /// Of these, slabs whose pages may be backed (pool lock).
    dirty: AtomicU64,
    /// Next segment of the pool (pool lock).
    next: AtomicPtr<Segment>,
    pool: AtomicPtr<Pool>,
    /// Bytes mapped: more than `SEGMENT` only for a large allocation.
    pub(crate) bytes: AtomicUsize,
    /// Its number among those mapped now.
    number: AtomicU32,
    /// Bytes of the source's range that lie before it.
    before: AtomicUsize,
    /// The node that its memory is of.
    node: AtomicU32,
    /// Of the free slabs, those that were so, and dirty, when the reaper was here, and since (pool lock).
    idle: AtomicU64,
}

const _: () = assert!(size_of::<Segment>() <= WORDS && DESCRIPTORS.is_multiple_of(align_of::<Slab>()));

/// All bits but the header slab's.
const ALL: u64 = !1;

/// Segments of one page source.
pub(crate) struct Pool {
    source: &'static dyn PageSource,
    /// Are descriptors to stand between guard pages?
    guarded: AtomicBool,
    state: Lock<PoolState>,
}

struct PoolState {
    head: *mut Segment,
}
// SAFETY: segments are immovable ranges of memory, only reached under the pool's lock.
unsafe impl Send for PoolState {}

/// The descriptor of the slab that `ptr` points into.
///
/// # Safety
/// 1. `ptr` points into an object of this allocator whose slab has not been given back: one that is in use, or free in somebody's
///    hands.
#[inline(always)]
pub(crate) unsafe fn slab_of(ptr: *mut u8) -> &'static Slab {
    let address = ptr.addr();
    let segment = address & !(SEGMENT - 1);
    let index = (address >> SLAB_SHIFT) & (SLABS - 1);
    let slab = std::ptr::with_exposed_provenance::<Slab>(segment + DESCRIPTORS + index * size_of::<Slab>());
    // SAFETY: by (1) the object's segment is mapped, and its descriptors were initialised before the object was handed out.
    unsafe { &*slab }
}

/// The number of the per-CPU word that an object is freed into.
///
/// # Safety
/// 1. As [`slab_of`].
#[inline(always)]
pub(crate) unsafe fn word_of(ptr: *mut u8) -> u32 {
    let address = ptr.addr();
    let at = (address & !(SEGMENT - 1)) + WORDS + ((address >> SLAB_SHIFT) & (SLABS - 1)) * size_of::<AtomicU32>();
    // SAFETY: by (1) the object's segment is mapped. Relaxed: as a slab's hot line.
    unsafe { &*std::ptr::with_exposed_provenance::<AtomicU32>(at) }.load(Relaxed)
}

/// Where that number of a slab is kept.
pub(crate) fn word_cell(slab: &Slab) -> &'static AtomicU32 {
    let address = std::ptr::from_ref(slab).addr();
    let base = address & !(SEGMENT - 1);
    let index = (address - base - DESCRIPTORS) / size_of::<Slab>();
    // SAFETY: descriptors live in the header of a mapped segment, whose range was exposed when it was mapped.
    unsafe { &*std::ptr::with_exposed_provenance::<AtomicU32>(base + WORDS + index * size_of::<AtomicU32>()) }
}

impl Segment {
    fn slab(&self, index: usize) -> *mut Slab {
        std::ptr::with_exposed_provenance_mut(std::ptr::from_ref(self).addr() + DESCRIPTORS + index * size_of::<Slab>())
    }
    /// The segment of a descriptor.
    pub(crate) fn of(slab: &Slab) -> &'static Segment {
        let base = std::ptr::from_ref(slab).addr() & !(SEGMENT - 1);
        // SAFETY: descriptors live in the header of a mapped segment, whose range was exposed when it was mapped.
        unsafe { &*std::ptr::with_exposed_provenance::<Segment>(base) }
    }
}

/// Numbers of the segments that are mapped, one bit each.
static NUMBERS: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];

/// The lowest number that no mapped segment has; `u32::MAX`: there is none. Lock-free.
fn take_number() -> u32 {
    for (i, word) in (0..).zip(&NUMBERS) {
        // Relaxed: a guess, confirmed by the exchange.
        let mut bits = word.load(Relaxed);
        while bits != u64::MAX {
            let bit = bits.trailing_ones();
            // Acquire: pairs with `put_number`: the former segment's end.
            bits = word.fetch_or(1 << bit, Acquire);
            if bits & 1 << bit == 0 {
                return i * 64 + bit;
            }
        }
    }
    u32::MAX
}

fn put_number(number: u32) {
    if let Some(word) = NUMBERS.get(number as usize / 64) {
        // Release: pairs with `take_number`.
        word.fetch_and(!(1 << (number % 64)), Release);
    }
}

/// Where an object is: the number of its segment, no other mapped segment's, the segment's first byte, and the object's offset.
///
/// # Safety
/// 1. `ptr` is an object of this allocator, as for [`slab_of`].
pub unsafe fn place(ptr: *mut u8) -> (usize, *mut u8, usize) {
    // SAFETY: by (1) its slab's descriptor lies in a mapped segment.
    let segment = Segment::of(unsafe { slab_of(ptr) });
    let base = std::ptr::from_ref(segment).addr();
    // Relaxed: constant while the object is out.
    (segment.number.load(Relaxed) as usize, std::ptr::with_exposed_provenance_mut(base), ptr.addr() - base)
}

/// First byte of a slab.
pub(crate) fn start_of(slab: &Slab) -> *mut u8 {
    let address = std::ptr::from_ref(slab).addr();
    let base = address & !(SEGMENT - 1);
    let index = (address - base - DESCRIPTORS) / size_of::<Slab>();
    std::ptr::with_exposed_provenance_mut(base + index * SLAB_BYTES)
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, SEGMENT).expect("segment layout")
}

static DEFAULT: Pool = Pool::new(&source::DEFAULT, false);
static GUARDED: Pool = Pool::new(&source::DEFAULT, true);
static OTHERS: Lock<Vec<(bool, &'static Pool)>> = Lock::new(Vec::new());

impl Pool {
    /// The pool of a source; of the default one, if none is named. Hardened caches have pools of their own.
    pub(crate) fn of(source: Option<&'static dyn PageSource>, guarded: bool) -> &'static Pool {
        let Some(source) = source else { return if guarded { &GUARDED } else { &DEFAULT } };
        let mut pools = OTHERS.lock();
        if let Some((_, pool)) = pools.iter().find(|(g, p)| *g == guarded && p.is_of(source)) {
            return pool;
        }
        let pool = Box::leak(Box::new(Pool::new(source, guarded)));
        pools.push((guarded, pool));
        pool
    }

    /// Every pool there is.
    pub(crate) fn all() -> Vec<&'static Pool> {
        let others: Vec<_> = OTHERS.lock().iter().map(|&(_, pool)| pool).collect();
        [&DEFAULT, &GUARDED].into_iter().chain(others).collect()
    }

    const fn new(source: &'static dyn PageSource, guarded: bool) -> Self {
        Pool { source, guarded: AtomicBool::new(guarded), state: Lock::new(PoolState { head: std::ptr::null_mut() }) }
    }

    /// Maps a segment `before` bytes into a range of the source's, or at its start.
    fn map(&'static self, bytes: usize, before: usize) -> Result<&'static Segment, AllocError> {
        let range = self.source.map(layout(before + bytes))?;
        range.as_ptr().expose_provenance();
        // SAFETY: inside the range. It is ours, zeroed, aligned, larger than the header; all zero is a valid `Segment`.
        let segment: &'static Segment = unsafe { range.add(before).cast::<Segment>().as_ref() };
        segment.before.store(before, Relaxed);
        segment.pool.store(std::ptr::from_ref(self).cast_mut(), Relaxed);
        segment.bytes.store(bytes, Relaxed);
        segment.number.store(take_number(), Relaxed);
        Ok(segment)
    }

    /// A slab of a node that belongs to nobody. May map a segment.
    pub(crate) fn take_slab(&'static self, node: u16) -> Result<&'static Slab, AllocError> {
        let mut state = self.state.lock();
        let mut at = state.head;
        // SAFETY: segments on the list are mapped; the lock is held.
        while let Some(segment) = unsafe { at.as_ref() } {
            if segment.free.load(Relaxed) != 0 && segment.node.load(Relaxed) == u32::from(node) {
                return Ok(self.carve(segment));
            }
            at = segment.next.load(Relaxed);
        }
        let segment = if self.guarded.load(Relaxed) { self.map_guarded()? } else { self.map(SEGMENT, 0)? };
        known::set(std::ptr::from_ref(segment).addr(), true);
        segment.free.store(ALL, Relaxed);
        segment.node.store(u32::from(node), Relaxed);
        if cpu::topology().nodes > 1 {
            os::prefer_node(NonNull::from(segment).cast(), SEGMENT, node);
        }
        segment.next.store(state.head, Relaxed);
        state.head = std::ptr::from_ref(segment).cast_mut();
        Ok(self.carve(segment))
    }

    /// Takes the lowest free slab of a segment (pool lock held).
    fn carve(&self, segment: &'static Segment) -> &'static Slab {
        let free = segment.free.load(Relaxed);
        let index = free.trailing_zeros() as usize;
        segment.free.store(free & (free - 1), Relaxed);
        segment.dirty.store(segment.dirty.load(Relaxed) | 1 << index, Relaxed);
        segment.idle.store(segment.idle.load(Relaxed) & !(1 << index), Relaxed);
        // SAFETY: the descriptor lies in the header; all zero is a valid `Slab`, and nobody else uses a free slab's.
        unsafe { &*segment.slab(index) }
    }

    /// Looks at every slab in use.
    pub(crate) fn each_slab(&'static self, mut f: impl FnMut(&'static Slab)) {
        let state = self.state.lock();
        let mut at = state.head;
        // SAFETY: segments on the list are mapped; the lock is held.
        while let Some(segment) = unsafe { at.as_ref() } {
            let used = ALL & !segment.free.load(Relaxed);
            for index in (1..SLABS).filter(|i| used & 1 << i != 0) {
                // SAFETY: the descriptor lies in the header; all zero is a valid `Slab`.
                f(unsafe { &*segment.slab(index) });
            }
            at = segment.next.load(Relaxed);
        }
    }

    /// Gives a slab back to its pool. Its pages stay backed until [`purge`](Self::purge).
    pub(crate) fn put_slab(slab: &'static Slab) {
        let segment = Segment::of(slab);
        // SAFETY: pools live for ever.
        let pool = unsafe { &*segment.pool.load(Relaxed) };
        let index = (std::ptr::from_ref(slab).addr() & (SEGMENT - 1)).saturating_sub(DESCRIPTORS) / size_of::<Slab>();
        let _state = pool.state.lock();
        let free = segment.free.load(Relaxed);
        debug_assert_eq!(free & 1 << index, 0, "slab given back twice");
        segment.free.store(free | 1 << index, Relaxed);
    }

    /// Gives the pages of free slabs back to the source, and whole segments but one of each node. Returns bytes given back.
    pub(crate) fn purge(&'static self) -> usize {
        self.purge_those(|_| ALL)
    }

    /// The same with those that have been free since the last call. Returns bytes given back, and whether there are others.
    pub(crate) fn age(&'static self) -> (usize, bool) {
        let mut more = false;
        let given = self.purge_those(|segment| {
            let dirty = segment.dirty.load(Relaxed) & segment.free.load(Relaxed);
            let old = segment.idle.swap(dirty, Relaxed) & dirty;
            more |= old != dirty;
            // (What was purged before counts as old: it may be unmapped.)
            if old == dirty { ALL } else { old }
        });
        (given, more)
    }

    /// Gives free slabs back of which the bit in `which` is set.
    fn purge_those(&'static self, mut which: impl FnMut(&Segment) -> u64) -> usize {
        let mut state = self.state.lock();
        let mut given = 0;
        let mut spare = 0u64;
        let mut list = std::mem::replace(&mut state.head, std::ptr::null_mut());
        // SAFETY: segments on the list are mapped; the lock is held.
        while let Some(segment) = unsafe { list.as_ref() } {
            let this = list;
            list = segment.next.load(Relaxed);
            let which = which(segment);
            let free = segment.free.load(Relaxed);
            let dirty = segment.dirty.load(Relaxed) & free & which;
            given += dirty.count_ones() as usize * SLAB_BYTES;
            if free == ALL && which == ALL {
                let node = 1 << (segment.node.load(Relaxed) % 64);
                if spare & node != 0 {
                    // SAFETY: every slab is free, so nobody uses the segment, and it is off the list.
                    unsafe { self.unmap(segment, SEGMENT) };
                    continue;
                }
                spare |= node;
            }
            for index in (1..SLABS).filter(|i| dirty & 1 << i != 0) {
                // SAFETY: whole pages of a free slab.
                unsafe {
                    let start = NonNull::new_unchecked(this.cast::<u8>().add(index * SLAB_BYTES));
                    self.source.purge(start, SLAB_BYTES);
                }
            }
            segment.dirty.store(segment.dirty.load(Relaxed) & !dirty, Relaxed);
            segment.next.store(state.head, Relaxed);
            state.head = this;
        }
        given
    }

    /// A range for one object that begins `offset` bytes into it; its descriptor is the second result.
    pub(crate) fn map_large(
        &'static self,
        size: usize,
        offset: usize,
    ) -> Result<(NonNull<u8>, &'static Slab), AllocError> {
        let bytes = offset.checked_add(size).ok_or(AllocError)?.checked_next_multiple_of(os::PAGE).ok_or(AllocError)?;
        if bytes > isize::MAX as usize - SEGMENT {
            return Err(AllocError);
        }
        let segment = self.map(bytes, 0)?;
        // SAFETY: `offset` lies inside the mapped range; the header slab holds all descriptors (see `large`).
        unsafe {
            let base = std::ptr::from_ref(segment).cast::<u8>().cast_mut();
            let object = NonNull::new_unchecked(std::ptr::with_exposed_provenance_mut::<u8>(base.addr() + offset));
            Ok((object, &*segment.slab(offset >> SLAB_SHIFT)))
        }
    }

    /// # Safety
    /// 1. `slab` is the descriptor of a large allocation of this pool that nobody uses any more.
    pub(crate) unsafe fn unmap_large(slab: &Slab) {
        let segment = Segment::of(slab);
        let bytes = segment.bytes.load(Relaxed);
        // SAFETY: pools live for ever.
        let pool = unsafe { &*segment.pool.load(Relaxed) };
        // SAFETY: by (1); mapped with this size.
        unsafe { pool.unmap(segment, bytes) };
    }

    /// # Safety
    /// 1. The segment was mapped by this pool with this size, and nobody uses it any more.
    unsafe fn unmap(&self, segment: &Segment, bytes: usize) {
        let (base, before) = (std::ptr::from_ref(segment).addr(), segment.before.load(Relaxed));
        known::set(base, false);
        put_number(segment.number.load(Relaxed));
        let range = std::ptr::with_exposed_provenance_mut(base - before);
        // SAFETY: by (1), this is the range that `map` got.
        unsafe { self.source.unmap(NonNull::new_unchecked(range), layout(before + bytes)) };
    }

    /// A segment whose descriptors have guard pages behind them (what is left of the first slab) and as much address space as a segment
    /// before them. (Pool lock held.) A source that has no guards gives a plain one.
    fn map_guarded(&'static self) -> Result<&'static Segment, AllocError> {
        let segment = self.map(SEGMENT, SEGMENT)?;
        let base = std::ptr::from_ref(segment).addr();
        let guard = |from: usize, bytes: usize| {
            let start = NonNull::new(std::ptr::with_exposed_provenance_mut(from)).expect("inside the range");
            // SAFETY: whole pages of the range just mapped, in which there is nothing.
            unsafe { self.source.guard(start, bytes) }
        };
        let behind = HEADER.next_multiple_of(os::PAGE);
        if !(guard(base - SEGMENT, SEGMENT) && guard(base + behind, SLAB_BYTES - behind)) {
            self.guarded.store(false, Relaxed);
        }
        Ok(segment)
    }

    /// Does this pool take from `source`? The type counts too: sources without size may share an address.
    pub(crate) fn is_of(&self, source: &'static dyn PageSource) -> bool {
        // One type with two vtables would get two pools, which does no harm; vtables that are shared are of equal code.
        #[allow(ambiguous_wide_pointer_comparisons)]
        std::ptr::eq(self.source, source)
    }
}

const _: () = assert!(BITMAP_WORDS * 64 * 16 == SLAB_BYTES);
