//! One word in the map: its key, the next node of its chain, and the list it has now.
//!
//! A node's life, by its `list`: born with none → one list after another → [`dead`]. Nothing leaves the last state, so a
//! word that comes back gets another node. A dead node's `next` is then marked, and a marked one taken out of its chain
//! by the first writer that passes; that writer retires it.
//!
//! Born without a list, because only a node that already stands in its chain may take the next generation: one that was
//! prepared earlier could be published after the word has come and gone again in the meantime.
//!
//! # Layout
//! 32 bytes: hash, word and seal never change; `next` carries the mark in its lowest bit.
//!
//! # Ordering
//! Both links are published with Release and read with Acquire, so whoever reaches a node or a list sees it written.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::Fault;
use super::posting::Header;
use crate::text::vocabulary::Key;

/// One word of the map.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Node {
    hash: u64,
    word: u32,
    seal: u32,
    /// The next node of the chain; the lowest bit says that this one is to be taken out.
    pub(crate) next: AtomicPtr<Node>,
    /// None yet (null), a list, or [`dead`].
    pub(crate) list: AtomicPtr<Header>,
}

impl Node {
    /// A node without a list, in front of `next`.
    pub(crate) fn born(key: Key, next: *mut Node) -> Node {
        Node {
            hash: key.hash,
            word: key.word,
            seal: seal(key),
            next: AtomicPtr::new(next),
            list: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The word it stands for.
    pub(crate) fn key(&self) -> Key {
        Key { hash: self.hash, word: self.word }
    }

    /// That this is a node at all: freed memory, poisoned or given to a list, does not carry its own seal.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        if self.seal == seal(self.key()) { Ok(()) } else { Err(Fault::Node) }
    }

    /// Marks a dead node, so that whoever passes takes it out. True for the one caller that did it.
    pub(crate) fn mark(&self) -> bool {
        // Acquire: with the Release of the writer that put the next node in; its marker hands it on.
        let mut next = self.next.load(Ordering::Acquire);
        while !is_marked(next) {
            // Release: with the Acquire in `Map::seek`, so whoever sees the mark also sees the list dead. Acquire, whether
            // it succeeds or fails: as the load above, of which this may be a later one.
            match self.next.compare_exchange_weak(next, marked(next), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => next = now,
            }
        }
        false
    }
}

/// A fold of the key that its own bytes would not give by accident.
fn seal(key: Key) -> u32 {
    let mixed = (key.hash ^ u64::from(key.word)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (mixed >> 32) as u32 ^ 0x51ed_270b
}

/// What stands in `list` once the word has lost its last file.
pub(crate) fn dead() -> *mut Header {
    ptr::without_provenance_mut(1)
}

/// Whether this link says that the node it was read from is to be taken out.
pub(crate) fn is_marked(next: *mut Node) -> bool {
    next.addr() & 1 == 1
}

/// The link with the mark.
pub(crate) fn marked(next: *mut Node) -> *mut Node {
    next.map_addr(|addr| addr | 1)
}

/// The link without it.
pub(crate) fn unmarked(next: *mut Node) -> *mut Node {
    next.map_addr(|addr| addr & !1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_small_and_sealed() {
        assert_eq!(size_of::<Node>(), 32);
        let mut node = Node::born(Key { hash: 17, word: 4 }, ptr::null_mut());
        assert_eq!(node.check(), Ok(()));
        node.word = 5;
        assert_eq!(node.check(), Err(Fault::Node));
        (node.hash, node.word, node.seal) = (0xa5a5_a5a5_a5a5_a5a5, 0xa5a5_a5a5, 0xa5a5_a5a5);
        assert_eq!(node.check(), Err(Fault::Node));
        (node.hash, node.word, node.seal) = (0, 0, 0);
        assert_eq!(node.check(), Err(Fault::Node));
    }

    #[test]
    fn a_node_is_marked_once() {
        let node = Node::born(Key { hash: 1, word: 1 }, ptr::null_mut());
        assert!(node.mark() && !node.mark());
        // Relaxed: one thread.
        let next = node.next.load(Ordering::Relaxed);
        assert!(is_marked(next) && unmarked(next).is_null());
    }
}
