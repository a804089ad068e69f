//! [`Sheaf`]: free objects that the caller owns, so that allocating them cannot fail.
//!
//! Handed to by [`typed`](crate::typed); filled from and returned to [`cache`](crate::cache).

use crate::cache::Core;
use crate::node::Node;
use crate::page::{self, BlockNo, SLOTS};
use crate::slab_box::SlabBox;
use crate::typed::Cache;
use crate::{AllocError, hook};
use std::fmt;
use std::ptr::NonNull;

impl Core {
    /// Moves up to `n` free objects into a block of the caller's, which has room for them: from the barn, the slabs, fresh ones,
    /// other nodes, and this CPU, in that order. Returns how many.
    pub(crate) fn fill(&'static self, b: BlockNo, n: u32) -> u32 {
        if self.debug.is_on() {
            return self.fill_checked(b, n);
        }
        let (node, number) = self.near();
        let mut got = 0;
        let barn = |got: &mut u32, node: &Node| {
            while *got < n {
                let Some(from) = node.take_block() else { break };
                *got += self.pour(from, b, n - *got);
            }
        };
        barn(&mut got, node);
        got += node.refill(b, n - got);
        if got < n && hook::dry() {
            barn(&mut got, node);
        }
        while got < n && node.grow(self, number).is_ok() {
            got += node.refill(b, n - got);
        }
        for other in &self.nodes {
            got += other.refill(b, n - got);
            barn(&mut got, other);
        }
        // Bulk operations leave arrays alone.
        while got < n && !self.is_array() {
            let p = self.word().pop();
            // SAFETY: the block is the caller's, who lets us fill it.
            if p.is_null() || !unsafe { b.block().push(p) } {
                break;
            }
            got += 1;
        }
        got
    }

    /// [`fill`](Self::fill) of a cache whose objects are looked at one by one.
    fn fill_checked(&'static self, b: BlockNo, n: u32) -> u32 {
        for got in 0..n {
            let Some(p) = self.alloc_direct() else { return got };
            // SAFETY: the block is the caller's, and has room.
            let pushed = unsafe { b.block().push(p) };
            debug_assert!(pushed);
        }
        n
    }

    /// Moves up to `n` objects from a block, which goes back, to another.
    fn pour(&'static self, from: BlockNo, to: BlockNo, n: u32) -> u32 {
        let mut got = 0;
        // SAFETY: both blocks are the caller's.
        unsafe {
            while got < n {
                let Some(p) = from.block().pop() else { break };
                let pushed = to.block().push(p);
                debug_assert!(pushed);
                got += 1;
            }
        }
        self.take_in_loose(from);
        got
    }
}

/// Memory for a number of objects, set aside: as many can be allocated without fail, on whatever CPU, under whatever lock, while memory is
/// out elsewhere. What is left goes back to the cache when this is dropped.
///
/// ```
/// use quietus_slab::Cache;
/// let cache: Cache<[u64; 4]> = Cache::new("nodes");
/// let mut sheaf = cache.prefill(3)?;
/// let a = sheaf.alloc([1; 4]).unwrap();
/// assert_eq!((a[0], sheaf.len()), (1, 2));
/// sheaf.refill(3)?;
/// assert_eq!(sheaf.len(), 3);
/// # Ok::<(), quietus_slab::AllocError>(())
/// ```
pub struct Sheaf<'a, T> {
    cache: &'a Cache<T>,
    /// Blocks with objects, chained.
    first: BlockNo,
    len: usize,
}

impl<T> Cache<T> {
    /// Sets memory for `n` objects aside (`kmem_cache_prefill_sheaf`). Takes the node's lock; may map memory. Costs a page for each
    /// block of them. Errors: memory is out; nothing is kept then.
    pub fn prefill(&self, n: usize) -> Result<Sheaf<'_, T>, AllocError> {
        let mut sheaf = Sheaf { cache: self, first: BlockNo::NONE, len: 0 };
        sheaf.refill(n)?;
        Ok(sheaf)
    }
}

impl<T> Sheaf<'_, T> {
    /// Objects that can be allocated.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Is there none left?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Moves a value into one of the objects: cannot fail [`len`](Self::len) times, then hands the value back. Takes no lock, makes no
    /// system call, touches no memory but a block's page and the object.
    #[inline]
    pub fn alloc(&mut self, value: T) -> Result<SlabBox<T>, T> {
        while self.first.is_some() {
            // SAFETY: the blocks are the sheaf's.
            if let Some(p) = unsafe { self.first.block().pop() }.and_then(NonNull::new) {
                self.len -= 1;
                // SAFETY: a free object of the cache, whose stride and alignment fit T.
                return Ok(unsafe { SlabBox::emplace(p.cast(), value) });
            }
            let empty = self.first;
            self.first = empty.block().next();
            page::put_page(empty);
        }
        Err(value)
    }

    /// Fills it up to `n` objects; returns how many were added, 0 if there are as many already (`kmem_cache_refill_sheaf`). As
    /// [`prefill`](Cache::prefill). Errors: memory is out; what was there stays, and what could be had.
    pub fn refill(&mut self, n: usize) -> Result<usize, AllocError> {
        let core = self.cache.core;
        let before = self.len;
        while self.len < n {
            let b = page::page().ok_or(AllocError)?;
            let cap = if core.block_capacity() == 0 { SLOTS } else { core.block_capacity() };
            b.block().reset(cap);
            let got = core.fill(b, cap.min((n - self.len).try_into().unwrap_or(u32::MAX)));
            if got == 0 {
                page::put_page(b);
                return Err(AllocError);
            }
            self.len += got as usize;
            b.block().set_next(self.first);
            self.first = b;
        }
        Ok(self.len.saturating_sub(before))
    }
}

impl<T> Drop for Sheaf<'_, T> {
    fn drop(&mut self) {
        while self.first.is_some() {
            let b = self.first;
            self.first = b.block().next();
            self.cache.core.take_in_loose(b);
        }
    }
}

impl<T> fmt::Debug for Sheaf<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sheaf").field("cache", &self.cache.core.name()).field("len", &self.len).finish()
    }
}
