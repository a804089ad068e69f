//! Memory alone: ours, mimalloc, the system's `malloc`, and with `--cfg quietus_peers` jemalloc (which takes a minute or more to build) and snmalloc
//! (which needs cmake and a C++ compiler).

use super::Node;
use mimalloc::MiMalloc;
use quietus::slab::{self, Cache, SlabBox};
use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::{NonNull, null_mut};

/// Who gives and takes nodes.
pub(crate) trait Nodes: Sync {
    /// As reports show it.
    const NAME: &'static str;
    fn new() -> Self;
    /// Allocates a node and writes it.
    fn get(&self, value: Node) -> NonNull<Node>;
    /// Frees a node.
    ///
    /// # Safety
    /// 1. It came from `get` of the same contender, and nobody uses it any more.
    unsafe fn put(&self, node: NonNull<Node>);
}

/// Who gives and takes memory of any size.
pub(crate) trait Raw {
    /// As reports show it.
    const NAME: &'static str;
    /// Memory, or null.
    fn get(layout: Layout) -> *mut u8;
    /// Frees memory.
    ///
    /// # Safety
    /// 1. It came from `get` with this layout, and nobody uses it any more.
    unsafe fn put(memory: *mut u8, layout: Layout);
}

/// A typed cache.
pub(crate) struct Typed(pub(crate) Cache<Node>);

impl Nodes for Typed {
    const NAME: &'static str = "quietus Cache<T>";
    fn new() -> Self {
        Typed(Cache::new("bench nodes"))
    }
    #[inline(always)]
    fn get(&self, value: Node) -> NonNull<Node> {
        SlabBox::into_raw(self.0.alloc(value))
    }
    #[inline(always)]
    unsafe fn put(&self, node: NonNull<Node>) {
        // SAFETY: by (1).
        drop(unsafe { SlabBox::from_raw(node) });
    }
}

/// Size classes.
pub(crate) struct Classes;

impl Nodes for Classes {
    const NAME: &'static str = "quietus SlabBox::new";
    fn new() -> Self {
        Classes
    }
    #[inline(always)]
    fn get(&self, value: Node) -> NonNull<Node> {
        SlabBox::into_raw(SlabBox::new(value))
    }
    #[inline(always)]
    unsafe fn put(&self, node: NonNull<Node>) {
        // SAFETY: by (1).
        drop(unsafe { SlabBox::from_raw(node) });
    }
}

impl Raw for Classes {
    const NAME: &'static str = "quietus alloc/free";
    #[inline(always)]
    fn get(layout: Layout) -> *mut u8 {
        slab::alloc(layout).map_or(null_mut(), NonNull::as_ptr)
    }
    #[inline(always)]
    unsafe fn put(memory: *mut u8, _layout: Layout) {
        if let Some(memory) = NonNull::new(memory) {
            // SAFETY: by (1).
            unsafe { slab::free(memory) };
        }
    }
}

macro_rules! global_alloc {
    ($($who:ident: $allocator:expr => $name:literal),*) => { $(
        pub(crate) struct $who;

        impl Nodes for $who {
            const NAME: &'static str = $name;
            fn new() -> Self {
                $who
            }
            #[inline(always)]
            fn get(&self, value: Node) -> NonNull<Node> {
                let node = NonNull::new(<Self as Raw>::get(Layout::new::<Node>())).expect("memory").cast::<Node>();
                // SAFETY: fresh memory of a node's layout.
                unsafe { node.write(value) };
                node
            }
            #[inline(always)]
            unsafe fn put(&self, node: NonNull<Node>) {
                // SAFETY: by (1).
                unsafe { <Self as Raw>::put(node.as_ptr().cast(), Layout::new::<Node>()) }
            }
        }

        impl Raw for $who {
            const NAME: &'static str = $name;
            #[inline(always)]
            fn get(layout: Layout) -> *mut u8 {
                // SAFETY: benchmarks ask for no empty layouts.
                unsafe { $allocator.alloc(layout) }
            }
            #[inline(always)]
            unsafe fn put(memory: *mut u8, layout: Layout) {
                // SAFETY: by (1).
                unsafe { $allocator.dealloc(memory, layout) }
            }
        }
    )* };
}

global_alloc! {
    Mimalloc: MiMalloc => "mimalloc",
    Malloc: System => "system malloc"
}
#[cfg(quietus_peers)]
global_alloc! {
    Jemalloc: tikv_jemallocator::Jemalloc => "jemalloc",
    Snmalloc: snmalloc_rs::SnMalloc => "snmalloc"
}

/// `n` nodes allocated and freed one after another.
#[inline(never)]
pub(crate) fn pairs<A: Nodes>(allocator: &A, n: u64) -> std::time::Duration {
    let start = std::time::Instant::now();
    for i in 0..n {
        let node = std::hint::black_box(allocator.get([i; 8]));
        // SAFETY: (1) from above.
        unsafe { allocator.put(node) };
    }
    start.elapsed()
}
