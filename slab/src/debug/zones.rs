//! Red zones and poison: where they lie, how they are filled and read.
//!
//! Called by [`check`](super::check).
//!
//! # Layout
//! An object of `size` bytes is preceded by `lead` bytes and followed by at least [`LEAST`] bytes, up to the `lead` of the next one. Both are
//! filled with one byte, which says whether the object is out. The first object of a slab begins `lead` bytes into it.

use crate::segment::SLAB_BYTES;

/// Fills an object that is handed out: a value that is read before it is written shows.
pub const POISON_INUSE: u8 = 0x5a;
/// Fills a free object, but for its last byte.
pub const POISON_FREE: u8 = 0x6b;
/// The last byte of a free object.
pub const POISON_END: u8 = 0xa5;
/// Fills the red zones of a free object.
pub const RED_INACTIVE: u8 = 0xbb;
/// Fills the red zones of an object that is out.
pub const RED_ACTIVE: u8 = 0xcc;

/// Bytes of a red zone, at least.
pub(super) const LEAST: u32 = 8;

/// (bytes before an object, bytes from one object to the next) of a cache with red zones; `None`: they do not fit a slab.
pub(super) fn layout(size: u32, align: u32) -> Option<(u32, u32)> {
    let align = align.max(LEAST);
    let lead = LEAST.next_multiple_of(align);
    let stride = (lead + size + LEAST).next_multiple_of(align);
    (stride as usize <= SLAB_BYTES).then_some((lead, stride))
}

/// An object with its surroundings.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) object: *mut u8,
    pub(super) size: usize,
    pub(super) lead: usize,
    /// Bytes between the object's end and the next one's lead.
    pub(super) tail: usize,
}

/// A byte that is not what it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Wrong {
    /// Relative to the object's first byte.
    pub(super) offset: isize,
    pub(super) expected: u8,
    pub(super) found: u8,
}

impl Place {
    /// The first byte of `len` ones from `offset` on that differs.
    ///
    /// # Safety
    /// 1. They lie inside the object's share of its slab, and nobody writes them now.
    unsafe fn find(self, offset: isize, len: usize, expected: u8) -> Option<Wrong> {
        (offset..offset + len as isize).find_map(|offset| {
            // SAFETY: by (1). Volatile: somebody may have written them who should not.
            let found = unsafe { self.object.offset(offset).read_volatile() };
            (found != expected).then_some(Wrong { offset, expected, found })
        })
    }

    /// Fills both red zones.
    ///
    /// # Safety
    /// 1. The object is the caller's.
    pub(super) unsafe fn fill_zones(self, byte: u8) {
        // SAFETY: by (1); both lie inside its share of the slab.
        unsafe {
            self.object.sub(self.lead).write_bytes(byte, self.lead);
            self.object.add(self.size).write_bytes(byte, self.tail);
        }
    }

    /// What is wrong before the object, or behind it.
    ///
    /// # Safety
    /// 1. The object is the caller's.
    pub(super) unsafe fn look_at_zones(self, byte: u8) -> Option<Wrong> {
        // SAFETY: by (1).
        unsafe {
            self.find(-(self.lead as isize), self.lead, byte).or_else(|| self.find(self.size as isize, self.tail, byte))
        }
    }

    /// Fills a free object.
    ///
    /// # Safety
    /// 1. The object is the caller's, and its value is gone.
    pub(super) unsafe fn poison(self) {
        if let Some(last) = self.size.checked_sub(1) {
            // SAFETY: by (1).
            unsafe {
                self.object.write_bytes(POISON_FREE, last);
                self.object.add(last).write(POISON_END);
            }
        }
    }

    /// What was written into a free object.
    ///
    /// # Safety
    /// 1. The object is the caller's.
    pub(super) unsafe fn look_at_poison(self) -> Option<Wrong> {
        let last = self.size.checked_sub(1)?;
        // SAFETY: by (1).
        unsafe { self.find(0, last, POISON_FREE).or_else(|| self.find(last as isize, 1, POISON_END)) }
    }

    /// Fills an object that is about to be handed out.
    ///
    /// # Safety
    /// 1. The object is the caller's.
    pub(super) unsafe fn fill_fresh(self) {
        // SAFETY: by (1).
        unsafe { self.object.write_bytes(POISON_INUSE, self.size) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_aligned_and_apart() {
        for (size, align) in [(0, 1), (1, 1), (13, 1), (16, 8), (24, 8), (64, 64), (300, 256), (4096, 4096), (32768, 8)]
        {
            let (lead, stride) = layout(size, align).unwrap();
            assert!(lead % align == 0 && stride % align == 0 && lead >= LEAST && lead % 8 == 0 && stride % 8 == 0);
            assert!(stride - lead >= size + LEAST, "{size} {align}");
        }
        assert_eq!(layout(32768, 32768), None);
    }

    #[test]
    fn each_byte_is_looked_at() {
        let mut share = [0u8; 64];
        // SAFETY: the object lies inside the array, with its surroundings.
        unsafe {
            let place = Place { object: share.as_mut_ptr().add(16), size: 20, lead: 16, tail: 28 };
            place.fill_zones(RED_ACTIVE);
            place.poison();
            assert_eq!((place.look_at_zones(RED_ACTIVE), place.look_at_poison()), (None, None));
            for offset in -16..48 {
                let at = place.object.offset(offset);
                let was = at.replace(!at.read());
                let wrong = Some(Wrong { offset, expected: was, found: !was });
                let inside = (0..20).contains(&offset);
                let found = (place.look_at_zones(RED_ACTIVE), place.look_at_poison());
                assert_eq!(found, if inside { (None, wrong) } else { (wrong, None) });
                at.write(was);
            }
        }
    }
}
