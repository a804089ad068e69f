//! Where segments come from: the [`PageSource`] trait and its three implementations.
//!
//! Handed to by [`segment`](crate::segment), which asks for aligned ranges; hands to [`os`](crate::os).

use crate::AllocError;
#[cfg(all(target_os = "linux", not(quietus_portable)))]
use crate::os;
use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering::Relaxed};

/// A supplier of large, aligned ranges of memory (whole segments, and the objects above 32 KiB; never on a fast path).
///
/// # Safety
/// 1. A range returned by [`map`](Self::map) has at least the size and alignment asked for, is readable and writable,
///    zeroed, aliased by nobody, and stays so until [`unmap`](Self::unmap).
/// 2. After [`purge`](Self::purge) the range is still mapped; its contents are unspecified.
/// 3. No method calls into the allocator that uses this source.
pub unsafe trait PageSource: Sync {
    /// A fresh zeroed range of `layout.size()` bytes at a multiple of `layout.align()`. May make system calls; may block.
    fn map(&self, layout: Layout) -> Result<NonNull<u8>, AllocError>;

    /// Takes a range back.
    ///
    /// # Safety
    /// 1. `range` came from [`map`](Self::map) of this source with this layout, and nobody uses it any more.
    unsafe fn unmap(&self, range: NonNull<u8>, layout: Layout);

    /// Gives the backing of part of a range back to the system where that is possible. Default: nothing.
    ///
    /// # Safety
    /// 1. `start .. start + size` is whole pages inside a live range of this source, whose contents nobody needs.
    unsafe fn purge(&self, start: NonNull<u8>, size: usize) {
        let _ = (start, size);
    }

    /// Makes part of a range inaccessible, until the range is unmapped; says whether it did. Default: it does not. (Guard pages of
    /// [hardened](crate::CacheBuilder::hardened) caches.)
    ///
    /// # Safety
    /// 1. `start .. start + size` is whole pages inside a live range of this source, which nobody uses.
    unsafe fn guard(&self, start: NonNull<u8>, size: usize) -> bool {
        let _ = (start, size);
        false
    }
}

/// Anonymous mappings; the default on Linux.
#[cfg(all(target_os = "linux", not(quietus_portable)))]
#[derive(Debug, Default, Clone, Copy)]
pub struct MmapSource;

#[cfg(all(target_os = "linux", not(quietus_portable)))]
// SAFETY: 1: `map_aligned` gives fresh zeroed mappings. 2: MADV_DONTNEED keeps the mapping. 3: system calls only.
unsafe impl PageSource for MmapSource {
    fn map(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        os::map_aligned(layout.size().next_multiple_of(os::PAGE), layout.align().max(os::PAGE)).ok_or(AllocError)
    }
    unsafe fn unmap(&self, range: NonNull<u8>, layout: Layout) {
        // SAFETY: by our contract 1 this is a whole range of `map`.
        unsafe { os::unmap(range, layout.size().next_multiple_of(os::PAGE)) }
    }
    unsafe fn purge(&self, start: NonNull<u8>, size: usize) {
        // SAFETY: by our contract 1.
        unsafe { os::purge(start, size) }
    }
    unsafe fn guard(&self, start: NonNull<u8>, size: usize) -> bool {
        // SAFETY: by our contract 1.
        unsafe { os::guard(start, size) }
    }
}

/// The system allocator (`std::alloc::System`'s zeroed memory); the default where there is no `mmap`, and for tools that
/// do not know it.
#[derive(Debug, Default, Clone, Copy)]
pub struct HeapSource;

// SAFETY: 1: fresh zeroed heap memory of the layout asked for. 2: `purge` does nothing. 3: `System` only.
unsafe impl PageSource for HeapSource {
    fn map(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        if layout.size() == 0 {
            return Err(AllocError);
        }
        // SAFETY: the size is not zero.
        NonNull::new(unsafe { std::alloc::GlobalAlloc::alloc_zeroed(&std::alloc::System, layout) }).ok_or(AllocError)
    }
    unsafe fn unmap(&self, range: NonNull<u8>, layout: Layout) {
        // SAFETY: by our contract 1 the layout is the one it was allocated with.
        unsafe { std::alloc::GlobalAlloc::dealloc(&std::alloc::System, range.as_ptr(), layout) }
    }
}

/// A source for tests: passes on to another one until its allowance is used up, then fails. Counts what it did.
#[derive(Debug)]
pub struct FailingSource {
    allowance: AtomicIsize,
    maps: AtomicUsize,
    unmaps: AtomicUsize,
    refusals: AtomicUsize,
}

impl FailingSource {
    /// A source whose first `allowance` calls of `map` succeed.
    pub const fn new(allowance: isize) -> Self {
        FailingSource {
            allowance: AtomicIsize::new(allowance),
            maps: AtomicUsize::new(0),
            unmaps: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
        }
    }
    /// Sets how many further calls of `map` succeed.
    pub fn allow(&self, allowance: isize) {
        // Relaxed: counts of a test's source.
        self.allowance.store(allowance, Relaxed);
    }
    /// (ranges mapped, ranges unmapped, calls refused) so far.
    pub fn counts(&self) -> (usize, usize, usize) {
        // Relaxed: counts of a test's source.
        (self.maps.load(Relaxed), self.unmaps.load(Relaxed), self.refusals.load(Relaxed))
    }
}

// SAFETY: everything that is not refused is done by `HeapSource`.
unsafe impl PageSource for FailingSource {
    fn map(&self, layout: Layout) -> Result<NonNull<u8>, AllocError> {
        // Relaxed: counts of a test's source.
        if self.allowance.fetch_sub(1, Relaxed) <= 0 {
            self.allowance.fetch_add(1, Relaxed);
            self.refusals.fetch_add(1, Relaxed);
            return Err(AllocError);
        }
        let range = HeapSource.map(layout)?;
        // Relaxed: counts of a test's source.
        self.maps.fetch_add(1, Relaxed);
        Ok(range)
    }
    unsafe fn unmap(&self, range: NonNull<u8>, layout: Layout) {
        // Relaxed: counts of a test's source.
        self.unmaps.fetch_add(1, Relaxed);
        // SAFETY: by our contract 1; `map` passed the layout on unchanged.
        unsafe { HeapSource.unmap(range, layout) }
    }
}

/// The source of every cache that names no other.
#[cfg(all(target_os = "linux", not(quietus_portable)))]
pub(crate) static DEFAULT: MmapSource = MmapSource;
/// The source of every cache that names no other.
#[cfg(not(all(target_os = "linux", not(quietus_portable))))]
pub(crate) static DEFAULT: HeapSource = HeapSource;
