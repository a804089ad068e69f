//! What a cache keeps per NUMA node: the **barn** (full blocks, and one being filled), and its slabs, under one lock.
//!
//! Handed to by [`cache`](crate::cache) when the per-CPU blocks have run empty or full; hands to [`segment`](crate::segment).
//!
//! # Ordering
//! The lock orders everything here. Blocks that leave are owned by whoever took them.

use crate::AllocError;
use crate::cache::Core;
use crate::lock::{Held, Lock};
use crate::page::{self, BlockNo};
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
    /// The same of another type than the cache's: nothing is allocated from them.
    guests: List,
    /// Slabs with all objects free.
    empty: List,
    slabs: u32,
    /// The cache is chained: its slabs go to this one.
    heir: Option<&'static Core>,
}

impl Default for State {
    fn default() -> Self {
        State {
            full: BlockNo::NONE,
            full_count: 0,
            filling: BlockNo::NONE,
            partial: List::default(),
            guests: List::default(),
            empty: List::default(),
            slabs: 0,
            heir: None,
        }
    }
}

/// A doubly linked list through the descriptors.
struct List {
    head: *mut Slab,
    tail: *mut Slab,
    len: u32,
}

impl Default for List {
    fn default() -> Self {
        List { head: null_mut(), tail: null_mut(), len: 0 }
    }
}

// SAFETY: descriptors are immovable and reached only under the node's lock.
unsafe impl Send for List {}

impl List {
    fn push(&mut self, slab: &'static Slab) {
        let this = std::ptr::from_ref(slab).cast_mut();
        // SAFETY: slabs on a list are mapped.
        match unsafe { self.head.as_ref() } {
            Some(head) => head.set_links(this, head.next()),
            None => self.tail = this,
        }
        slab.set_links(null_mut(), self.head);
        self.head = this;
        self.len += 1;
    }
    fn push_last(&mut self, slab: &'static Slab) {
        let this = std::ptr::from_ref(slab).cast_mut();
        // SAFETY: slabs on a list are mapped.
        match unsafe { self.tail.as_ref() } {
            Some(tail) => tail.set_links(tail.prev(), this),
            None => self.head = this,
        }
        slab.set_links(self.tail, null_mut());
        self.tail = this;
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
        match unsafe { next.as_ref() } {
            Some(n) => n.set_links(prev, n.next()),
            None => self.tail = prev,
        }
        self.len -= 1;
    }
    fn first(&self) -> Option<&'static Slab> {
        // SAFETY: slabs on a list are mapped, and live until taken off it.
        unsafe { self.head.as_ref() }
    }
}

impl List {
    /// Sorts by free objects, fewest first: allocations take from the front, so that the emptiest may become free.
    fn sort(&mut self) {
        self.head = sort(self.head, self.len);
        let (mut prev, mut at) = (null_mut(), self.head);
        // SAFETY: slabs on a list are mapped.
        while let Some(slab) = unsafe { at.as_ref() } {
            let next = slab.next();
            slab.set_links(prev, next);
            (prev, at) = (at, next);
        }
        self.tail = prev;
    }
}

/// Merge sort of the first `n` slabs of a chain, which are cut off. Stable; follows and sets `next` alone.
fn sort(chain: *mut Slab, n: u32) -> *mut Slab {
    // SAFETY: slabs on a list are mapped.
    let at = |p: *mut Slab| unsafe { p.as_ref() };
    let Some(first) = at(chain) else { return chain };
    if n < 2 {
        first.set_links(null_mut(), null_mut());
        return chain;
    }
    let mut second = chain;
    for _ in 0..n / 2 {
        second = at(second).map_or(null_mut(), Slab::next);
    }
    let (mut a, mut b) = (sort(chain, n / 2), sort(second, n - n / 2));
    let (mut head, mut tail): (*mut Slab, Option<&Slab>) = (null_mut(), None);
    loop {
        let taken = match (at(a), at(b)) {
            (None, None) => return head,
            (Some(x), Some(y)) if y.free() < x.free() => std::mem::replace(&mut b, y.next()),
            (Some(x), _) => std::mem::replace(&mut a, x.next()),
            (None, Some(y)) => std::mem::replace(&mut b, y.next()),
        };
        match tail {
            Some(tail) => tail.set_links(null_mut(), taken),
            None => head = taken,
        }
        tail = at(taken);
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
        core.charge(1);
        let mut s = self.state.lock();
        s.slabs += 1;
        s.empty.push(slab);
        Ok(())
    }

    /// Puts objects back into their slabs, as long as they are `core`'s and belong to this node: stops at the first that does not.
    pub(crate) fn put_objects(&self, core: &'static Core, node: u16, objects: &[*mut u8], keep_empty: bool) -> Put {
        let mut put = Put { done: 0, released: Released::none(), refused: 0, heir: None };
        let mut s = self.state.lock();
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
            let was_full = slab.free() == 0;
            if !slab.put(p) {
                put.refused += 1;
                continue;
            }
            if was_full {
                s.listed(slab).push(slab);
            }
            if slab.is_empty() {
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
        s.partial.len + s.guests.len
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

    /// Sorts the partial slabs, fullest first.
    pub(crate) fn sort_partial(&self) {
        self.state.lock().partial.sort();
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
        for list in [&s.partial, &s.guests, &s.empty] {
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
        if slab.is_guest() { &mut self.guests } else { &mut self.partial }
    }

    fn put_full(&mut self, b: BlockNo) {
        b.block().check();
        b.block().set_next(self.full);
        self.full = b;
        self.full_count += 1;
    }
}
