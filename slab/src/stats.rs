//! Statistics of a cache, as plain structs. Counters are kept on slow paths only: a fast path counts nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A statistic: no ordering, no meaning beyond its value.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) const fn new() -> Self {
        Count(AtomicU64::new(0))
    }
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A set of statistics of the whole process, and the plain struct that shows it.
macro_rules! counts {
    ($(#[$doc:meta])* pub struct $stats:ident, static $all:ident: $counts:ident { $($(#[$of:meta])* $name:ident,)* }) => {
        struct $counts {
            $($name: $crate::stats::Count,)*
        }
        static $all: $counts = $counts { $($name: $crate::stats::Count::new(),)* };
        impl $counts {
            fn read(&self) -> $stats {
                $stats { $($name: self.$name.get(),)* }
            }
        }
        $(#[$doc])*
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $stats {
            $($(#[$of])* pub $name: u64,)*
        }
    };
}
pub(crate) use counts;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: Count,)* }
        impl Counters {
            pub(crate) fn reset(&self) {
                $(self.$name.0.store(0, Relaxed);)*
            }
            pub(crate) fn read(&self) -> CacheStats {
                CacheStats { $($name: self.$name.get(),)* ..CacheStats::default() }
            }
        }
        /// A cache's sizes now, and its events since it was made.
        #[derive(Debug, Default, Clone)]
        #[non_exhaustive]
        pub struct CacheStats {
            /// Name given at creation.
            pub name: &'static str,
            /// Names of other caches that share it: see [`merge`](crate::CacheBuilder::merge).
            pub aliases: Vec<&'static str>,
            /// Bytes from one object to the next.
            pub object_bytes: u32,
            /// Objects in a block.
            pub block_capacity: u32,
            /// Slabs held.
            pub slabs: u32,
            /// Objects these slabs hold, free or not.
            pub objects: u64,
            /// Objects handed out: in use, or retired and waiting for their grace period.
            pub live: u64,
            /// Free objects in blocks of CPUs.
            pub in_cpu_blocks: u64,
            /// Blocks in barns.
            pub barn_blocks: u32,
            /// Free objects in barns.
            pub in_barns: u64,
            /// Free objects that wait, on nodes other than their own, to be sent home.
            pub in_alien_blocks: u64,
            /// Free objects in slabs.
            pub free_in_slabs: u64,
            $($(#[$doc])* pub $name: u64,)*
        }
    };
}

impl CacheStats {
    /// The events by the names that SLUB has for them (`/sys/kernel/slab/*/`, `CONFIG_SLUB_STATS`). What happens on a fast path is not counted
    /// here.
    pub fn events(&self) -> [(&'static str, u64); 14] {
        [
            ("alloc_slowpath", self.alloc_slow),
            ("free_slowpath", self.free_slow),
            ("alloc_slab", self.slabs_taken),
            ("free_slab", self.slabs_given),
            ("alloc_node_mismatch", self.node_mismatch),
            ("free_add_partial", self.free_add_partial),
            ("free_remove_partial", self.free_remove_partial),
            ("cpuslab_flush", self.cpu_flush),
            ("sheaf_refill", self.refill),
            ("sheaf_flush", self.flush),
            ("barn_get", self.barn_get),
            ("barn_get_fail", self.barn_get_fail),
            ("barn_put", self.barn_put),
            ("barn_put_fail", self.barn_put_fail),
        ]
    }
}

counters! {
    /// Allocations that found the CPU's block empty.
    alloc_slow,
    /// Allocations served object by object from the slabs.
    alloc_direct,
    /// Frees that found the CPU's block full.
    free_slow,
    /// Blocks taken from a barn.
    barn_get,
    /// Times that a barn had none.
    barn_get_fail,
    /// Blocks put into a barn.
    barn_put,
    /// Blocks that a barn had no room for.
    barn_put_fail,
    /// Blocks filled from slabs.
    refill,
    /// Blocks emptied into slabs.
    flush,
    /// Slabs that a free made partial from full.
    free_add_partial,
    /// Slabs that a free made empty.
    free_remove_partial,
    /// Allocations for a node that it could not serve.
    node_mismatch,
    /// CPUs whose blocks were taken back by a flush: those that held something.
    cpu_flush,
    /// Frees that found their cache chained, and moved a slab to this one.
    cpu_chained_free,
    /// Objects freed on another node than their own.
    alien_put,
    /// Blocks of such objects sent home.
    alien_home,
    /// Slabs taken from the page source's pool.
    slabs_taken,
    /// Slabs given back to it.
    slabs_given,
    /// Slabs whose values readers may be looking at, handed over to wait for them.
    slabs_deferred,
    /// Panics of destructors when a slab of constructed objects went.
    panics,
    /// Objects refused because they were free already (double frees), or, by a checked cache, not its own.
    refused,
    /// Reports of a checked cache.
    corruptions,
    /// Corrupt slabs taken out of use, and not counted elsewhere.
    slabs_frozen,
}

/// What a cache has on one node.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeStats {
    /// Number of the node.
    pub node: u16,
    /// Slabs of the node's memory.
    pub slabs: u32,
    /// Of these, with some objects free.
    pub partial_slabs: u32,
    /// Of these, with all objects free.
    pub empty_slabs: u32,
    /// Free objects in these slabs.
    pub free_in_slabs: u64,
    /// Blocks in the barn.
    pub barn_blocks: u32,
    /// Free objects in them.
    pub in_barn: u64,
    /// Is there a table for objects of other nodes?
    pub has_table: bool,
    /// Blocks with objects of other nodes, one for each node at most.
    pub alien_blocks: u32,
    /// Objects in them.
    pub in_alien_blocks: u64,
    /// Is the barn closed, since the last CPU of the node has gone?
    pub shut: bool,
}
