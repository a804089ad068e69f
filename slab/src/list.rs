//! Lists of slabs: one through their descriptors, and *bins* of them by how full they are.
//!
//! Handed to by [`node`](crate::node), under whose lock they are.
//!
//! Allocations take from the fullest slab there is, so that the emptiest may become free (and their memory go): one bin for each
//! quarter of a slab that is free, so that finding one, and moving one on, is a matter of a few instructions however many there are.

use crate::slab::Slab;
use std::ptr::null_mut;

/// A doubly linked list through the descriptors.
pub(crate) struct List {
    head: *mut Slab,
    tail: *mut Slab,
    pub(crate) len: u32,
}

impl Default for List {
    fn default() -> Self {
        List { head: null_mut(), tail: null_mut(), len: 0 }
    }
}

// SAFETY: descriptors are immovable and reached only under the node's lock.
unsafe impl Send for List {}

impl List {
    pub(crate) fn push(&mut self, slab: &'static Slab) {
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
    pub(crate) fn push_last(&mut self, slab: &'static Slab) {
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
    /// Takes out a slab, if it is in: a walk.
    pub(crate) fn withdraw(&mut self, slab: &'static Slab) {
        if self.iter().any(|listed| std::ptr::eq(listed, slab)) {
            self.remove(slab);
        }
    }
    pub(crate) fn remove(&mut self, slab: &'static Slab) {
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
    pub(crate) fn first(&self) -> Option<&'static Slab> {
        // SAFETY: slabs on a list are mapped, and live until taken off it.
        unsafe { self.head.as_ref() }
    }
}

impl List {
    /// Front to back.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'static Slab> {
        std::iter::successors(self.first(), |slab| {
            // SAFETY: slabs on a list are mapped; the node's lock is held.
            unsafe { slab.next().as_ref() }
        })
    }

    /// Sorts by free objects, fewest first: allocations take from the front, so that the emptiest may become free.
    pub(crate) fn sort(&mut self) {
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

/// Bins of partial slabs.
const BINS: usize = 4;

/// Partial slabs, by how many of their objects are free: fullest first.
#[derive(Default)]
pub(crate) struct Bins([List; BINS]);

impl Bins {
    /// The bin of a slab with so many free objects; at least one.
    fn of(slab: &Slab, free: u16) -> usize {
        if slab.is_checked() {
            return 0; // whatever its count says
        }
        (usize::from(free.max(1)) - 1) * BINS / slab.objects().max(1)
    }
    /// The list that a partial slab is on, or belongs on.
    pub(crate) fn list(&mut self, slab: &Slab) -> &mut List {
        &mut self.0[Self::of(slab, slab.free())]
    }
    /// The fullest.
    pub(crate) fn first(&self) -> Option<&'static Slab> {
        self.0.iter().find_map(List::first)
    }
    /// A slab, in it since it had `before` free objects, has gained or lost some, but has some, and is not empty or about to go.
    pub(crate) fn rebin(&mut self, slab: &'static Slab, before: u16) {
        let (old, new) = (Self::of(slab, before), Self::of(slab, slab.free()));
        if old != new {
            self.0[old].remove(slab);
            self.0[new].push(slab);
        }
    }
    /// Takes out a slab that is in it since it had `before` free objects.
    pub(crate) fn remove(&mut self, slab: &'static Slab, before: u16) {
        self.0[Self::of(slab, before)].remove(slab);
    }
    /// Takes out a slab of a checked cache, if it is in.
    pub(crate) fn withdraw(&mut self, slab: &'static Slab) {
        self.0[0].withdraw(slab);
    }
    /// How many there are.
    pub(crate) fn len(&self) -> u32 {
        self.0.iter().map(|list| list.len).sum()
    }
    /// Fullest first, bin by bin.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'static Slab> {
        self.0.iter().flat_map(List::iter)
    }
    /// Sorts each bin, and so all.
    pub(crate) fn sort(&mut self) {
        self.0.iter_mut().for_each(List::sort);
    }
}
