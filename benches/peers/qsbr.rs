//! Ours, flavour qsbr: readers that are inside between two quiescent states. For what waiting costs; nothing is retired.

use super::{BoxSlot, Node, Readers, Waits};
use quietus::qsbr::{self, Reader};
use quietus::{Domain, Qsbr};

/// The global qsbr domain.
pub(crate) struct OurQsbr(pub(crate) &'static Domain<Qsbr>);

impl Readers for OurQsbr {
    const NAME: &'static str = "quietus qsbr";
    type Slot = BoxSlot;
    type Local = Reader;
    fn new() -> Result<Self, String> {
        Ok(OurQsbr(qsbr::domain()))
    }
    fn local(&self) -> Reader {
        qsbr::reader()
    }
    fn slot(&self, value: Node) -> BoxSlot {
        BoxSlot::new(value)
    }
    /// A look, and a quiescent state.
    #[inline(always)]
    fn read(&self, local: &mut Reader, slot: &BoxSlot) -> u64 {
        // SAFETY: (1) of `look`: nobody retires here.
        let word = unsafe { slot.look() };
        local.quiescent();
        word
    }
}

impl Waits for OurQsbr {
    fn synchronize(&self, local: &mut Reader) {
        local.synchronize();
    }
}
