//! What the allocator asks of the operating system, in one place: address space, and giving pages back.
//!
//! Handed to by [`page`](crate::page) (the block array), [`percpu`](crate::percpu) (the word area) and
//! [`source`](crate::source) (segments). Linux: `mmap`, `madvise`. Elsewhere, and under `--cfg quietus_portable`, the
//! system allocator, which has no lazy reservation, so the portable ranges are small.

use std::ptr::NonNull;

/// The system's page, as far as layouts are concerned. A kernel with larger pages rounds up by itself.
pub(crate) const PAGE: usize = 4096;

#[cfg(all(target_os = "linux", not(quietus_portable)))]
mod imp {
    use super::NonNull;

    /// Reserves zeroed, lazily backed, immortal address space. `None` when the system refuses.
    pub(crate) fn reserve(bytes: usize) -> Option<NonNull<u8>> {
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no existing memory.
        let p = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if p == libc::MAP_FAILED { None } else { NonNull::new(p.cast()) }
    }

    /// Maps `size` bytes at a multiple of `align` (both multiples of a page): maps more and trims.
    pub(crate) fn map_aligned(size: usize, align: usize) -> Option<NonNull<u8>> {
        let whole = size.checked_add(align)?;
        let base = reserve(whole)?;
        let skip = base.as_ptr().align_offset(align);
        // SAFETY: `skip` < `align`, so `start .. start + size` lies inside the mapping just made.
        let start = unsafe { base.add(skip) };
        if skip > 0 {
            // SAFETY: the head of our own fresh mapping, which nobody has seen.
            unsafe { unmap(base, skip) };
        }
        if whole - skip > size {
            // SAFETY: the tail of our own fresh mapping, which nobody has seen.
            unsafe { unmap(start.add(size), whole - skip - size) };
        }
        Some(start)
    }

    /// # Safety
    /// 1. `base .. base + size` is whole pages mapped by this module, and nobody uses them any more.
    pub(crate) unsafe fn unmap(base: NonNull<u8>, size: usize) {
        // SAFETY: by (1).
        let r = unsafe { libc::munmap(base.as_ptr().cast(), size) };
        debug_assert_eq!(r, 0, "munmap of {size} bytes failed");
    }

    /// Gives the backing of whole pages back; they read as zero afterwards.
    ///
    /// # Safety
    /// 1. `base .. base + size` is whole pages mapped by this module whose contents nobody needs.
    pub(crate) unsafe fn purge(base: NonNull<u8>, size: usize) {
        // SAFETY: by (1).
        unsafe { libc::madvise(base.as_ptr().cast(), size, libc::MADV_DONTNEED) };
    }

    /// Makes whole pages inaccessible. False: the system refuses.
    ///
    /// # Safety
    /// 1. `base .. base + size` is whole pages mapped by this module that nobody uses.
    pub(crate) unsafe fn guard(base: NonNull<u8>, size: usize) -> bool {
        // SAFETY: by (1).
        unsafe { libc::mprotect(base.as_ptr().cast(), size, libc::PROT_NONE) == 0 }
    }

    pub(super) use unmap as release;

    /// Has pages that are not backed yet taken from a node, if it has any left; moves those that are. A wish: what the system says to it does
    /// not matter.
    pub(crate) fn prefer_node(base: NonNull<u8>, size: usize, node: u16) {
        const PREFERRED: libc::c_int = 1;
        const MOVE: libc::c_uint = 2;
        let mask: u64 = 1 << (node % 64);
        // SAFETY: changes the policy of a range, not its contents; the mask has as many bits as it says.
        unsafe {
            libc::syscall(
                libc::SYS_mbind,
                base.as_ptr(),
                size,
                PREFERRED,
                &raw const mask,
                64 + 1 as libc::c_ulong,
                MOVE,
            )
        };
    }

    /// The CPUs that threads of this process may run on. `None`: the system does not say.
    pub(crate) fn allowed_cpus() -> Option<Vec<u32>> {
        let mut all = vec![false; libc::CPU_SETSIZE as usize];
        for task in std::fs::read_dir("/proc/self/task").ok()?.flatten() {
            let Some(id) = task.file_name().to_str().and_then(|id| id.parse::<libc::pid_t>().ok()) else { continue };
            // SAFETY: all zero is a valid set, which the kernel fills; `CPU_ISSET` is given numbers inside it.
            unsafe {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                if libc::sched_getaffinity(id, size_of_val(&set), &mut set) == 0 {
                    all.iter_mut().enumerate().for_each(|(cpu, may)| *may |= libc::CPU_ISSET(cpu, &set));
                }
            }
        }
        Some((0..).zip(all).filter_map(|(cpu, may)| may.then_some(cpu)).collect())
            .filter(|all: &Vec<u32>| !all.is_empty())
    }

    /// Address space for blocks: 4 GiB, a million of them. Only touched pages cost memory.
    pub(crate) const BLOCK_RANGE: usize = 4 << 30;
}

#[cfg(not(all(target_os = "linux", not(quietus_portable))))]
mod imp {
    use super::{NonNull, PAGE};
    use std::alloc::{GlobalAlloc, Layout, System};

    /// Zeroed, immortal memory from the system allocator. `None` when it refuses.
    pub(crate) fn reserve(bytes: usize) -> Option<NonNull<u8>> {
        let layout = Layout::from_size_align(bytes, PAGE).ok()?;
        assert!(bytes > 0);
        // SAFETY: the size is not zero.
        NonNull::new(unsafe { System.alloc_zeroed(layout) })
    }

    /// # Safety
    /// 1. `base .. base + size` came from `reserve`, and nobody uses it any more.
    pub(super) unsafe fn release(base: NonNull<u8>, size: usize) {
        let layout = Layout::from_size_align(size, PAGE).expect("as in `reserve`");
        // SAFETY: by (1), with the layout it was allocated with.
        unsafe { System.dealloc(base.as_ptr(), layout) }
    }

    pub(crate) fn prefer_node(_: NonNull<u8>, _: usize, _: u16) {}

    pub(crate) fn allowed_cpus() -> Option<Vec<u32>> {
        None
    }

    /// Room for blocks: large zeroed ranges are backed lazily by the systems we know of, but may be counted, so the
    /// portable range is 256 MiB (65,536 blocks).
    pub(crate) const BLOCK_RANGE: usize = 256 << 20;
}

pub(crate) use imp::*;

/// Zeroed, lazily backed address space that goes back when this is dropped.
pub struct Range {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it owns its range, and gives out the address only.
unsafe impl Send for Range {}
// SAFETY: as above.
unsafe impl Sync for Range {}

impl Range {
    /// Reserves `most` bytes, or half as much again and again down to `least`. `None` when the system refuses even that.
    pub fn reserve(most: usize, least: usize) -> Option<Range> {
        reserve_up_to(most, least).map(|(base, bytes)| Range { base, bytes })
    }
    /// First byte, aligned to a page.
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }
    /// Length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        // SAFETY: reserved with this size, and nobody uses it any more.
        unsafe { release(self.base, self.bytes) };
    }
}

/// `reserve`, halving the request down to `least` when the system refuses (address-space limits). Returns the size got.
pub(crate) fn reserve_up_to(most: usize, least: usize) -> Option<(NonNull<u8>, usize)> {
    let mut bytes = most;
    loop {
        if let Some(p) = reserve(bytes) {
            return Some((p, bytes));
        }
        if bytes / 2 < least {
            return None;
        }
        bytes /= 2;
    }
}

/// Fetches the cache line of an address that will be written soon. Any address will do.
#[inline(always)]
pub fn prefetch(p: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint without effect on memory, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_ET0 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}
