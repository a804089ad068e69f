//! Every door for retiring, as a list that a test can walk.
#![allow(dead_code)] // each test binary uses its part

use super::{Object, Tally};
use quietus_kvfree::{GracePeriods, Kvfree, RcuHead, rcu_head};
use quietus_slab::{Cache, SlabBox};
use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Arc;

/// An object with a head of its own.
pub(crate) struct Node {
    pub(crate) before: u64,
    pub(crate) head: RcuHead,
    pub(crate) object: Object,
}
rcu_head!(Node, head);

/// An object with a head, and without a destructor.
pub(crate) struct Bare {
    pub(crate) value: u64,
    pub(crate) head: RcuHead,
}
rcu_head!(Bare, head);

pub(crate) fn node(object: Object) -> Node {
    Node { before: 0, head: RcuHead::new(), object }
}

/// A way to retire, and what is retired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Door {
    /// `retire`: plain memory of a size class.
    Retire,
    /// `retire`: a value of a typed cache.
    RetireTyped,
    /// `retire`: a value with a destructor in a size class.
    RetireDrop,
    /// `retire`: a value with a destructor in its typed cache.
    RetireTypedDrop,
    /// `retire_in`.
    In,
    /// `retire_in`: with a destructor.
    InDrop,
    /// `retire_ptr`: a size class with a lane of its own.
    Ptr,
    /// `retire_ptr`: a mapping of its own.
    PtrLarge,
    /// `kvfree_rcu`.
    Rcu,
    /// `retire_box`.
    Boxed,
    /// `retire_linked`: in a size class, with a destructor.
    Linked,
    /// `retire_linked`: in a size class, without one.
    LinkedBare,
    /// `retire_linked_box`.
    LinkedBox,
}

impl Door {
    pub(crate) const ALL: [Door; 13] = [
        Door::Retire,
        Door::RetireTyped,
        Door::RetireDrop,
        Door::RetireTypedDrop,
        Door::In,
        Door::InDrop,
        Door::Ptr,
        Door::PtrLarge,
        Door::Rcu,
        Door::Boxed,
        Door::Linked,
        Door::LinkedBare,
        Door::LinkedBox,
    ];

    /// Does a destructor tell of its end?
    pub(crate) fn drops(self) -> bool {
        use Door::*;
        matches!(self, RetireDrop | RetireTypedDrop | InDrop | Boxed | Linked | LinkedBox)
    }

    pub(crate) fn has_head(self) -> bool {
        matches!(self, Door::Linked | Door::LinkedBare | Door::LinkedBox)
    }

    /// Is there a door for signal handlers?
    pub(crate) fn is_constrained(self) -> bool {
        !matches!(self, Door::Rcu | Door::Boxed | Door::LinkedBox)
    }
}

type Plain = [u64; 12];

/// What the doors need.
pub(crate) struct House {
    pub(crate) plain: Cache<Plain>,
    pub(crate) dropped: Cache<Object>,
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 16).unwrap()
}

impl House {
    pub(crate) fn new() -> House {
        House { plain: Cache::new("house-plain"), dropped: Cache::new("house-dropped") }
    }

    /// Something for this door, that tells `tally` of its end if it can.
    pub(crate) fn make(&self, door: Door, tally: &Arc<Tally>, id: usize) -> NonNull<u8> {
        let object = || tally.object(id);
        match door {
            Door::Retire | Door::Rcu => SlabBox::into_raw(SlabBox::new([id as u64; 8])).cast(),
            Door::RetireTyped | Door::In => SlabBox::into_raw(self.plain.alloc([id as u64; 12])).cast(),
            Door::RetireDrop => SlabBox::into_raw(SlabBox::new(object())).cast(),
            Door::RetireTypedDrop | Door::InDrop => SlabBox::into_raw(self.dropped.alloc(object())).cast(),
            Door::Ptr => quietus_slab::alloc(layout(2000)).unwrap(),
            Door::PtrLarge => quietus_slab::alloc(layout(100_000)).unwrap(),
            Door::Boxed => NonNull::from(Box::leak(Box::new(object()))).cast(),
            Door::Linked => SlabBox::into_raw(SlabBox::new(node(object()))).cast(),
            Door::LinkedBare => SlabBox::into_raw(SlabBox::new(Bare { value: 1, head: RcuHead::new() })).cast(),
            Door::LinkedBox => NonNull::from(Box::leak(Box::new(node(object())))).cast(),
        }
    }

    /// # Safety
    /// 1. `p` was made for this door, and is not free.
    pub(crate) unsafe fn retire<G: GracePeriods>(&self, kvfree: &Kvfree<G>, door: Door, p: NonNull<u8>) {
        // SAFETY: by (1); nobody else knows it. That a test retires twice is what debug mode is asked about.
        unsafe {
            match door {
                Door::Retire => kvfree.retire(p.cast::<[u64; 8]>()),
                Door::RetireTyped => kvfree.retire(p.cast::<Plain>()),
                Door::RetireDrop | Door::RetireTypedDrop => kvfree.retire(p.cast::<Object>()),
                Door::In => kvfree.retire_in(&self.plain, p.cast()),
                Door::InDrop => kvfree.retire_in(&self.dropped, p.cast()),
                Door::Ptr | Door::PtrLarge => kvfree.retire_ptr(p),
                Door::Rcu => kvfree.kvfree_rcu(p.cast::<[u64; 8]>().as_ptr()),
                Door::Boxed => kvfree.retire_box(p.cast::<Object>()),
                Door::Linked => kvfree.retire_linked(p.cast::<Node>()),
                Door::LinkedBare => kvfree.retire_linked(p.cast::<Bare>()),
                Door::LinkedBox => kvfree.retire_linked_box(p.cast::<Node>()),
            }
        }
    }

    /// The same through the doors for signal handlers.
    ///
    /// # Safety
    /// 1. As [`retire`](Self::retire), and the door is one of them.
    pub(crate) unsafe fn retire_constrained<G: GracePeriods>(&self, kvfree: &Kvfree<G>, door: Door, p: NonNull<u8>) {
        let kvfree = kvfree.constrained();
        // SAFETY: as in `retire`.
        unsafe {
            match door {
                Door::Retire => kvfree.retire(p.cast::<[u64; 8]>()),
                Door::RetireTyped => kvfree.retire(p.cast::<Plain>()),
                Door::RetireDrop | Door::RetireTypedDrop => kvfree.retire(p.cast::<Object>()),
                Door::In => kvfree.retire_in(&self.plain, p.cast()),
                Door::InDrop => kvfree.retire_in(&self.dropped, p.cast()),
                Door::Ptr | Door::PtrLarge => kvfree.retire_ptr(p),
                Door::Linked => kvfree.retire_linked(p.cast::<Node>()),
                Door::LinkedBare => kvfree.retire_linked(p.cast::<Bare>()),
                Door::Rcu | Door::Boxed | Door::LinkedBox => unreachable!("not for handlers"),
            }
        }
    }
}

/// Objects of the allocator that are out, size classes and caches together.
pub(crate) fn live() -> u64 {
    quietus_slab::all_stats().iter().map(|cache| cache.live).sum()
}
