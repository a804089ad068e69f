//! A plane of bits, one for every 8 bytes of slab memory, at whose multiples objects begin, reserved once and backed where it is touched.
//!
//! Used by [`deferred`](crate::deferred), which keeps its directory in a [`Table`], and by [`check`](crate::check).
//!
//! # Layout
//! By the number of an object's segment, then by its offset in the segment. Nothing here is ever unmapped while the plane lives,
//! so it can be touched whatever has become of the object meanwhile.

use crate::sync::AtomicU64;
use quietus_slab::raw::{GRANULE, Range, SEGMENT};
use std::marker::PhantomData;

/// Segments that planes cover: 128 GiB of objects where address space is reserved lazily, 1 GiB elsewhere.
pub(crate) const SEGMENTS: usize = if cfg!(all(target_os = "linux", not(quietus_portable))) { 32_768 } else { 256 };
/// Words of 64 bits for one segment.
pub(crate) const WORDS: usize = SEGMENT / GRANULE / 64;

/// An array of directory entries, reserved once and backed where it is touched.
pub(crate) struct Table<T> {
    range: Option<Range>,
    len: usize,
    entries: PhantomData<T>,
}

impl<T> Table<T> {
    /// An array of `len` entries, all zero; an empty one if the system refuses.
    ///
    /// # Safety
    /// 1. All zero is a valid `T`, which needs no drop and at most a page's alignment, and is only accessed as atomics.
    pub(crate) unsafe fn new(len: usize) -> Table<T> {
        let bytes = (len * size_of::<T>()).max(1);
        let range = Range::reserve(bytes, bytes);
        let len = if range.is_some() { len } else { 0 };
        Table { range, len, entries: PhantomData }
    }

    /// All of them.
    pub(crate) fn entries(&self) -> &[T] {
        let Some(range) = &self.range else { return &[] };
        // SAFETY: so many entries fit the range, which is zeroed, aligned to a page, and lives as long as `self`; they are valid by
        // contract (1) of `new`.
        unsafe { std::slice::from_raw_parts(range.base().cast::<T>(), self.len) }
    }
}

pub(crate) struct Plane {
    range: Option<Range>,
    segments: usize,
}

impl Plane {
    /// Reserves address space only. Covers nothing if the system refuses even a small plane.
    pub(crate) fn new() -> Plane {
        let range = Range::reserve(SEGMENTS * WORDS * 8, WORDS * 8);
        let segments = range.as_ref().map_or(0, |r| r.bytes() / (WORDS * 8));
        Plane { range, segments }
    }

    /// Segments covered.
    pub(crate) fn segments(&self) -> usize {
        self.segments
    }

    /// The words of a segment; `None`: not covered.
    pub(crate) fn words(&self, segment: usize) -> Option<&[AtomicU64; WORDS]> {
        let range = self.range.as_ref().filter(|_| segment < self.segments)?;
        // SAFETY: inside the range, which is zeroed, aligned to a page, and lives as long as `self`; only accessed as atomics.
        Some(unsafe { &*range.base().cast::<[AtomicU64; WORDS]>().add(segment) })
    }
}

/// Word and bit of an offset in a segment.
pub(crate) fn at(offset: usize) -> (usize, u64) {
    let granule = offset / GRANULE;
    (granule / 64, 1 << (granule % 64))
}
