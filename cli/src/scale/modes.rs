//! The ways of retiring: for each, how an object is made, how it is handed to the domain, and who counts what came back.
//!
//! `run` does the same with all of them. What a mode counts is no statistic of the domain's: a destructor, or the allocator.

use std::alloc::{Layout, handle_alloc_error};
use std::mem::{MaybeUninit, offset_of};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use quietus::kvfree::{Callback, RcuHead};
use quietus::slab::{self, Cache, SlabBox};
use quietus::{Domain, rcu_head};

use crate::args::ModeName;

/// A way of retiring.
pub(super) trait Mode: Sync {
    /// What is retired.
    type Object;

    /// A fresh object; `turn` goes up by one from object to object of a thread.
    fn allocate(&self, turn: u64) -> Self::Object;

    /// Hands it over.
    fn retire(&self, domain: &Domain, object: Self::Object);

    /// How many of the objects retired have not been freed, after a barrier, by an account that is not the domain's.
    fn left(&self, retired: u64) -> u64;
}

/// What is to be done with a mode, whichever it is.
pub(super) trait Visitor {
    /// What comes of it.
    type Output;

    /// Does it.
    fn visit<M: Mode>(self, mode: &M) -> Self::Output;
}

/// Calls the visitor with this mode, for objects of this size. The error says which sizes the mode has.
pub(super) fn with<V: Visitor>(mode: ModeName, size: Option<usize>, visitor: V) -> Result<V::Output, String> {
    // A word is the count's address or the turn, two are the head of those that have one, the others are room.
    macro_rules! sized {
        ($mode:ident of $object:ident, $($size:literal: $words:literal),*) => {
            match size {
                $(Some($size) => {
                    const { assert!(size_of::<$object<$words>>() == $size) };
                    Ok(visitor.visit(&$mode::<$words>::new()))
                })*
                other => {
                    let sizes = [$($size),*].map(|size: usize| size.to_string()).join(", ");
                    Err(format!("--size '{}' is not for {}; allowed: {sizes}", other.unwrap_or(0), mode.name()))
                }
            }
        };
        ($mode:ident of Headed) => {
            sized!($mode of Headed, 32: 1, 64: 5, 128: 13, 256: 29, 512: 61, 1024: 125, 2048: 253, 4096: 509)
        };
        ($mode:ident of $object:ident) => {
            sized!($mode of $object, 16: 1, 32: 3, 64: 7, 128: 15, 256: 31, 512: 63, 1024: 127, 2048: 255, 4096: 511)
        };
    }
    match mode {
        ModeName::Cache => sized!(InCache of Plain),
        ModeName::Kvfree => Ok(visitor.visit(&BySize::new(size))),
        ModeName::Box => sized!(Boxed of Counted),
        ModeName::Linked => sized!(Linked of Headed),
        ModeName::Call => sized!(Called of Headed),
    }
}

/// An object without a destructor. One word is written, as little as anybody would.
struct Plain<const WORDS: usize> {
    _turn: u64,
    _room: [MaybeUninit<u64>; WORDS],
}

/// An object that counts its own end.
struct Counted<const WORDS: usize> {
    ends: &'static AtomicU64,
    _room: [MaybeUninit<u64>; WORDS],
}

impl<const WORDS: usize> Drop for Counted<WORDS> {
    fn drop(&mut self) {
        // Relaxed: a count; the barrier orders it before it is read.
        self.ends.fetch_add(1, Ordering::Relaxed);
    }
}

/// The same with a head to be queued by.
struct Headed<const WORDS: usize> {
    ends: &'static AtomicU64,
    head: RcuHead,
    _room: [MaybeUninit<u64>; WORDS],
}

rcu_head!([const WORDS: usize] Headed<WORDS>, head);

impl<const WORDS: usize> Drop for Headed<WORDS> {
    fn drop(&mut self) {
        // Relaxed: as above.
        self.ends.fetch_add(1, Ordering::Relaxed);
    }
}

impl<const WORDS: usize> Headed<WORDS> {
    /// What frees one that was queued by its head.
    const END: &'static Callback = &Callback::new(Self::end, size_of::<Self>());

    fn new(ends: &'static AtomicU64) -> Self {
        Headed { ends, head: RcuHead::new(), _room: [MaybeUninit::uninit(); WORDS] }
    }

    unsafe fn end(head: NonNull<RcuHead>) {
        // SAFETY: the head of an object of this type that `Called::retire` has given up, once.
        drop(unsafe { SlabBox::from_raw(head.byte_sub(offset_of!(Self, head)).cast::<Self>()) });
    }
}

/// A count for one run. Never freed: what is deferred may outlive anything.
fn ends() -> &'static AtomicU64 {
    Box::leak(Box::default())
}

impl<const WORDS: usize> Counted<WORDS> {
    fn new(ends: &'static AtomicU64) -> Self {
        Counted { ends, _room: [MaybeUninit::uninit(); WORDS] }
    }
}

/// How many of these have not come to their end.
fn without_end(retired: u64, ends: &AtomicU64) -> u64 {
    // Relaxed: `barrier` has ordered the destructors before this.
    retired.abs_diff(ends.load(Ordering::Relaxed))
}

/// `cache`: [`Domain::retire_in`].
struct InCache<const WORDS: usize>(Cache<Plain<WORDS>>);

impl<const WORDS: usize> InCache<WORDS> {
    fn new() -> Self {
        InCache(Cache::new("scale"))
    }
}

impl<const WORDS: usize> Mode for InCache<WORDS> {
    type Object = NonNull<Plain<WORDS>>;

    #[inline]
    fn allocate(&self, turn: u64) -> Self::Object {
        SlabBox::into_raw(self.0.alloc(Plain { _turn: turn, _room: [MaybeUninit::uninit(); WORDS] }))
    }

    #[inline]
    fn retire(&self, domain: &Domain, object: Self::Object) {
        // SAFETY: 1. From `allocate`, never published, retired once. It borrows nothing. 2. That is this cache.
        unsafe { domain.retire_in(&self.0, object) };
    }

    fn left(&self, _: u64) -> u64 {
        self.0.stats().live
    }
}

/// `kvfree`: [`Domain::kvfree_rcu`] of memory of a size class.
struct BySize {
    size: Option<usize>,
    /// Objects of the size classes that lived before.
    before: u64,
}

impl BySize {
    fn new(size: Option<usize>) -> Self {
        BySize { size, before: living() }
    }
}

/// Objects of all size classes that are in use, or retired and not freed.
fn living() -> u64 {
    slab::all_stats().iter().filter(|cache| cache.name.starts_with("kmalloc-")).map(|cache| cache.live).sum()
}

impl Mode for BySize {
    type Object = NonNull<u8>;

    #[inline]
    fn allocate(&self, turn: u64) -> NonNull<u8> {
        // 83 has no factor in common with 128, so every multiple of 16 up to 2048 has its turn, large and small mixed.
        let size = self.size.unwrap_or(16 * (1 + turn as usize * 83 % 128));
        let layout = Layout::from_size_align(size, 8).expect("a few KiB");
        let memory = slab::alloc(layout).unwrap_or_else(|_| handle_alloc_error(layout));
        // SAFETY: fresh memory of 16 bytes or more, aligned to 8.
        unsafe { memory.cast::<u64>().write(turn) };
        memory
    }

    #[inline]
    fn retire(&self, domain: &Domain, object: NonNull<u8>) {
        // SAFETY: 1. From `allocate`, never published, retired once.
        unsafe { domain.kvfree_rcu(object.as_ptr()) };
    }

    fn left(&self, _: u64) -> u64 {
        living().saturating_sub(self.before)
    }
}

/// `box`: [`Domain::retire_box`].
struct Boxed<const WORDS: usize>(&'static AtomicU64);

impl<const WORDS: usize> Boxed<WORDS> {
    fn new() -> Self {
        Boxed(ends())
    }
}

impl<const WORDS: usize> Mode for Boxed<WORDS> {
    type Object = Box<Counted<WORDS>>;

    #[inline]
    fn allocate(&self, _: u64) -> Self::Object {
        Box::new(Counted::new(self.0))
    }

    #[inline]
    fn retire(&self, domain: &Domain, object: Self::Object) {
        // SAFETY: 1. From `into_raw`, never published, retired once; what it borrows is static.
        unsafe { domain.retire_box(NonNull::new_unchecked(Box::into_raw(object))) };
    }

    fn left(&self, retired: u64) -> u64 {
        without_end(retired, self.0)
    }
}

/// `linked`: [`Domain::retire_linked`].
struct Linked<const WORDS: usize> {
    cache: Cache<Headed<WORDS>>,
    ends: &'static AtomicU64,
}

impl<const WORDS: usize> Linked<WORDS> {
    fn new() -> Self {
        Linked { cache: Cache::new("scale"), ends: ends() }
    }
}

impl<const WORDS: usize> Mode for Linked<WORDS> {
    type Object = NonNull<Headed<WORDS>>;

    #[inline]
    fn allocate(&self, _: u64) -> Self::Object {
        SlabBox::into_raw(self.cache.alloc(Headed::new(self.ends)))
    }

    #[inline]
    fn retire(&self, domain: &Domain, object: Self::Object) {
        // SAFETY: 1. From `allocate`, never published, retired once. 2. What it borrows is static.
        unsafe { domain.retire_linked(object) };
    }

    fn left(&self, retired: u64) -> u64 {
        without_end(retired, self.ends).max(self.cache.stats().live)
    }
}

/// `call`: [`Domain::call_head`], every object a callback of its own.
struct Called<const WORDS: usize> {
    cache: Cache<Headed<WORDS>>,
    ends: &'static AtomicU64,
}

impl<const WORDS: usize> Called<WORDS> {
    fn new() -> Self {
        Called { cache: Cache::new("scale"), ends: ends() }
    }
}

impl<const WORDS: usize> Mode for Called<WORDS> {
    type Object = NonNull<Headed<WORDS>>;

    #[inline]
    fn allocate(&self, _: u64) -> Self::Object {
        SlabBox::into_raw(self.cache.alloc(Headed::new(self.ends)))
    }

    #[inline]
    fn retire(&self, domain: &Domain, object: Self::Object) {
        // SAFETY: inside the object.
        let head = unsafe { object.byte_add(offset_of!(Headed<WORDS>, head)).cast() };
        // SAFETY: 1. From `allocate`, never published, queued once; what it borrows is static.
        unsafe { domain.call_head(head, Headed::<WORDS>::END) };
    }

    fn left(&self, retired: u64) -> u64 {
        without_end(retired, self.ends).max(self.cache.stats().live)
    }
}
