//! Objects freed by a signal handler that interrupted the allocator: kept until a slow path comes by that may lock.
//!
//! Handed to by [`cache`](crate::cache)'s slow paths, which also hand the objects on, as flushes do. Pair N of the stack.

use crate::page::{self, Stack};
use crate::segment::slab_of;

/// Blocks of one object each.
static ORPHANS: Stack = Stack::new();

/// Keeps a free object for later. Lock-free. (Without a page left, it is lost.)
#[cold]
pub(crate) fn leave(p: *mut u8) {
    let Some(b) = page::page() else { return };
    b.block().reset(1);
    // SAFETY: a fresh block is ours.
    unsafe { b.block().push(p) };
    ORPHANS.push(b);
}

/// Frees what handlers have left behind.
pub(crate) fn adopt() {
    if ORPHANS.is_empty() {
        return;
    }
    let mut chain = ORPHANS.take_all();
    while chain.is_some() {
        let b = chain;
        chain = b.block().next();
        // SAFETY: blocks taken off the stack are ours.
        if let Some(p) = unsafe { b.block().pop() } {
            // SAFETY: it was freed, and belongs to a cache whose slab it keeps.
            if let Some(core) = unsafe { slab_of(p) }.cache() {
                // SAFETY: as above.
                unsafe { core.free_direct(&[p]) };
            }
        }
        page::put_page(b);
    }
}
