//! The inverted index: word → immutable posting list, in a lock-free hash map, generic over the reclaimer.
//!
//! In the order of a word's way through it: `posting` (one immutable list) hangs on a `node` (one word), which stands in
//! a chain of the `map`; `update` gives a word a new list, `query` walks two of them, `audit` compares the whole with
//! the single-threaded index. A writer's `work` is its account of it. Everything touched on the way is checked; what is
//! wrong with it is a `fault`.
//!
//! Every list and every node is memory of the reclaimer's. A list is replaced, never changed; a word whose list would be
//! empty loses its node, and gets a new one when it comes back.

pub(crate) mod posting;
pub(crate) mod node;
pub(crate) mod map;
pub(crate) mod update;
pub(crate) mod query;
pub(crate) mod audit;
pub(crate) mod work;
pub(crate) mod fault;

#[cfg(test)]
mod tests;

pub(crate) use fault::Fault;
pub(crate) use map::Map;
pub(crate) use work::Work;
