//! Ours: the global domain, a private one, size classes instead of a typed cache, and the safe cell.

use super::{Cycles, Node, Readers, Reclaims, Waits};
use quietus::slab::{Cache, SlabBox};
use quietus::{Atomic, Domain, Rcu, Section, Shared, pin};
use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

/// A slot whose nodes are in slab memory.
pub(crate) struct Slot(Atomic<Node>);

impl Slot {
    fn new(node: SlabBox<Node>) -> Slot {
        // SAFETY: live until it is swapped out and retired, or the slot is dropped.
        Slot(Atomic::new(unsafe { Shared::from_raw(SlabBox::into_raw(node)) }))
    }

    #[inline(always)]
    fn look(&self, section: &impl Section) -> u64 {
        // SAFETY: never null; what is retired lives until this section has ended.
        unsafe { self.0.load(Acquire, section).deref()[0] }
    }

    #[inline(always)]
    fn publish(&self, node: SlabBox<Node>, section: &impl Section) -> NonNull<Node> {
        // SAFETY: live until it is swapped out and retired, or the slot is dropped.
        let new = unsafe { Shared::from_raw(SlabBox::into_raw(node)) };
        let old = self.0.swap(new, AcqRel, section).as_raw();
        // SAFETY: never null.
        unsafe { NonNull::new_unchecked(old) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(node) = self.0.take() {
            // SAFETY: from `into_raw`, ours alone by now.
            drop(unsafe { SlabBox::from_raw(node) });
        }
    }
}

/// The default: `quietus::pin`, a typed cache.
pub(crate) struct Quietus {
    domain: &'static Domain,
    cache: Cache<Node>,
}

impl Readers for Quietus {
    const NAME: &'static str = "quietus";
    type Slot = Slot;
    type Local = ();
    fn new() -> Result<Self, String> {
        Ok(Quietus { domain: Domain::global(), cache: Cache::new("nodes") })
    }
    fn local(&self) {}
    fn slot(&self, value: Node) -> Slot {
        Slot::new(self.cache.alloc(value))
    }
    #[inline(always)]
    fn read(&self, _local: &mut (), slot: &Slot) -> u64 {
        slot.look(&pin())
    }
}

impl Reclaims for Quietus {
    #[inline(always)]
    fn replace(&self, _local: &mut (), slot: &Slot, value: Node) {
        let guard = pin();
        let old = slot.publish(self.cache.alloc(value), &guard);
        // SAFETY: (1) swapped out, by us alone; slab memory. (2) Of this cache.
        unsafe { self.domain.retire_in(&self.cache, old) };
    }
    fn barrier(&self, _local: &mut ()) {
        self.domain.barrier();
    }
}

impl Cycles for Quietus {
    #[inline(always)]
    fn cycle(&self, _local: &mut (), value: Node) {
        let _guard = pin();
        let node = black_box(SlabBox::into_raw(self.cache.alloc(value)));
        // SAFETY: (1) never published; slab memory. (2) Of this cache.
        unsafe { self.domain.retire_in(&self.cache, node) };
    }
}

impl Waits for Quietus {
    fn synchronize(&self, _local: &mut ()) {
        self.domain.synchronize();
    }
}

/// A domain of one's own.
pub(crate) struct Private {
    domain: Domain,
    cache: Cache<Node>,
}

impl Readers for Private {
    const NAME: &'static str = "quietus, private domain";
    type Slot = Slot;
    type Local = ();
    fn new() -> Result<Self, String> {
        Ok(Private { domain: Domain::new(), cache: Cache::new("private nodes") })
    }
    fn local(&self) {}
    fn slot(&self, value: Node) -> Slot {
        Slot::new(self.cache.alloc(value))
    }
    #[inline(always)]
    fn read(&self, _local: &mut (), slot: &Slot) -> u64 {
        slot.look(&self.domain.pin())
    }
}

impl Reclaims for Private {
    #[inline(always)]
    fn replace(&self, _local: &mut (), slot: &Slot, value: Node) {
        let guard = self.domain.pin();
        let old = slot.publish(self.cache.alloc(value), &guard);
        // SAFETY: (1) swapped out, by us alone; slab memory. (2) Of this cache.
        unsafe { self.domain.retire_in(&self.cache, old) };
    }
    fn barrier(&self, _local: &mut ()) {
        self.domain.barrier();
    }
}

impl Cycles for Private {
    #[inline(always)]
    fn cycle(&self, _local: &mut (), value: Node) {
        let _guard = self.domain.pin();
        let node = black_box(SlabBox::into_raw(self.cache.alloc(value)));
        // SAFETY: (1) never published; slab memory. (2) Of this cache.
        unsafe { self.domain.retire_in(&self.cache, node) };
    }
}

impl Waits for Private {
    fn synchronize(&self, _local: &mut ()) {
        self.domain.synchronize();
    }
}

/// No cache of one's own: the size class of 64 bytes.
pub(crate) struct Kmalloc {
    domain: &'static Domain,
}

impl Readers for Kmalloc {
    const NAME: &'static str = "quietus, SlabBox::new";
    type Slot = Slot;
    type Local = ();
    fn new() -> Result<Self, String> {
        Ok(Kmalloc { domain: Domain::global() })
    }
    fn local(&self) {}
    fn slot(&self, value: Node) -> Slot {
        Slot::new(SlabBox::new(value))
    }
    #[inline(always)]
    fn read(&self, _local: &mut (), slot: &Slot) -> u64 {
        slot.look(&pin())
    }
}

impl Reclaims for Kmalloc {
    #[inline(always)]
    fn replace(&self, _local: &mut (), slot: &Slot, value: Node) {
        let guard = pin();
        let old = slot.publish(SlabBox::new(value), &guard);
        // SAFETY: (1) swapped out, by us alone; slab memory. (2) Plain data.
        unsafe { self.domain.retire(old) };
    }
    fn barrier(&self, _local: &mut ()) {
        self.domain.barrier();
    }
}

impl Cycles for Kmalloc {
    #[inline(always)]
    fn cycle(&self, _local: &mut (), value: Node) {
        let _guard = pin();
        let node = black_box(SlabBox::into_raw(SlabBox::new(value)));
        // SAFETY: (1) never published; slab memory. (2) Plain data.
        unsafe { self.domain.retire(node) };
    }
}

/// The safe cell: no `unsafe` at its user's, and a cookie taken for every value replaced.
pub(crate) struct Cell {
    cache: Cache<Node>,
}

impl Readers for Cell {
    const NAME: &'static str = "quietus, Rcu<T>";
    type Slot = Rcu<Node>;
    type Local = ();
    fn new() -> Result<Self, String> {
        Ok(Cell { cache: Cache::new("cell nodes") })
    }
    fn local(&self) {}
    fn slot(&self, value: Node) -> Rcu<Node> {
        Rcu::from_box(self.cache.alloc(value))
    }
    #[inline(always)]
    fn read(&self, _local: &mut (), slot: &Rcu<Node>) -> u64 {
        slot.load(&pin())[0]
    }
}

impl Reclaims for Cell {
    #[inline(always)]
    fn replace(&self, _local: &mut (), slot: &Rcu<Node>, value: Node) {
        let _guard = pin();
        drop(slot.replace_box(self.cache.alloc(value)));
    }
    fn barrier(&self, _local: &mut ()) {
        Domain::global().barrier();
    }
}
