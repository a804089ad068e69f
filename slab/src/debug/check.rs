//! The checks: of a slab that comes to a cache, of one that goes, of an object that leaves its slab, and of one that comes back.
//!
//! Called by [`cache`](crate::cache)'s slow paths and [`node`](crate::node), outside every lock; hands what it finds to
//! [`fault`](super::fault).
//!
//! An object that is out is marked in its slab's sheet. Freeing it clears the mark first: whoever does so has it alone, so that of two who
//! free it at the same time the second is found out, and what is read and filled is nobody else's. Until it is put back its slab has
//! an object out, and cannot go.

use super::fault::{Corruption, Fault, Side, report};
use super::flags::DebugFlags;
use super::owner::Owner;
use super::sheet::{Sheet, Tracks};
use super::zones::{Place, RED_ACTIVE, RED_INACTIVE, Wrong};
use crate::AllocError;
use crate::cache::Core;
use crate::known;
use crate::lock;
use crate::node::Put;
use crate::segment::{slab_of, start_of};
use crate::slab::Slab;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

impl Core {
    /// Readies a slab that is this cache's from now on, and nobody's yet. Errors: no memory for its sheet.
    pub(crate) fn prepare(&'static self, slab: &'static Slab) -> Result<(), AllocError> {
        if !self.debug.has_sheets() {
            return Ok(());
        }
        let sheet = Sheet::new(slab.objects(), self.debug.has(DebugFlags::OWNERS)).ok_or(AllocError)?;
        for index in 0..slab.objects() {
            // SAFETY: nobody has the slab's objects yet.
            unsafe { self.fill_free(self.place_of(slab.object(index))) };
        }
        if self.debug.sheets.add(start_of(slab).addr(), sheet) { Ok(()) } else { Err(AllocError) }
    }

    /// The slab leaves the cache.
    pub(crate) fn forget(&self, slab: &Slab) {
        if self.debug.has_sheets() {
            self.debug.sheets.remove(start_of(slab).addr());
        }
    }

    /// Looks at a slab that is about to leave the cache, all of it free. False: an object was written to, and the slab is not to be used again.
    pub(crate) fn check_away(&'static self, slab: &'static Slab) -> bool {
        if !self.debug.has_sheets() {
            return true;
        }
        let Some(sheet) = self.debug.sheets.get(start_of(slab).addr()) else { return true };
        let wrong = (0..slab.objects()).find_map(|index| {
            // SAFETY: the slab is ours, and all its objects are free.
            let fault = unsafe { self.look_at_bytes(self.place_of(slab.object(index)), true) };
            fault.map(|fault| (index, fault))
        });
        let Some((index, fault)) = wrong else { return true };
        self.counters.slabs_frozen.add(1);
        self.complain(slab.object(index), fault, sheet.tracks(index));
        false
    }

    fn place_of(&self, object: *mut u8) -> Place {
        let (size, lead) = (self.debug.size() as usize, self.debug.lead() as usize);
        Place { object, size, lead, tail: self.stride() as usize - lead - size }
    }

    /// # Safety
    /// 1. The object is the caller's, and its value is gone.
    unsafe fn fill_free(&self, place: Place) {
        // SAFETY: by (1).
        unsafe {
            if self.debug.has(DebugFlags::RED_ZONES) {
                place.fill_zones(RED_INACTIVE);
            }
            if self.debug.has(DebugFlags::POISON) {
                place.poison();
            }
        }
    }

    /// What is wrong with an object that is the caller's, and free or not.
    ///
    /// # Safety
    /// 1. The object is the caller's.
    unsafe fn look(&self, slab: &'static Slab, place: Place, free: bool) -> Option<Fault> {
        if self.debug.has(DebugFlags::CONSISTENCY) {
            if let Some((expected, found)) = self.nodes[usize::from(slab.node())].miscount(slab) {
                return Some(Fault::Count { expected, found });
            }
        }
        // SAFETY: by (1).
        unsafe { self.look_at_bytes(place, free) }
    }

    /// What is wrong in and around an object.
    ///
    /// # Safety
    /// 1. The object is the caller's.
    unsafe fn look_at_bytes(&self, place: Place, free: bool) -> Option<Fault> {
        if self.debug.has(DebugFlags::RED_ZONES) {
            let byte = if free { RED_INACTIVE } else { RED_ACTIVE };
            // SAFETY: by (1).
            if let Some(Wrong { offset, expected, found }) = unsafe { place.look_at_zones(byte) } {
                let side = if offset < 0 { Side::Left } else { Side::Right };
                return Some(Fault::RedZone { side, offset, expected, found });
            }
        }
        if free && self.debug.has(DebugFlags::POISON) {
            // SAFETY: by (1).
            if let Some(Wrong { offset, expected, found }) = unsafe { place.look_at_poison() } {
                return Some(Fault::UseAfterFree { offset, expected, found });
            }
        }
        None
    }

    fn me(&self) -> Option<Arc<Owner>> {
        if self.debug.has(DebugFlags::OWNERS) { Owner::here() } else { None }
    }

    /// An object of this checked cache that has left its slab is about to be used. False: it must not be; its slab is frozen.
    pub(crate) fn check_out(&'static self, object: *mut u8) -> bool {
        if !self.debug.has_sheets() {
            return true;
        }
        // SAFETY: the object is ours.
        let slab = unsafe { slab_of(object) };
        let (sheet, index) = (self.debug.sheets.get(start_of(slab).addr()), slab.index_of(object));
        let (Some(sheet), Some(index)) = (sheet, index) else {
            debug_assert!(false, "an object without a sheet");
            return true;
        };
        let place = self.place_of(object);
        // SAFETY: the object is ours.
        if let Some(fault) = unsafe { self.look(slab, place, true) } {
            self.freeze(slab, &sheet);
            self.complain(object, fault, sheet.tracks(index));
            return false;
        }
        // SAFETY: as above.
        unsafe {
            if self.debug.has(DebugFlags::RED_ZONES) {
                place.fill_zones(RED_ACTIVE);
            }
            if self.debug.has(DebugFlags::POISON) {
                place.fill_fresh();
            }
        }
        sheet.note(index, true, self.me());
        sheet.mark_out(index);
        true
    }

    /// Frees an address to this cache, if it or the cache that the address belongs to is checked. False: neither is, nothing was done.
    ///
    /// # Safety
    /// 1. `object` is an object of this allocator that nobody uses any more; of a checked cache, this may be any address.
    pub(crate) unsafe fn free_checked(&'static self, object: *mut u8) -> bool {
        let checked = self.debug.is_on();
        if checked && known::is_foreign(object) {
            self.complain(object, Fault::Foreign, Tracks::default());
            return true;
        }
        // SAFETY: by (1), or because the address lies in a segment that is mapped.
        let slab = unsafe { slab_of(object) };
        match slab.cache() {
            Some(owner) if std::ptr::eq(owner, self) => {
                checked && {
                    self.check_in(slab, object);
                    true
                }
            }
            // Chained caches have objects of each other's; checked ones never do.
            Some(owner) if checked || owner.debug.is_on() => {
                self.complain(object, Fault::WrongCache { owner: owner.name() }, owner.tracks_of(slab, object));
                true
            }
            None if checked => {
                self.complain(object, Fault::Foreign, Tracks::default());
                true
            }
            _ => false,
        }
    }

    /// Who had an object of this cache.
    fn tracks_of(&self, slab: &Slab, object: *mut u8) -> Tracks {
        let sheet = self.debug.sheets.get(start_of(slab).addr());
        sheet.map(|sheet| sheet.tracks(slab.nearest(object))).unwrap_or_default()
    }

    fn check_in(&'static self, slab: &'static Slab, object: *mut u8) {
        let Some(index) = slab.index_of(object) else {
            let nearest = slab.object(slab.nearest(object)).addr();
            return self.complain(object, Fault::Interior { object: nearest }, self.tracks_of(slab, object));
        };
        if !self.debug.has_sheets() {
            let (put, keep) = self.put_one(slab, object);
            let refused = put.refused;
            self.after_put(put, keep);
            if refused > 0 {
                self.complain(object, Fault::DoubleFree, Tracks::default());
            }
            return;
        }
        let sheet = self.debug.sheets.get(start_of(slab).addr());
        let Some(sheet) = sheet.filter(|sheet| sheet.claim(index)) else {
            return self.complain(object, Fault::DoubleFree, self.tracks_of(slab, object));
        };
        let place = self.place_of(object);
        // SAFETY: claimed, so ours.
        if let Some(fault) = unsafe { self.look(slab, place, false) } {
            self.freeze(slab, &sheet);
            return self.complain(object, fault, sheet.tracks(index));
        }
        // SAFETY: as above; its value is gone.
        unsafe { self.fill_free(place) };
        sheet.note(index, false, self.me());
        let frozen = sheet.frozen.lock();
        if *frozen {
            return; // leaked with its slab
        }
        let (put, keep) = self.put_one(slab, object);
        drop(frozen);
        self.after_put(put, keep);
    }

    /// Puts an object back into its slab, and whether the cache keeps an empty one.
    fn put_one(&'static self, slab: &Slab, object: *mut u8) -> (Put, bool) {
        // Relaxed: looked at again after the node's lock, which orders it with `close`.
        let keep = !self.dead.load(Relaxed);
        (self.nodes[usize::from(slab.node())].put_objects(self, slab.node(), &[object], keep), keep)
    }

    /// Takes a slab, of which an object is out, out of use for good. It counts as a life of the cache for ever.
    fn freeze(&'static self, slab: &'static Slab, sheet: &Sheet) {
        let mut frozen = sheet.frozen.lock();
        if !std::mem::replace(&mut *frozen, true) {
            self.nodes[usize::from(slab.node())].freeze(slab);
            self.counters.slabs_frozen.add(1);
        }
    }

    fn complain(&'static self, object: *mut u8, fault: Fault, tracks: Tracks) {
        self.counters.corruptions.add(1);
        let corruption = Corruption {
            cache: self.name(),
            address: object.addr(),
            object_bytes: self.usable(),
            fault,
            allocated: tracks.allocated,
            freed: tracks.freed,
            now: self.me(),
        };
        if !corruption.froze_slab() {
            self.counters.refused.add(1);
        }
        debug_assert!(!lock::held(), "reports are made outside every lock");
        report(&corruption, self.debug.has(DebugFlags::ABORT));
    }
}

#[cfg(test)]
mod tests {
    use super::super::flags::Wish;
    use super::super::zones::POISON_INUSE;
    use crate::cache::{Core, Recipe};
    use crate::debug::DebugFlags;
    use crate::segment::slab_of;

    fn core(flags: DebugFlags) -> &'static Core {
        let debug = Wish { flags, size: 40, align: 8, keeps: false };
        Core::create(&Recipe { name: "checked", stride: 40, debug, ..Recipe::default() }).unwrap()
    }

    #[test]
    fn b_4_an_object_is_filled_before_it_is_handed_out() {
        let core = core(DebugFlags::POISON);
        let p = core.alloc_direct().unwrap();
        // SAFETY: an object of 40 bytes that is ours, and filled.
        assert_eq!(unsafe { *p.cast::<[u8; 40]>() }, [POISON_INUSE; 40]);
        // SAFETY: ours, and freed once.
        unsafe { core.free_direct(&[p]) };
        core.close();
    }

    /// A descriptor that was written to: found by the next allocation and by the next free, and the slab is used no more.
    #[test]
    fn b_4_a_count_that_was_written_to() {
        for free in [false, true] {
            let core = core(DebugFlags::CONSISTENCY);
            let p = core.alloc_direct().unwrap();
            // SAFETY: an object of ours.
            let slab = unsafe { slab_of(p) };
            slab.set_free(0);
            if free {
                // SAFETY: ours, and freed once.
                unsafe { core.free_direct(&[p]) };
                assert_eq!(core.stats().slabs, 0);
            } else {
                let other = core.alloc_direct().unwrap();
                // SAFETY: an object of ours.
                assert!(!std::ptr::eq(unsafe { slab_of(other) }, slab));
            }
            let s = core.stats();
            assert_eq!((s.corruptions, s.slabs_frozen), (1, 1));
        }
    }

    /// Sheets come and go with their slabs.
    #[test]
    fn b_2_no_sheet_is_left_behind() {
        let core = core(DebugFlags::ALL);
        let held: Vec<_> = (0..5000).map(|_| core.alloc_direct().unwrap()).collect();
        assert_eq!(core.debug.sheets.len(), core.stats().slabs as usize);
        // SAFETY: ours, and freed once.
        unsafe { core.free_direct(&held) };
        core.shrink();
        assert_eq!((core.debug.sheets.len(), core.stats().slabs), (0, 0));
        core.close();
    }
}
