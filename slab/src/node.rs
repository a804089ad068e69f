//! What a cache keeps per NUMA node: the **barn** (full blocks, and one being filled), and its slabs, under one lock.
//!
//! Handed to by [`cache`](crate::cache) when the per-CPU blocks have run empty or full; hands to [`segment`](crate::segment).
//!
//! # Ordering
//! The lock orders everything here. Blocks that leave are owned by whoever took them.

use crate::AllocError;
use crate::cache::Core;
use crate::lock::Lock;
use crate::page::{self, BlockNo};
use crate::segment::Pool;
use crate::slab::Slab;
use std::ptr::null_mut;

/// Empty slabs a node keeps before it gives them back.
const EMPTY_KEPT: u32 = 1;

#[derive(Default)]
pub(crate) struct Node {
    state: Lock<State>,
}

struct State {
    /// Chain of blocks with objects, ready to be installed.
    full: BlockNo,
    full_count: u32,
    /// Block that loose objects collect in.
    filling: BlockNo,
    /// Slabs with some objects free.
    partial: List,
    /// Slabs with all objects free.
    empty: List,
    slabs: u32,
}

impl Default for State {
    fn default() -> Self {
        State {
            full: BlockNo::NONE,
            full_count: 0,
            filling: BlockNo::NONE,
            partial: List::default(),
            empty: List::default(),
            slabs: 0,
        }
    }
}

/// A doubly linked list through the descriptors.
struct List {
    head: *mut Slab,
    len: u32,
}

impl Default for List {
    fn default() -> Self {
        List { head: null_mut(), len: 0 }
    }
}

// SAFETY: descriptors are immovable and reached only under the node's lock.
unsafe impl Send for List {}

impl List {
    fn push(&mut self, slab: &'static Slab) {
        let this = std::ptr::from_ref(slab).cast_mut();
        // SAFETY: slabs on a list are mapped.
        if let Some(head) = unsafe { self.head.as_ref() } {
            head.set_links(this, head.next());
        }
        slab.set_links(null_mut(), self.head);
        self.head = this;
        self.len += 1;
    }
    fn remove(&mut self, slab: &'static Slab) {
        let (prev, next) = (slab.prev(), slab.next());
        // SAFETY: slabs on a list are mapped.
        match unsafe { prev.as_ref() } {
            Some(p) => p.set_links(p.prev(), next),
            None => self.head = next,
        }
        // SAFETY: as above.
        if let Some(n) = unsafe { next.as_ref() } {
            n.set_links(prev, n.next());
        }
        self.len -= 1;
    }
    fn first(&self) -> Option<&'static Slab> {
        // SAFETY: slabs on a list are mapped, and live until taken off it.
        unsafe { self.head.as_ref() }
    }
}

/// Slabs that have become free and are on their way back to the pool; linked through their descriptors.
#[must_use]
pub(crate) struct Released(*mut Slab, u32);

impl Released {
    fn none() -> Self {
        Released(null_mut(), 0)
    }
    fn add(&mut self, slab: &'static Slab) {
        slab.set_links(null_mut(), self.0);
        self.0 = std::ptr::from_ref(slab).cast_mut();
        self.1 += 1;
    }
    /// Gives them to the pool; returns how many.
    pub(crate) fn give(self, pool: &'static Pool) -> u32 {
        let mut at = self.0;
        // SAFETY: released slabs are ours until given to the pool.
        while let Some(slab) = unsafe { at.as_ref() } {
            at = slab.next();
            pool.put_slab(slab);
        }
        self.1
    }
}

impl Node {
    /// A block with objects from the barn.
    pub(crate) fn take_block(&self) -> Option<BlockNo> {
        let mut s = self.state.lock();
        let b = s.full;
        if b.is_some() {
            s.full = b.block().next();
            s.full_count -= 1;
            return Some(b);
        }
        Some(std::mem::replace(&mut s.filling, BlockNo::NONE)).filter(|b| b.is_some())
    }

    /// Puts a block with objects into the barn; gives it back if the barn has `most` already.
    pub(crate) fn put_block(&self, b: BlockNo, most: u32) -> Result<(), BlockNo> {
        let mut s = self.state.lock();
        if s.full_count >= most {
            return Err(b);
        }
        s.put_full(b);
        Ok(())
    }

    /// Merges the objects of a partly filled block into the barn's filling one; a block that overflows `most` comes back.
    pub(crate) fn put_loose(&self, b: BlockNo, most: u32) -> Result<(), BlockNo> {
        let mut s = self.state.lock();
        let mut filling = std::mem::replace(&mut s.filling, b);
        if !filling.is_some() {
            return Ok(());
        }
        // The fuller one receives.
        let mut from = b;
        if from.block().len() > filling.block().len() {
            std::mem::swap(&mut from, &mut filling);
        }
        // SAFETY: both blocks are the barn's, under the lock.
        unsafe {
            while filling.block().len() < filling.block().capacity() {
                let Some(p) = from.block().pop() else { break };
                filling.block().push(p);
            }
        }
        if from.block().is_empty() {
            s.filling = filling;
            drop(s);
            page::put_page(from);
            return Ok(());
        }
        s.filling = from;
        if s.full_count >= most {
            return Err(filling);
        }
        s.put_full(filling);
        Ok(())
    }

    /// Fills `b` with up to `most` free objects of this node's slabs. No slab, nothing added.
    pub(crate) fn refill(&self, b: BlockNo, most: u32) -> u32 {
        let mut s = self.state.lock();
        let mut got = 0;
        while got < most {
            if let Some(slab) = s.partial.first() {
                got += slab.take(most - got, |p| {
                    // SAFETY: `b` is the caller's, and has room for `most`.
                    let pushed = unsafe { b.block().push(p) };
                    debug_assert!(pushed);
                });
                if slab.free() == 0 {
                    s.partial.remove(slab);
                }
            } else if let Some(slab) = s.empty.first() {
                s.empty.remove(slab);
                s.partial.push(slab);
            } else {
                break;
            }
        }
        got
    }

    /// One free object of this node's slabs.
    pub(crate) fn take_one(&self) -> Option<*mut u8> {
        let mut s = self.state.lock();
        if s.partial.first().is_none() {
            let slab = s.empty.first()?;
            s.empty.remove(slab);
            s.partial.push(slab);
        }
        let slab = s.partial.first()?;
        let mut object = null_mut();
        slab.take(1, |p| object = p);
        if slab.free() == 0 {
            s.partial.remove(slab);
        }
        Some(object)
    }

    /// Takes a slab from the pool and lists it as empty.
    pub(crate) fn grow(&self, core: &'static Core, node: u16) -> Result<(), AllocError> {
        let slab = core.pool().take_slab()?;
        slab.assign(core, node);
        core.slab_added();
        let mut s = self.state.lock();
        s.slabs += 1;
        s.empty.push(slab);
        Ok(())
    }

    /// Puts objects back into their slabs, as long as they belong to this node: stops at the first that does not. Returns how
    /// many were put back, slabs that are free now, and how many objects were refused as free already.
    pub(crate) fn put_objects(&self, node: u16, objects: &[*mut u8], keep_empty: bool) -> (usize, Released, u32) {
        let mut released = Released::none();
        let (mut done, mut refused) = (0, 0);
        let mut s = self.state.lock();
        for &p in objects {
            // SAFETY: the caller owns the objects, which are this cache's.
            let slab = unsafe { crate::segment::slab_of(p) };
            if slab.node() != node {
                break;
            }
            done += 1;
            let was_full = slab.free() == 0;
            if !slab.put(p) {
                refused += 1;
                continue;
            }
            if was_full {
                s.partial.push(slab);
            }
            if slab.is_empty() {
                s.partial.remove(slab);
                if keep_empty && s.empty.len < EMPTY_KEPT {
                    s.empty.push(slab);
                } else {
                    s.slabs -= 1;
                    released.add(slab);
                }
            }
        }
        (done, released, refused)
    }

    /// All blocks of the barn, as a chain.
    pub(crate) fn take_all_blocks(&self) -> BlockNo {
        let mut s = self.state.lock();
        let filling = std::mem::replace(&mut s.filling, BlockNo::NONE);
        if filling.is_some() {
            s.put_full(filling);
        }
        s.full_count = 0;
        std::mem::replace(&mut s.full, BlockNo::NONE)
    }

    /// All empty slabs.
    pub(crate) fn take_empty(&self) -> Released {
        let mut released = Released::none();
        let mut s = self.state.lock();
        while let Some(slab) = s.empty.first() {
            s.empty.remove(slab);
            s.slabs -= 1;
            released.add(slab);
        }
        released
    }

    /// (slabs, objects free in slabs, blocks in the barn, objects in the barn).
    pub(crate) fn counts(&self) -> (u32, u64, u32, u64) {
        let s = self.state.lock();
        let mut free = 0;
        for list in [&s.partial, &s.empty] {
            let mut at = list.head;
            // SAFETY: slabs on a list are mapped; the lock is held.
            while let Some(slab) = unsafe { at.as_ref() } {
                slab.check();
                free += u64::from(slab.free());
                at = slab.next();
            }
        }
        let mut objects = u64::from(s.filling.block().len());
        let mut b = s.full;
        while b.is_some() {
            objects += u64::from(b.block().len());
            b = b.block().next();
        }
        (s.slabs, free, s.full_count + u32::from(s.filling.is_some()), objects)
    }
}

impl State {
    fn put_full(&mut self, b: BlockNo) {
        b.block().check();
        b.block().set_next(self.full);
        self.full = b;
        self.full_count += 1;
    }
}
