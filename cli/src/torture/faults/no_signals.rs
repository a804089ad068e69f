//! In place of `signals` where there are no timers for threads: nobody is armed.

use crate::torture::flavours::Flavour;
use crate::torture::world::World;

/// Nothing.
pub(in crate::torture) struct Armed;

/// Does nothing.
pub(in crate::torture) fn arm<F: Flavour>(_: &World<'_, F>) -> Armed {
    Armed
}

/// Does nothing.
pub(in crate::torture) fn stock<F: Flavour>(_: &World<'_, F>) {}
