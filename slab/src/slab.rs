//! A slab: 64 KiB of equal objects of one cache, described out of band.
//!
//! Handed to by [`node`](crate::node), under whose lock all of it but the hot line is read and written; lives in the header of
//! its [`segment`](crate::segment).
//!
//! # Ordering
//! Relaxed throughout: under the node's lock, or constant while the slab holds objects that are out (the hot line), which reach
//! other threads in ways that synchronise. The exception is a slab that is handed over to another cache
//! ([`hand_over`](Slab::hand_over)): its cache is stored last, with Release, and read first, with Acquire.
//!
//! # Layout
//! The first cache line is what a retire reads (a free reads the word alone, which stands elsewhere in the header), and constant while the slab holds objects,
//! unless their cache is chained. Free objects are set bits of
//! a bitmap: it works with constructed objects, survives a use after free, and shows a double free.

use crate::cache::Core;
use crate::page::WEIGHT_UNIT;
use crate::segment::{SLAB_BYTES, start_of, word_cell};
use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicPtr, AtomicU16, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

pub(crate) const BITMAP_WORDS: usize = 64;

/// In a slab's `checks`: single objects are taken from random places.
const SCATTERED: u16 = 1;
/// The same: its cache is a checked one.
const CHECKED: u16 = 2;

/// See the module. All zero: in nobody's hands.
#[repr(C, align(64))]
pub struct Slab {
    /// The cache; null for a large allocation.
    cache: AtomicPtr<Core>,
    /// Bytes of one object in units of 16.
    weight: AtomicU32,
    reserved: u32,
    /// Which lane of kvfree its objects take as plain memory: the cache's id, [`LARGE_LANE`], or 0 for the mixed lane.
    lane: AtomicU16,
    node: AtomicU16,
    /// Reciprocal of the stride, 2^32 / stride rounded up.
    reciprocal: AtomicU32,
    /// Bytes from one object to the next.
    stride: AtomicU32,
    objects: AtomicU16,
    free: AtomicU16,
    prev: AtomicPtr<Slab>,
    next: AtomicPtr<Slab>,
    /// What drops an object's value; null: nothing needs to, or the slab cannot tell.
    drop: AtomicPtr<()>,
    /// The cache's id if it is a typed one; else 0.
    typed: AtomicU16,
    /// The id of the cache that handed the slab over when it was chained, the first if there were several; 0: none did.
    origin: AtomicU16,
    /// Bytes between the slab's start and its first object.
    lead: AtomicU16,
    /// How it is checked: [`SCATTERED`], [`CHECKED`].
    checks: AtomicU16,
    bits: [AtomicU64; BITMAP_WORDS],
}

const _: () = assert!(size_of::<Slab>() == 64 + BITMAP_WORDS * 8 && std::mem::offset_of!(Slab, bits) == 64);
const _: () = assert!(WEIGHT_UNIT == 16);
const _: () = assert!(std::mem::offset_of!(Slab, next) == std::mem::offset_of!(Slab, prev) + size_of::<*mut ()>());

impl Slab {
    /// Gives the slab to a cache, all objects free.
    pub(crate) fn assign(&self, cache: &'static Core, node: u16) {
        let stride = cache.stride();
        let objects = (SLAB_BYTES as u32 / stride) as u16;
        self.stride.store(stride, Relaxed);
        self.reciprocal.store(((1u64 << 32).div_ceil(u64::from(stride))) as u32, Relaxed);
        self.objects.store(objects, Relaxed);
        self.free.store(objects, Relaxed);
        self.node.store(node, Relaxed);
        word_cell(self).store(cache.word().get(), Relaxed);
        self.weight.store(stride.div_ceil(WEIGHT_UNIT as u32), Relaxed);
        self.lane.store(cache.lane(), Relaxed);
        self.typed.store(cache.typed(), Relaxed);
        self.drop.store(cache.dropper(), Relaxed);
        self.origin.store(0, Relaxed);
        self.lead.store(cache.debug.lead() as u16, Relaxed);
        let scattered = u16::from(cache.debug.is_hardened()) * SCATTERED;
        self.checks.store(scattered | (u16::from(cache.debug.is_on()) * CHECKED), Relaxed);
        self.cache.store(std::ptr::from_ref(cache).cast_mut(), Relaxed);
        self.prev.store(std::ptr::null_mut(), Relaxed);
        self.next.store(std::ptr::null_mut(), Relaxed);
        for (i, word) in self.bits.iter().enumerate() {
            let left = usize::from(objects).saturating_sub(i * 64);
            word.store(if left >= 64 { u64::MAX } else { (1u64 << left) - 1 }, Relaxed);
        }
    }

    /// Gives the slab, in which there may be objects, from a chained cache to its parent, whose objects are as large. Both nodes' locks
    /// held. True: `from` has to stay, as [`origin`](Self::origin).
    ///
    /// Objects of both types share the slab if the same function drops them. Else it is a *guest*: its objects are retired and freed as
    /// what they are, none is parked or allocated, and the slab goes when the last is free.
    ///
    /// Threads that free or retire an object of `from` may have read something of this before. The former word stays dead, and the
    /// former id and lane unused, as long as `from` stays. The function that drops a value never changes.
    pub(crate) fn hand_over(&self, from: &'static Core, to: &'static Core) -> bool {
        if self.dropper() == to.dropper() {
            self.lane.store(to.lane(), Relaxed);
            self.typed.store(to.typed(), Relaxed);
            word_cell(self).store(to.word().get(), Relaxed);
        } else {
            word_cell(self).store(crate::percpu::Word::NONE.get(), Relaxed);
        }
        // Release: pairs with `cache`: whoever sees the new one sees whether the slab is its guest.
        self.cache.store(std::ptr::from_ref(to).cast_mut(), Release);
        let first = self.origin() == 0;
        if first {
            self.origin.store(from.id(), Relaxed);
        }
        first
    }

    /// The id of the cache that is kept for this slab; 0: none.
    pub(crate) fn origin(&self) -> u16 {
        self.origin.load(Relaxed)
    }
    /// Are its objects of another type than those of its cache? To be asked after [`cache`](Self::cache).
    pub(crate) fn is_guest(&self) -> bool {
        self.word() == crate::percpu::Word::NONE.get()
    }

    /// Makes this the descriptor of one large object.
    pub(crate) fn assign_large(&self, bytes: usize) {
        self.cache.store(std::ptr::null_mut(), Relaxed);
        word_cell(self).store(crate::percpu::Word::NONE.get(), Relaxed);
        self.weight.store(bytes.div_ceil(WEIGHT_UNIT).min(MOST_WEIGHT as usize) as u32, Relaxed);
        self.lane.store(LARGE_LANE, Relaxed);
        self.typed.store(0, Relaxed);
        self.drop.store(std::ptr::null_mut(), Relaxed);
    }

    /// The cache; `None` for a large allocation.
    #[inline]
    pub(crate) fn cache(&self) -> Option<&'static Core> {
        // Acquire: pairs with `hand_over`.
        // SAFETY: cache cores live for ever (their memory is reused for other caches only).
        unsafe { self.cache.load(Acquire).as_ref() }
    }
    /// Per-CPU word of the cache, for a free by address; see [`segment`](crate::segment).
    pub(crate) fn word(&self) -> u32 {
        word_cell(self).load(Relaxed)
    }
    /// Which lane of kvfree objects of this slab take as plain memory; 0: the mixed one.
    #[inline(always)]
    pub fn lane(&self) -> u16 {
        self.lane.load(Relaxed)
    }
    /// The typed cache's id; 0: objects of a size class, or a large one.
    #[inline(always)]
    pub fn typed(&self) -> u16 {
        self.typed.load(Relaxed)
    }
    /// What drops the value of an object, if every object of this slab needs the same: [`drop_value`] of the cache's type.
    #[inline(always)]
    pub fn dropper(&self) -> *mut () {
        self.drop.load(Relaxed)
    }
    /// Bytes of an object in units of [`WEIGHT_UNIT`], at most 2^22.
    #[inline(always)]
    pub fn weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }
    pub(crate) fn node(&self) -> u16 {
        self.node.load(Relaxed)
    }
    pub(crate) fn free(&self) -> u16 {
        self.free.load(Relaxed)
    }
    pub(crate) fn is_empty(&self) -> bool {
        usize::from(self.free()) == self.objects()
    }

    /// Takes up to `most` free objects, lowest addresses last (so that a block pops them first). Node lock held.
    pub(crate) fn take(&self, most: u32, mut give: impl FnMut(*mut u8)) -> u32 {
        if self.checks.load(Relaxed) & SCATTERED != 0 {
            return self.take_scattered(most, give);
        }
        let mut taken = 0;
        for (i, word) in self.bits.iter().enumerate().rev() {
            if taken == most {
                break;
            }
            let mut bits = word.load(Relaxed);
            while bits != 0 && taken < most {
                let bit = 63 - bits.leading_zeros() as usize;
                bits &= !(1 << bit);
                give(self.object(i * 64 + bit));
                taken += 1;
            }
            word.store(bits, Relaxed);
        }
        self.free.store(self.free().wrapping_sub(taken as u16), Relaxed);
        taken
    }

    /// [`take`](Self::take) from places that nobody can foretell.
    #[cold]
    fn take_scattered(&self, most: u32, mut give: impl FnMut(*mut u8)) -> u32 {
        let words = self.objects().div_ceil(64);
        for taken in 0..most {
            let pick = self.cache().and_then(|core| core.debug.pick()).unwrap_or_default();
            let from = pick as usize % self.objects();
            // The word of the place once more at the end: its bits below the place.
            let found = (0..=words).find_map(|k| {
                let i = (from / 64 + k) % words;
                let above = if k == 0 { u64::MAX << (from % 64) } else { u64::MAX };
                let bits = self.bits[i].load(Relaxed) & above;
                (bits != 0).then(|| (i, bits.trailing_zeros() as usize))
            });
            let Some((i, bit)) = found else { return taken };
            self.bits[i].store(self.bits[i].load(Relaxed) & !(1 << bit), Relaxed);
            self.free.store(self.free().wrapping_sub(1), Relaxed);
            give(self.object(i * 64 + bit));
        }
        most
    }

    /// Is it a checked cache's, whose count of free objects may be what is corrupt?
    pub(crate) fn is_checked(&self) -> bool {
        self.checks.load(Relaxed) & CHECKED != 0
    }
    /// The address of an object.
    pub(crate) fn object(&self, index: usize) -> *mut u8 {
        let start = start_of(self);
        start
            .with_addr(start.addr() + usize::from(self.lead.load(Relaxed)) + index * self.stride.load(Relaxed) as usize)
    }
    /// How many objects there are.
    pub(crate) fn objects(&self) -> usize {
        usize::from(self.objects.load(Relaxed))
    }
    /// Which object begins at an address.
    pub(crate) fn index_of(&self, ptr: *mut u8) -> Option<usize> {
        let first = start_of(self).addr() + usize::from(self.lead.load(Relaxed));
        self.index(ptr.addr().wrapping_sub(first))
    }
    /// The object that an address of the slab lies in, or the nearest one.
    pub(crate) fn nearest(&self, ptr: *mut u8) -> usize {
        let first = start_of(self).addr() + usize::from(self.lead.load(Relaxed));
        let index = ptr.addr().saturating_sub(first) / self.stride.load(Relaxed) as usize;
        index.min(self.objects().saturating_sub(1))
    }
    /// Writes to the count, as a stray pointer might.
    #[cfg(test)]
    pub(crate) fn set_free(&self, free: u16) {
        self.free.store(free, Relaxed);
    }
    /// Free objects by the bitmap. Node lock held.
    pub(crate) fn count_bits(&self) -> u32 {
        self.bits.iter().map(|word| word.load(Relaxed).count_ones()).sum()
    }

    /// Puts an object back; false (and nothing done) if it is free already or no object begins there. Node lock held.
    pub(crate) fn put(&self, ptr: *mut u8) -> bool {
        let Some(index) = self.index_of(ptr) else { return false };
        let (word, bit) = (&self.bits[index / 64], 1u64 << (index % 64));
        let old = word.load(Relaxed);
        if old & bit != 0 {
            return false;
        }
        word.store(old | bit, Relaxed);
        self.free.store(self.free() + 1, Relaxed);
        true
    }

    /// Addresses of objects that are not free in the slab. A racy look, unless the node's lock is held.
    pub(crate) fn taken(&self) -> impl Iterator<Item = usize> {
        let out = move |i: &usize| self.bits[i / 64].load(Relaxed) & 1 << (i % 64) == 0;
        (0..self.objects()).filter(out).map(|i| self.object(i).addr())
    }

    /// Which object begins at `offset`.
    fn index(&self, offset: usize) -> Option<usize> {
        if offset >= SLAB_BYTES {
            return None;
        }
        let index = ((offset as u64 * u64::from(self.reciprocal.load(Relaxed))) >> 32) as usize;
        let exact = index * self.stride.load(Relaxed) as usize == offset;
        (exact && index < usize::from(self.objects.load(Relaxed))).then_some(index)
    }

    pub(crate) fn next(&self) -> *mut Slab {
        self.next.load(Relaxed)
    }
    /// Where the links are: two words that are free as long as the slab is on no list.
    pub(crate) fn link_words(&self) -> NonNull<[*mut (); 2]> {
        // SAFETY: inside the descriptor, all of which is atomics: it may be written through a shared reference.
        unsafe { NonNull::from(self).byte_add(std::mem::offset_of!(Slab, prev)).cast() }
    }
    /// The slab whose links these are.
    ///
    /// # Safety
    /// 1. `words` came from [`link_words`](Self::link_words), and the slab is in use.
    pub(crate) unsafe fn of_link_words(words: NonNull<[*mut (); 2]>) -> &'static Slab {
        // SAFETY: by (1); descriptors are immovable.
        unsafe { words.byte_sub(std::mem::offset_of!(Slab, prev)).cast::<Slab>().as_ref() }
    }
    pub(crate) fn set_links(&self, prev: *mut Slab, next: *mut Slab) {
        self.prev.store(prev, Relaxed);
        self.next.store(next, Relaxed);
    }
    pub(crate) fn prev(&self) -> *mut Slab {
        self.prev.load(Relaxed)
    }

    /// Invariants; run at flush in debug builds, under the node lock.
    pub(crate) fn check(&self) {
        debug_assert_eq!(self.count_bits(), u32::from(self.free()), "bitmap and free count of a slab disagree");
    }
}

/// The lane of large objects: above every cache's id.
pub const LARGE_LANE: u16 = 4096;

/// Drops a value in place: what a slab of a cache of such values records.
///
/// # Safety
/// 1. `p` holds a live `T` that nobody else uses.
pub unsafe fn drop_value<T>(p: *mut u8) {
    // SAFETY: by (1).
    unsafe { p.cast::<T>().drop_in_place() }
}

/// A weight is at most this, so that a block's sum stays inside 32 bits.
const MOST_WEIGHT: u32 = 1 << 22;

#[cfg(test)]
mod tests {
    /// The reciprocal finds the object of every offset, for every stride.
    #[test]
    fn reciprocals_are_exact() {
        for stride in (16u64..=32768).step_by(8) {
            let r = (1u64 << 32).div_ceil(stride);
            for offset in [0, 1, stride - 1, stride, stride + 1, 65535 / stride * stride, 65535] {
                assert_eq!((offset * r) >> 32, offset / stride, "stride {stride} offset {offset}");
            }
        }
    }
}
