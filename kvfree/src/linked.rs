//! Lists of objects queued by their [`RcuHead`]: `call_rcu`, and the last resort of memory that no bit can stand for.
//!
//! Handed to by [`resort`](crate::resort) and [`kvfree`](crate::kvfree); hands to [`sweep`](crate::sweep). One list for each CPU, so
//! that callers rarely meet; which one does not matter, since all are taken together.
//!
//! # Ordering
//! Pair **U**: a push is a Release exchange of the list's head, taking a list an Acquire one; the cookie comes after all have been
//! taken. Lists are only taken whole, so there is no pop to be fooled by a head that comes back.

use crate::head::{Callback, RcuHead};
use crate::sync::{
    AtomicPtr,
    Ordering::{Acquire, Relaxed, Release},
};
use quietus_slab::raw;
use std::ptr::{NonNull, null_mut};

#[derive(Default)]
#[repr(align(64))]
struct List(AtomicPtr<RcuHead>);

pub(crate) struct Linked(Box<[List]>);

/// A list that was taken.
pub(crate) struct Chain(*mut RcuHead);

// SAFETY: the objects on it are owned by it, and may end on any thread (contracts of the doors).
unsafe impl Send for Chain {}

impl Linked {
    pub(crate) fn new() -> Self {
        Linked((0..quietus_slab::topology().possible.max(1)).map(|_| List::default()).collect())
    }

    /// Queues an object. Lock-free.
    ///
    /// # Safety
    /// 1. The head is this caller's to queue, and lives until its callback has been called.
    pub(crate) unsafe fn push(&self, head: NonNull<RcuHead>, callback: &'static Callback) {
        let list = &self.0[raw::current_cpu() as usize % self.0.len()].0;
        // SAFETY: by (1).
        let h = unsafe { head.as_ref() };
        // Relaxed: ours until the exchange publishes it (U).
        h.callback.store(std::ptr::from_ref(callback).cast_mut(), Relaxed);
        // Relaxed: confirmed by the exchange.
        let mut first = list.load(Relaxed);
        loop {
            // Relaxed: as above.
            h.next.store(first, Relaxed);
            // Release: the object and its head (U).
            match list.compare_exchange_weak(first, head.as_ptr(), Release, Relaxed) {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
    }

    /// Is anything queued?
    pub(crate) fn any(&self) -> bool {
        // Acquire: pairs with a push (U).
        self.0.iter().any(|list| !list.0.load(Acquire).is_null())
    }

    /// Takes every list. The cookie comes after.
    pub(crate) fn take(&self) -> Chain {
        let mut all = Chain(null_mut());
        for list in &self.0 {
            // Acquire: the objects and their heads (U).
            let mut at = list.0.swap(null_mut(), Acquire);
            // The youngest is first; onto the chain one by one, so that the oldest is.
            // SAFETY: queued heads live until their callback, and the list is ours now.
            while let Some(head) = unsafe { at.as_ref() } {
                // Relaxed: ours (U).
                let next = head.next.load(Relaxed);
                head.next.store(all.0, Relaxed);
                all.0 = at;
                at = next;
            }
        }
        all
    }
}

impl Chain {
    pub(crate) const EMPTY: Chain = Chain(null_mut());

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_null()
    }

    /// Takes the first object off: its head, and what to do with it.
    pub(crate) fn pop(&mut self) -> Option<(NonNull<RcuHead>, &'static Callback)> {
        let head = NonNull::new(self.0)?;
        // SAFETY: heads of a chain live until their callback; callbacks are `'static`.
        unsafe {
            // Relaxed: ours (U).
            self.0 = head.as_ref().next.load(Relaxed);
            Some((head, &*head.as_ref().callback.load(Relaxed)))
        }
    }
}

/// A head for a function and its pointer, allocated because the object has none.
#[repr(C)]
pub(crate) struct Link {
    head: RcuHead,
    pointer: *mut u8,
    function: unsafe fn(*mut u8),
    bytes: usize,
}

/// What a `Link` is queued with: it knows itself how many bytes its object has.
static LINK: Callback = Callback::new(run_link, 0);

/// Bytes of a queued object.
///
/// # Safety
/// 1. `head` is queued with `callback`, and the caller's.
pub(crate) unsafe fn bytes(head: NonNull<RcuHead>, callback: &'static Callback) -> usize {
    if std::ptr::eq(callback, &LINK) {
        // SAFETY: by (1) it is the head of a Link, which it begins.
        unsafe { head.cast::<Link>().as_ref().bytes }
    } else {
        callback.bytes
    }
}

impl Link {
    /// A head that will call `function(pointer)`. `None`: the global allocator has no memory.
    pub(crate) fn allocate(
        pointer: *mut u8,
        function: unsafe fn(*mut u8),
        bytes: usize,
    ) -> Option<(NonNull<RcuHead>, &'static Callback)> {
        // SAFETY: a Link is not zero-sized.
        let link = NonNull::new(unsafe { std::alloc::alloc(std::alloc::Layout::new::<Link>()) }.cast::<Link>())?;
        // SAFETY: fresh memory of its layout.
        unsafe { link.write(Link { head: RcuHead::new(), pointer, function, bytes }) };
        Some((link.cast(), &LINK))
    }
}

unsafe fn run_link(head: NonNull<RcuHead>) {
    // SAFETY: a Link from `allocate`, allocated with a Box's layout by a Box's allocator; its head comes first.
    let link = unsafe { Box::from_raw(head.cast::<Link>().as_ptr()) };
    let (pointer, function) = (link.pointer, link.function);
    drop(link);
    // SAFETY: the contract of `Kvfree::call`, passed on by whoever allocated the link.
    unsafe { function(pointer) }
}
