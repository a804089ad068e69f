//! A node's part in freezing a corrupt slab.
//!
//! Called by [`debug`](crate::debug), holding the lock of the slab's sheet.

use super::Node;
use crate::slab::Slab;

impl Node {
    /// Takes a slab off its list, if it is on one, and forgets it. (Its count of free objects may be what is corrupt, so it is looked for.)
    pub(crate) fn freeze(&self, slab: &'static Slab) {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.partial.withdraw(slab);
        state.empty.withdraw(slab);
        state.slabs -= 1;
    }

    /// (free objects by a slab's bitmap, free objects by its count), if they differ.
    pub(crate) fn miscount(&self, slab: &Slab) -> Option<(u32, u32)> {
        let _state = self.state.lock();
        let (bits, count) = (slab.count_bits(), u32::from(slab.free()));
        (bits != count).then_some((bits, count))
    }
}
