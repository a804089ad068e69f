//! What a cache keeps per NUMA node: the **barn** (full blocks, and one being filled), and its slabs, under one lock.
//!
//! Handed to by [`cache`](crate::cache) when the per-CPU blocks have run empty or full; hands to [`segment`](crate::segment).
//!
//! # Ordering
//! The lock orders everything here. Blocks that leave are owned by whoever took them.

use crate::AllocError;
use crate::alien::Table;
use crate::cache::Core;
use crate::list::{Bins, List};
use crate::lock::{Held, Lock};
use crate::page::{self, BlockNo};
use crate::segment::Pool;
use crate::slab::Slab;
use crate::stats::NodeStats;
use std::ptr::null_mut;

mod frozen;

/// Empty slabs a node keeps before it gives them back.
const EMPTY_KEPT: u32 = 1;

#[derive(Default)]
pub(crate) struct Node {
    pub(crate) state: Lock<State>,
}

pub(crate) struct State {
    /// Chain of blocks with objects, ready to be installed.
    full: BlockNo,
    full_count: u32,
    /// Block that loose objects collect in.
    filling: BlockNo,
    /// Slabs with some objects free.
    partial: Bins,
    /// The same of another type than the cache's: nothing is allocated from them.
    guests: List,
    /// Slabs with all objects free.
    empty: List,
    slabs: u32,
    /// The cache is chained: its slabs go to this one.
    heir: Option<&'static Core>,
    /// Objects of other nodes; see [`alien`](crate::alien).
    pub(crate) alien: Option<Table>,
    /// Was anything used since the reaper was here?
    pub(crate) touched: bool,
    /// The fewest full blocks there were since then.
    pub(crate) low: u32,
    /// The last CPU of the node has gone, or the cache is over: no barn, no table.
    pub(crate) shut: bool,
}

impl Default for State {
    fn default() -> Self {
        State {
            full: BlockNo::NONE,
            full_count: 0,
            filling: BlockNo::NONE,
            partial: Bins::default(),
            guests: List::default(),
            empty: List::default(),
            slabs: 0,
            heir: None,
            alien: None,
            touched: false,
            low: 0,
            shut: false,
        }
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
    /// The next of them, which is the caller's.
    pub(crate) fn pop(&mut self) -> Option<&'static Slab> {
        // SAFETY: released slabs are ours until given to the pool.
        let slab = unsafe { self.0.as_ref() }?;
        self.0 = slab.next();
        self.1 -= 1;
        Some(slab)
    }
    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.1
    }
}

/// What became of objects that were put back.
pub(crate) struct Put {
    /// So many of them are dealt with.
    pub(crate) done: usize,
    /// Slabs that are free now.
    pub(crate) released: Released,
    /// Objects refused as free already.
    pub(crate) refused: u32,
    /// Slabs that were full, and are partial now; that were partial, and are empty now.
    pub(crate) added: u32,
    pub(crate) removed: u32,
    /// The next one's slab is chained to this cache.
    pub(crate) heir: Option<&'static Core>,
}

/// What became of a full slab of a chained cache.
pub(crate) enum Moved {
    /// Somebody else has moved it, or the heir has an heir by now.
    Not,
    /// No object begins at the address that was freed.
    Refused,
    /// It was moved. Has the former cache to stay for it?
    Yes { stays: bool },
}

impl Node {
    /// A block with objects from the barn.
    pub(crate) fn take_block(&self) -> Option<BlockNo> {
        let mut s = self.state.lock();
        s.touched = true;
        if let Some(b) = s.pop_full() {
            return Some(b);
        }
        Some(std::mem::replace(&mut s.filling, BlockNo::NONE)).filter(|b| b.is_some())
    }

    /// Puts a block with objects into the barn; gives it back if the barn has `most` already.
    pub(crate) fn put_block(&self, b: BlockNo, most: u32) -> Result<(), BlockNo> {
        let mut s = self.state.lock();
        s.touched = true;
        if s.full_count >= most || s.shut {
            return Err(b);
        }
        s.put_full(b);
        Ok(())
    }

    /// Merges the objects of a partly filled block into the barn's filling one; a block that overflows `most` comes back.
    pub(crate) fn put_loose(&self, b: BlockNo, most: u32) -> Result<(), BlockNo> {
        let mut s = self.state.lock();
        s.touched = true;
        if s.shut {
            return Err(b);
        }
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
        s.touched = true;
        let mut got = 0;
        while got < most {
            if let Some(slab) = s.partial.first() {
                let before = slab.free();
                got += slab.take(most - got, |p| {
                    // SAFETY: `b` is the caller's, and has room for `most`.
                    let pushed = unsafe { b.block().push(p) };
                    debug_assert!(pushed);
                });
                s.taken_from(slab, before);
            } else if let Some(slab) = s.empty.first() {
                s.empty.remove(slab);
                s.partial.list(slab).push(slab);
            } else {
                break;
            }
        }
        got
    }

    /// One free object of this node's slabs.
    pub(crate) fn take_one(&self) -> Option<*mut u8> {
        let mut s = self.state.lock();
        s.touched = true;
        if s.partial.first().is_none() {
            let slab = s.empty.first()?;
            s.empty.remove(slab);
            s.partial.list(slab).push(slab);
        }
        let slab = s.partial.first()?;
        let (mut object, before) = (null_mut(), slab.free());
        slab.take(1, |p| object = p);
        s.taken_from(slab, before);
        Some(object)
    }

    /// Takes a slab from the pool and lists it as empty.
    pub(crate) fn grow(&self, core: &'static Core, node: u16) -> Result<(), AllocError> {
        let slab = core.pool().take_slab(node)?;
        slab.assign(core, node);
        core.prepare(slab).inspect_err(|_| Pool::put_slab(slab))?;
        core.construct(slab);
        core.slab_added();
        core.charge(1);
        let mut s = self.state.lock();
        s.slabs += 1;
        s.empty.push(slab);
        Ok(())
    }

    /// Puts objects back into their slabs, as long as they are `core`'s and belong to this node: stops at the first that does not.
    pub(crate) fn put_objects(&self, core: &'static Core, node: u16, objects: &[*mut u8], keep_empty: bool) -> Put {
        let mut put = Put { done: 0, released: Released::none(), refused: 0, added: 0, removed: 0, heir: None };
        let mut s = self.state.lock();
        s.touched = true;
        for &p in objects {
            // SAFETY: the caller owns the objects.
            let slab = unsafe { crate::segment::slab_of(p) };
            // A slab leaves its cache under the lock that is held.
            if slab.node() != node || !slab.cache().is_some_and(|c| std::ptr::eq(c, core)) {
                break;
            }
            if s.heir.is_some() {
                put.heir = s.heir;
                break;
            }
            put.done += 1;
            let before = slab.free();
            if !slab.put(p) {
                put.refused += 1;
                continue;
            }
            if before == 0 {
                put.added += 1;
                s.listed(slab).push(slab);
            } else if !slab.is_guest() {
                s.partial.rebin(slab, before);
            }
            if slab.is_empty() {
                put.removed += 1;
                s.listed(slab).remove(slab);
                // A slab that came from a chained cache is not kept: nor is that cache, then.
                if keep_empty && slab.origin() == 0 && s.empty.len < EMPTY_KEPT {
                    s.empty.push(slab);
                } else {
                    s.slabs -= 1;
                    put.released.add(slab);
                }
            }
        }
        put
    }

    /// The cache that slabs of this node go to, if theirs is chained.
    pub(crate) fn heir(&self) -> Option<&'static Core> {
        self.state.lock().heir
    }

    /// The chained cache has ended: the node is as new.
    pub(crate) fn forget_heir(&self) {
        self.state.lock().heir = None;
    }

    /// Slabs that [`move_partial`](Self::move_partial) would move.
    pub(crate) fn movable(&self) -> u32 {
        let s = self.state.lock();
        s.partial.len() + s.guests.len
    }

    /// Moves up to `most` partial slabs of node `n` of a cache that is being chained to the end of its parent's, and the counts with them;
    /// when none is left, says so to those who free objects of the others. Returns slabs moved, for how many of these `from` has to
    /// stay, and whether it is done.
    pub(crate) fn move_partial(n: usize, from: &'static Core, to: &'static Core, most: u32) -> (u32, u32, bool) {
        let (mut s, mut t) = lock_both(&from.nodes[n], &to.nodes[n]);
        let (mut moved, mut kept) = (0, 0);
        while let Some(slab) = s.partial.first().or(s.guests.first()) {
            if moved == most {
                return (moved, kept, false);
            }
            s.listed(slab).remove(slab);
            kept += u32::from(hand_over(slab, (&mut s, from), (&mut t, to)));
            moved += 1;
        }
        s.heir = Some(to);
        (moved, kept, true)
    }

    /// Frees the first object of a full slab of a chained cache, and moves the slab to the end of the heir's.
    pub(crate) fn move_full(p: *mut u8, from: &'static Core, to: &'static Core) -> Moved {
        // SAFETY: the caller owns the object.
        let slab = unsafe { crate::segment::slab_of(p) };
        let n = usize::from(slab.node());
        let (mut s, mut t) = lock_both(&from.nodes[n], &to.nodes[n]);
        if t.heir.is_some() || !slab.cache().is_some_and(|c| std::ptr::eq(c, from)) {
            return Moved::Not;
        }
        debug_assert_eq!(slab.free(), 0, "a slab with free objects was left behind");
        if !slab.put(p) {
            return Moved::Refused;
        }
        Moved::Yes { stays: hand_over(slab, (&mut s, from), (&mut t, to)) }
    }

    /// All blocks of the barn, and those of strangers, as a chain.
    pub(crate) fn take_all_blocks(&self) -> BlockNo {
        self.state.lock().take_all_blocks()
    }

    /// The same, and the table, which the caller frees; from now on there are none, if `shut`.
    pub(crate) fn detach(&self, shut: bool) -> (BlockNo, Option<Table>) {
        let mut s = self.state.lock();
        s.shut |= shut;
        (s.take_all_blocks(), s.alien.take())
    }

    /// Full blocks that nobody has needed since the last call, all blocks if nobody has been here: those of the node, then those of
    /// strangers. The second call after the last use finds everything.
    pub(crate) fn age(&self) -> (BlockNo, BlockNo, Released) {
        let mut s = self.state.lock();
        let (mut own, mut aliens) = (BlockNo::NONE, BlockNo::NONE);
        let mut released = Released::none();
        if std::mem::replace(&mut s.touched, false) {
            for _ in 0..s.low {
                let Some(b) = s.pop_full() else { break };
                b.block().set_next(own);
                own = b;
            }
        } else {
            aliens = s.take_aliens(BlockNo::NONE);
            own = s.take_all_blocks();
            s.release_empty(&mut released);
        }
        s.low = s.full_count;
        (own, aliens, released)
    }

    /// Is anything here that could be given back?
    pub(crate) fn is_idle(&self) -> bool {
        let s = self.state.lock();
        let aliens = s.alien.as_ref().is_some_and(|table| table.counts().0 > 0);
        !s.full.is_some() && !s.filling.is_some() && s.empty.len == 0 && !aliens
    }

    /// Slabs.
    pub(crate) fn slabs(&self) -> u32 {
        self.state.lock().slabs
    }

    /// A CPU of the node has come, or a new cache begins.
    pub(crate) fn open(&self) {
        self.state.lock().shut = false;
    }

    /// Sorts the partial slabs, fullest first.
    pub(crate) fn sort_partial(&self) {
        self.state.lock().partial.sort();
    }

    /// All empty slabs.
    pub(crate) fn take_empty(&self) -> Released {
        let mut released = Released::none();
        self.state.lock().release_empty(&mut released);
        released
    }

    /// What it holds now. What is absent counts nothing.
    pub(crate) fn counts(&self) -> NodeStats {
        let s = self.state.lock();
        let free = |slab: &Slab| {
            slab.check();
            u64::from(slab.free())
        };
        let mut in_barn = u64::from(s.filling.block().len());
        let mut b = s.full;
        while b.is_some() {
            in_barn += u64::from(b.block().len());
            b = b.block().next();
        }
        let (alien_blocks, in_alien_blocks) = s.alien.as_ref().map_or((0, 0), Table::counts);
        NodeStats {
            slabs: s.slabs,
            partial_slabs: s.partial.len() + s.guests.len,
            empty_slabs: s.empty.len,
            free_in_slabs: s.partial.iter().chain(s.guests.iter()).chain(s.empty.iter()).map(free).sum(),
            barn_blocks: s.full_count + u32::from(s.filling.is_some()),
            in_barn,
            has_table: s.alien.is_some(),
            alien_blocks,
            in_alien_blocks,
            shut: s.shut,
            ..NodeStats::default()
        }
    }
}

/// The locks of two nodes, taken in the order of their addresses.
fn lock_both<'a>(a: &'a Node, b: &'a Node) -> (Held<'a, State>, Held<'a, State>) {
    if std::ptr::from_ref(a).addr() < std::ptr::from_ref(b).addr() {
        let first = a.state.lock();
        (first, b.state.lock())
    } else {
        let first = b.state.lock();
        (a.state.lock(), first)
    }
}

/// Moves a slab that is on no list from one cache's node to the end of another's. True: the former has to stay.
fn hand_over(slab: &'static Slab, from: (&mut State, &'static Core), to: (&mut State, &'static Core)) -> bool {
    let stays = slab.hand_over(from.1, to.1);
    from.0.slabs -= 1;
    to.0.slabs += 1;
    to.1.slab_added();
    to.0.listed(slab).push_last(slab);
    stays
}

impl State {
    /// The list for a slab with free objects.
    fn listed(&mut self, slab: &Slab) -> &mut List {
        if slab.is_guest() { &mut self.guests } else { self.partial.list(slab) }
    }

    /// Objects of a partial slab, which had `before` free ones, were taken.
    fn taken_from(&mut self, slab: &'static Slab, before: u16) {
        if slab.free() == 0 { self.partial.remove(slab, before) } else { self.partial.rebin(slab, before) }
    }

    fn release_empty(&mut self, released: &mut Released) {
        while let Some(slab) = self.empty.first() {
            self.empty.remove(slab);
            self.slabs -= 1;
            released.add(slab);
        }
    }

    fn take_all_blocks(&mut self) -> BlockNo {
        let filling = std::mem::replace(&mut self.filling, BlockNo::NONE);
        if filling.is_some() {
            self.put_full(filling);
        }
        (self.full_count, self.low) = (0, 0);
        let chain = std::mem::replace(&mut self.full, BlockNo::NONE);
        self.take_aliens(chain)
    }

    fn pop_full(&mut self) -> Option<BlockNo> {
        let b = self.full;
        b.is_some().then(|| {
            self.full = b.block().next();
            self.full_count -= 1;
            self.low = self.low.min(self.full_count);
            b
        })
    }

    fn put_full(&mut self, b: BlockNo) {
        b.block().check();
        b.block().set_next(self.full);
        self.full = b;
        self.full_count += 1;
    }
}
