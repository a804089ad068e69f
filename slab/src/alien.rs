//! Objects that were freed on another node than their own: they go home in batches.
//!
//! Handed to by [`cache`](crate::cache) (a free that its CPU's block had no room for; a block that leaves a CPU); hands whole blocks to
//! the home node's barn.
//!
//! Each node has a *table* with one open block for every other node (the `alien` arrays of the kernel's SLAB). It is an object of
//! some cache itself — of a size class, or of the very cache that it serves — so it is allocated before, and freed after, the lock of
//! the node that holds it. It is made when it is first needed or when a CPU comes up, and goes when the node's last CPU goes;
//! without one, objects go home one by one.
//!
//! # Ordering
//! A table is its node's, under its lock.

use crate::cache::Core;
use crate::node::{Node, State};
use crate::page::{self, Block, BlockNo};
use crate::segment::slab_of;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// One open block for each node. Owned by whoever holds it; its memory goes back through [`free`](Table::free) alone.
pub(crate) struct Table(&'static [AtomicU32]);

impl Table {
    /// Bytes of a table for so many nodes.
    pub(crate) const fn bytes(nodes: u16) -> usize {
        nodes as usize * size_of::<AtomicU32>()
    }

    /// An object of the cache that the tables of `core` come from, if it has one to give for that node. Called without locks.
    pub(crate) fn make(core: &'static Core, n: usize) -> Option<Table> {
        debug_assert!(!crate::lock::held(), "a table may come from the very cache whose lock is held");
        let host = core.host()?;
        let p = if core.machine_is(host.machine()) { host.alloc_on(n) } else { host.alloc_direct() }?;
        let nodes = core.nodes.len();
        // SAFETY: a free object of the host, which is large enough for that many (looked at when the cache was made), aligned to 8; an
        // AtomicU32 may be any bits, and nobody else knows it.
        let slots = unsafe { std::slice::from_raw_parts(p.cast::<AtomicU32>(), nodes) };
        // Relaxed: it is ours.
        slots.iter().for_each(|slot| slot.store(BlockNo::NONE.0, Relaxed));
        Some(Table(slots))
    }

    /// Gives the memory back. Its blocks were taken out before. Called without locks.
    pub(crate) fn free(self) {
        debug_assert!(!crate::lock::held(), "a table may come from the very cache whose lock is held");
        debug_assert!(self.0.iter().all(|slot| !BlockNo(slot.load(Relaxed)).is_some()), "a table goes with its blocks");
        let p = self.0.as_ptr().cast::<u8>().cast_mut();
        // SAFETY: the object that `make` got, of a cache that has this object out.
        unsafe {
            if let Some(host) = slab_of(p).cache() {
                host.free_direct(&[p]);
            }
        }
    }

    fn take(&self, n: usize) -> BlockNo {
        // Relaxed: under the node's lock.
        BlockNo(self.0[n].swap(BlockNo::NONE.0, Relaxed))
    }

    /// Adds an object; gives the block out when it is full, or could not take it because there is no page.
    fn put(&self, n: usize, p: *mut u8, cap: u32) -> Result<BlockNo, ()> {
        // Relaxed: under the node's lock.
        let mut b = BlockNo(self.0[n].load(Relaxed));
        if !b.is_some() {
            b = page::page().ok_or(())?; // lock-free, and no cache's
            b.block().reset(cap);
            // Relaxed: as above.
            self.0[n].store(b.0, Relaxed);
        }
        // SAFETY: the block is the table's.
        let pushed = unsafe { b.block().push(p) };
        debug_assert!(pushed, "full blocks leave at once");
        let full = b.block().len() >= b.block().capacity();
        Ok(if full { self.take(n) } else { BlockNo::NONE })
    }

    /// (Blocks, objects) in it.
    pub(crate) fn counts(&self) -> (u32, u64) {
        // Relaxed: under the node's lock.
        let blocks = self.0.iter().map(|slot| BlockNo(slot.load(Relaxed))).filter(|b| b.is_some());
        blocks.fold((0, 0), |(n, objects), b| (n + 1, objects + u64::from(b.block().len())))
    }
}

impl Block {
    /// Overwrites a slot that is in use.
    ///
    /// # Safety
    /// 1. The caller owns the block, and slot `i` is in use.
    unsafe fn set_slot(&self, i: u32, p: *mut u8) {
        // SAFETY: by (1) nobody else touches the slots.
        unsafe { *self.slots[i as usize].get() = p };
    }
    /// Forgets all but the first `n` objects of an owned sheaf.
    fn truncate(&self, n: u32) {
        debug_assert!(n <= self.len());
        // Relaxed: the block is ours, or this is a stale look (N).
        self.len.store(n, Relaxed);
    }
}

impl State {
    /// All blocks of the table, in front of a chain. (The node of each is told by its objects.)
    pub(crate) fn take_aliens(&mut self, mut chain: BlockNo) -> BlockNo {
        let Some(table) = &self.alien else { return chain };
        for b in (0..table.0.len()).map(|n| table.take(n)).filter(|b| b.is_some()) {
            b.block().set_next(chain);
            chain = b;
        }
        chain
    }
}

impl Node {
    /// Gives the node a table if it has none, and has CPUs; else hands it back.
    pub(crate) fn install(&self, table: Table) -> Option<Table> {
        let mut s = self.state.lock();
        if s.shut || s.alien.is_some() {
            return Some(table);
        }
        s.alien = Some(table);
        None
    }

    /// Should it have a table, and has none?
    fn wants_table(&self) -> bool {
        let s = self.state.lock();
        !s.shut && s.alien.is_none()
    }

    /// Takes those out of a block whose home is another node than `own`, and adds them to others; these, when full, to a chain. Objects
    /// that cannot be kept here are counted out at the end of the block: (chain, objects that have to go home by themselves).
    fn part(&self, b: BlockNo, own: u16, cap: u32, mut strays: impl FnMut(*mut u8)) -> BlockNo {
        let (mut chain, mut kept) = (BlockNo::NONE, 0);
        let mut s = self.state.lock();
        s.touched = true;
        // SAFETY: the block is the caller's, and so are its objects; `kept` is below the number of those that were taken.
        unsafe {
            let objects = b.block().pointers();
            for &p in objects {
                let home = slab_of(p).node();
                if home == own {
                    b.block().set_slot(kept, p);
                    kept += 1;
                    continue;
                }
                match s.alien.as_ref().map(|table| table.put(usize::from(home), p, cap)) {
                    Some(Ok(full)) if full.is_some() => {
                        full.block().set_next(chain);
                        chain = full;
                    }
                    Some(Ok(_)) => {}
                    _ => strays(p),
                }
            }
        }
        b.block().truncate(kept);
        chain
    }
}

impl Core {
    /// Makes a table for the node if it lacks one: allocated first, installed only where there is none, and freed again if there is one by
    /// now.
    fn want_table(&'static self, n: usize) {
        if self.nodes[n].wants_table() {
            if let Some(table) = Table::make(self, n) {
                if let Some(surplus) = self.nodes[n].install(table) {
                    surplus.free();
                }
            }
        }
    }

    /// Sends the objects of other nodes in a block, which the caller owns, on their way.
    #[cold]
    pub(crate) fn send_aliens(&'static self, b: BlockNo) {
        let (node, n) = self.here();
        // SAFETY: the block is the caller's, and its objects are free ones of this allocator.
        let mut aliens = unsafe { b.block().pointers().iter().filter(|&&p| slab_of(p).node() != n) };
        if aliens.next().is_none() {
            return;
        }
        self.counters.alien_put.add(1 + aliens.count() as u64);
        self.want_table(usize::from(n));
        let (mut strays, mut left) = ([std::ptr::null_mut(); page::SLOTS as usize], 0);
        let chain = node.part(b, n, self.block_capacity(), |p| {
            strays[left] = p;
            left += 1;
        });
        self.go_home(chain);
        // SAFETY: free objects that nobody else has.
        unsafe { self.free_direct(&strays[..left]) };
        self.forget_if_dead();
    }

    /// Puts one free object of another node where it waits for others. False: there is no place.
    ///
    /// # Safety
    /// 1. `p` is an object of this cache that nobody uses any more.
    pub(crate) unsafe fn put_alien(&'static self, p: *mut u8) -> bool {
        let (node, n) = self.here();
        // SAFETY: by (1).
        let home = unsafe { slab_of(p) }.node();
        if home == n {
            return false;
        }
        self.want_table(usize::from(n));
        let put = {
            let mut s = node.state.lock();
            s.touched = true;
            s.alien.as_ref().map(|table| table.put(usize::from(home), p, self.block_capacity()))
        };
        let Some(Ok(full)) = put else { return false };
        self.counters.alien_put.add(1);
        self.go_home(full);
        self.forget_if_dead();
        true
    }

    /// Sends blocks home: the objects of each are of one node.
    pub(crate) fn go_home(&'static self, mut chain: BlockNo) {
        while chain.is_some() {
            let b = chain;
            chain = b.block().next();
            self.counters.alien_home.add(1);
            // SAFETY: the block is ours, and holds an object.
            let home = unsafe { slab_of(b.block().slot(0)) }.node();
            let barn = self.nodes[usize::from(home)].put_block(b, self.barn_most());
            if let Err(b) = barn {
                self.flush_block(b);
            }
        }
        self.forget_if_dead();
    }

    /// What was put down after the cache has died is taken up again.
    fn forget_if_dead(&'static self) {
        // Relaxed: looked at again after the node's lock, which orders it with `close`.
        if self.dead.load(Relaxed) {
            self.empty_barns();
        }
    }

    /// Closes a node: its barn and its table are detached under the lock, and freed after it. Without `shut` it opens again by itself.
    pub(crate) fn shut_node(&'static self, n: usize, shut: bool) {
        let (chain, table) = self.nodes[n].detach(shut);
        self.flush_chain(chain);
        if let Some(table) = table {
            table.free();
        }
    }

    /// Takes all tables down: before the cache ends, or counts its objects.
    pub(crate) fn take_tables(&'static self, shut: bool) {
        if self.has_aliens() {
            (0..self.nodes.len()).for_each(|n| self.shut_node(n, shut));
        }
    }
}
