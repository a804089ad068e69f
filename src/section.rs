//! What a read-side section is to the rest of the crate: a borrowed proof that one is open.
//!
//! Guards implement [`Section`]; pointers loaded through one carry its lifetime. Nothing outside this crate can
//! implement it.

use crate::flavour::Memb;

/// Proof of an open read-side section of the flavour `F`.
///
/// # Safety
///
/// 1. While a `&self` is live, the thread that holds it is inside a read-side section of the engine that
///    `Sealed::engine` names, or that section is kept open for it by the thread it borrows from.
/// 2. That section does not end before the borrow does, whatever safe code is called on other values.
pub unsafe trait Section<F = Memb>: sealed::Sealed {}

pub(crate) mod sealed {
    /// Keeps [`Section`](super::Section) within the crate.
    pub trait Sealed {}
}
