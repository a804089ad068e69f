//! The flavours' names: types without values, which domains, cells, pointers and sections carry, so that mixing them does not
//! compile. What they can do is said by `Flavour`, in `domain`.

/// The default: sections are opened and closed ([`pin`](crate::pin)); a nanosecond each, without a fence where the kernel offers
/// `membarrier`.
#[derive(Debug)]
pub enum Memb {}

/// Quiescent states: registered threads are inside all the time between them ([`qsbr`](crate::qsbr)). Reading costs nothing.
#[derive(Debug)]
pub enum Qsbr {}

/// The grace periods of a crossbeam-epoch collector (`epoch`, with the feature of that name).
#[cfg(feature = "epoch")]
#[derive(Debug)]
pub enum Epoch {}
