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
            /// Free objects in slabs.
            pub free_in_slabs: u64,
            $($(#[$doc])* pub $name: u64,)*
        }
    };
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
    /// Blocks put into a barn.
    barn_put,
    /// Blocks filled from slabs.
    refill,
    /// Blocks emptied into slabs.
    flush,
    /// CPUs whose blocks were taken back by a flush: those that held something.
    cpu_flush,
    /// Frees that found their cache chained, and moved a slab to this one.
    cpu_chained_free,
    /// Slabs taken from the page source's pool.
    slabs_taken,
    /// Slabs given back to it.
    slabs_given,
    /// Objects refused because they were free already (double frees).
    refused,
}
