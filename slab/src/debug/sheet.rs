//! What is known about the objects of one slab: which are out, who had them last, whether the slab is still used.
//!
//! Made and read by [`check`](super::check); lives from the slab's coming to a cache until it leaves it, and longer in the hands of whoever
//! looks at it.
//!
//! # Ordering
//! The bits: AcqRel. Who clears an object's bit owns what was written into it while it was out, who sets it has it from the slab.
//! Everything else is under a lock. Locks are taken in this order: a sheet's, then a node's or the list's.

use super::owner::Owner;
use crate::lock::Lock;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::AcqRel};

/// Who allocated and who freed an object last.
#[derive(Clone, Default)]
pub(super) struct Tracks {
    pub(super) allocated: Option<Arc<Owner>>,
    pub(super) freed: Option<Arc<Owner>>,
}

/// See the module.
pub(super) struct Sheet {
    out: Box<[AtomicU64]>,
    /// None, if owners are not tracked.
    tracks: Lock<Box<[Tracks]>>,
    /// The slab is corrupt: nothing goes back to it. Held while an object does.
    pub(super) frozen: Lock<bool>,
}

impl Sheet {
    /// For a slab of so many objects, none of which is out. `None`: memory is out.
    pub(super) fn new(objects: usize, owners: bool) -> Option<Arc<Sheet>> {
        let (words, tracked) = (objects.div_ceil(64), if owners { objects } else { 0 });
        let (mut out, mut tracks) = (Vec::new(), Vec::new());
        out.try_reserve_exact(words).ok()?;
        tracks.try_reserve_exact(tracked).ok()?;
        out.resize_with(words, AtomicU64::default);
        tracks.resize_with(tracked, Tracks::default);
        let (tracks, frozen) = (Lock::new(tracks.into_boxed_slice()), Lock::new(false));
        Some(Arc::new(Sheet { out: out.into_boxed_slice(), tracks, frozen }))
    }

    /// The object goes out.
    pub(super) fn mark_out(&self, index: usize) {
        // AcqRel: see the module.
        self.out[index / 64].fetch_or(1 << (index % 64), AcqRel);
    }
    /// The object comes back, to the caller. False: it is not out.
    pub(super) fn claim(&self, index: usize) -> bool {
        // AcqRel: see the module.
        self.out[index / 64].fetch_and(!(1 << (index % 64)), AcqRel) & 1 << (index % 64) != 0
    }

    /// Who had the object.
    pub(super) fn tracks(&self, index: usize) -> Tracks {
        self.tracks.lock().get(index).cloned().unwrap_or_default()
    }
    /// Changes who had it; what was there is dropped outside the lock.
    pub(super) fn note(&self, index: usize, allocated: bool, owner: Option<Arc<Owner>>) {
        let mut tracks = self.tracks.lock();
        let old = tracks.get_mut(index).map(|tracks| {
            let place = if allocated { &mut tracks.allocated } else { &mut tracks.freed };
            std::mem::replace(place, owner)
        });
        drop(tracks);
        drop(old);
    }
}

/// The sheets of a cache's slabs, by the slab's first byte.
#[derive(Default)]
pub(crate) struct Sheets(Lock<Option<HashMap<usize, Arc<Sheet>>>>);

impl Sheets {
    pub(super) fn get(&self, slab: usize) -> Option<Arc<Sheet>> {
        self.0.lock().as_ref()?.get(&slab).cloned()
    }
    /// Adds one. False: memory is out.
    pub(super) fn add(&self, slab: usize, sheet: Arc<Sheet>) -> bool {
        let mut sheets = self.0.lock();
        let sheets = sheets.get_or_insert_default();
        sheets.try_reserve(1).is_ok() && sheets.insert(slab, sheet).is_none()
    }
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().as_ref().map_or(0, HashMap::len)
    }
    pub(super) fn remove(&self, slab: usize) {
        let sheet = self.0.lock().as_mut().and_then(|sheets| sheets.remove(&slab));
        drop(sheet); // outside the lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_claimed_once() {
        let sheet = Sheet::new(70, true).unwrap();
        assert!(!sheet.claim(69));
        sheet.mark_out(69);
        assert!(sheet.claim(69) && !sheet.claim(69));
    }

    #[test]
    fn tracks_are_the_objects() {
        let sheet = Sheet::new(2, true).unwrap();
        sheet.note(1, true, Owner::here());
        assert!(sheet.tracks(1).allocated.is_some() && sheet.tracks(1).freed.is_none());
        assert!(sheet.tracks(0).allocated.is_none());
        // None are kept where owners are not tracked.
        let bare = Sheet::new(2, false).unwrap();
        bare.note(1, true, Owner::here());
        assert!(bare.tracks(1).allocated.is_none());
    }
}
