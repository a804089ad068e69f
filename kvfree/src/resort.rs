//! The last resorts: an object that found no room in any open block, in the order of what costs least.
//!
//! Handed to by [`collect`](crate::collect); hands to [`deferred`](crate::deferred), [`linked`](crate::linked), or waits.
//!
//! | step | for whom |
//! | --- | --- |
//! | a block for it alone | while there are blocks: its CPU is being drained, and every slot is busy |
//! | the deferred bitmap | slab objects, unless their destructor is another than the slab's |
//! | its own head | objects with an `RcuHead` |
//! | an allocated head | others, except in a signal handler |
//! | a grace period, waited for | others, where waiting is allowed |
//! | giving it up, counted and reported | what is left |

use crate::check;
use crate::collect::Item;
use crate::deferred::Mark;
use crate::grace::GracePeriods;
use crate::head::{Callback, RcuHead};
use crate::lane::CALL;
use crate::linked::{self, Link};
use crate::reclaim::Function;
use crate::shared::Shared;
use crate::sync::thread;
use quietus_slab::raw::{self, WEIGHT_UNIT, sites};
use std::ptr::NonNull;

impl Item {
    fn bytes(&self) -> u64 {
        u64::from(self.weight) * WEIGHT_UNIT as u64
    }

    /// The function to call on the pointer, which drops and frees, whatever it is.
    fn function(&self) -> Function {
        unsafe fn free(p: *mut u8) {
            check::freed(p);
            // SAFETY: plain memory of the allocator, whose grace period is over.
            unsafe { quietus_slab::free_bulk(&[p]) }
        }
        if self.function.is_null() {
            return free;
        }
        // SAFETY: an item's function is null or a `Function`; both have the size of a pointer.
        unsafe { std::mem::transmute::<*mut u8, Function>(self.function) }
    }

    /// May a bit stand for it? The sweep will drop it by what its slab records, and by nothing else.
    fn is_deferrable(&self) -> bool {
        if self.lane == CALL {
            return false;
        }
        // SAFETY: what is not a call is an object of the slab allocator that is not free.
        let dropper = unsafe { raw::slab(self.pointer) }.dropper();
        dropper.is_null() == self.function.is_null()
    }
}

impl<G: GracePeriods> Shared<G> {
    /// See the module.
    #[cold]
    pub(crate) fn resort(&self, item: Item) {
        let c = &self.counters;
        let site = sites().next().expect("there is always a slot");
        let mut wake = false;
        let b = self.empty_block(site, item.constrained, &mut wake);
        if wake {
            self.wake_from(item.constrained);
        }
        if let Some(b) = b {
            self.prepare(b, item, site);
            let both = [item.pointer, item.function];
            b.block().set_capacity(2);
            // SAFETY: a block from the reserve is ours.
            unsafe { b.block().retire(if item.lane == CALL { &both } else { &both[..1] }, item.weight) };
            c.strays.add(1);
            c.stray_objects.add(1);
            c.stray_bytes.add(b.block().bytes() as u64);
            self.strays.push(b);
            return self.ring(item.constrained);
        }
        if item.is_deferrable() && self.defer_bit(&item) {
            return;
        }
        if let Some((head, callback)) = item.head {
            c.linked.add(1);
            return self.link(head, callback, item.constrained);
        }
        let may_allocate = !item.constrained && !raw::held();
        if let Some((head, callback)) = may_allocate.then(|| self.allocate_head(&item)).flatten() {
            c.links.add(1);
            return self.link(head, callback, item.constrained);
        }
        if item.constrained || self.gp.inside() != Some(false) || self.in_call() {
            c.leaked.add(1);
            return;
        }
        c.inline_waits.add(1);
        let cookie = self.gp.start();
        self.gp.synchronize(cookie);
        if self.gp.poll(cookie) {
            // SAFETY: retired once, and its grace period is over.
            self.run(|| unsafe { item.function()(item.pointer) });
        } else {
            c.leaked.add(1);
        }
    }

    /// False: the object's slab is out of the bitmap's reach.
    fn defer_bit(&self, item: &Item) -> bool {
        let c = &self.counters;
        // Before the bit, so that the sweep does not subtract what was not added.
        c.overflow_objects.add(1);
        c.overflow_bytes.add(item.bytes());
        // SAFETY: a deferrable item is an object of the allocator that is not free.
        let mark = unsafe { self.overflow.deferred.mark(item.pointer) };
        if mark != Mark::Done {
            c.overflow_objects.sub(1);
            c.overflow_bytes.sub(item.bytes());
        }
        match mark {
            Mark::Done => {
                c.deferred.add(1);
                self.ring(item.constrained);
            }
            Mark::Twice => {
                c.twice.add(1);
                if !item.constrained {
                    check::report(item.pointer);
                }
            }
            Mark::Impossible => return false,
        }
        true
    }

    fn allocate_head(&self, item: &Item) -> Option<(NonNull<RcuHead>, &'static Callback)> {
        Link::allocate(item.pointer, item.function(), item.bytes() as usize)
    }

    /// Queues an object by a head.
    pub(crate) fn link(&self, head: NonNull<RcuHead>, callback: &'static Callback, constrained: bool) {
        // Before the push, so that the sweep does not subtract what was not added.
        self.counters.overflow_objects.add(1);
        // SAFETY: about to be queued with it, and ours until then.
        self.counters.overflow_bytes.add(unsafe { linked::bytes(head, callback) } as u64);
        // SAFETY: whoever retires the object, or has allocated the head, hands it over.
        unsafe { self.overflow.linked.push(head, callback) };
        self.ring(constrained);
    }

    /// Unbatched mode: every object a callback of its own.
    pub(crate) fn queue_alone(&self, item: Item) {
        let may_allocate = !item.constrained && !raw::held();
        match item.head.or_else(|| may_allocate.then(|| self.allocate_head(&item)).flatten()) {
            Some((head, callback)) => {
                self.counters.callbacks.add(1);
                self.link(head, callback, item.constrained);
                if !item.constrained {
                    self.give_way();
                }
            }
            None => self.resort(item),
        }
    }

    /// Above the budget, what has no block can only be waited for: a yield for each.
    pub(crate) fn give_way(&self) {
        if self.queued_bytes() > self.config.budget as u64 {
            self.counters.yields.add(1);
            thread::yield_now();
            self.find_room();
        }
    }
}
