//! A SLUB-like allocator: typed caches, size classes, blocks of free objects per CPU, and a lock-free supply of pages.
//!
//! | for | there is |
//! | --- | --- |
//! | objects of one type | [`Cache`], which hands out [`SlabBox`]es |
//! | memory by layout | [`alloc`], [`free`], [`free_bulk`] |
//! | memory of one's own making | [`PageSource`] |
//! | objects that stay constructed, or of one type for their readers | [`StableCache`] |
//! | nodes, and CPUs that come and go | [`Cache::alloc_for_node`], [`NodePolicy`], [`cpu_down`], [`Machine`] |
//! | memory back to the system | [`Cache::shrink`], [`shrink_all`], [`reap`], [`reaper`] |
//! | what there is | [`Cache::stats`], [`slabinfo()`] |
//!
//! Allocation and free take a few nanoseconds on the CPU's own block of pointers. Objects may be freed from any thread, and outlive
//! their cache's handle.
//!
//! ```
//! use quietus_slab::Cache;
//! let cache: Cache<[u64; 8]> = Cache::new("points");
//! let a = cache.alloc([7; 8]);
//! assert_eq!(a[3], 7);
//! drop(a);
//! assert_eq!(cache.stats().live, 0);
//! ```
//!
//! Unsafe code is what an allocator is made of; each module says why it may.

// The modules in path order, inside out; each uses only those above it (but `slab`, `node`, `debug` and `orphan` know
// `cache`'s core by name, `rseq` where `percpu` puts things, and `fork` all that a fork has to stop):
//
// `os`, `cpu` (the machine) → `fork`, `lock` (inside its gate), `stats` → `source` ([`PageSource`]) → `page` (blocks: pages of pointers) →
// `machine`, `rseq`, `percpu` (a word per CPU) → `slab`, `known`, `segment` (bitmaps; address → slab) → `list`, `node` (barn, partial slabs),
// `debug` (checks), `alien` → `hook`, `orphan` → `order`, `process`, `work` (long locks, threads) → `cache` (slow paths), `place`, `life`,
// `merge`, `flush`, `chain`, `hotplug`, `reap` → `report`, `slabinfo` → `large` → `front` (fast paths) → `run`, `bulk` → `size_class`, `kmalloc`,
// `slab_box`, `typed`, `construct` (the doors), `end`, `array`, `sheaf`.
mod os;
mod cpu;
mod fork;
mod lock;
mod stats;
mod source;
mod account;
mod page;
mod machine;
#[cfg_attr(
    not(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu", not(quietus_portable))),
    path = "rseq_absent.rs"
)]
mod rseq;
mod percpu;
mod slab;
mod known;
mod segment;
mod list;
mod node;
mod debug;
mod alien;
mod hook;
mod orphan;
mod order;
mod process;
mod work;
mod cache;
mod place;
mod life;
mod merge;
mod flush;
mod chain;
mod hotplug;
mod reap;
mod report;
mod slabinfo;
mod large;
mod front;
mod run;
mod bulk;
mod size_class;
mod kmalloc;
mod slab_box;
mod typed;
mod construct;
mod end;
mod array;
mod sheaf;

pub use account::Account;
pub use array::PrefillError;
pub use bulk::free_bulk;
pub use cache::POISON;
pub use construct::{Stable, StableBuilder, StableCache};
pub use cpu::{Topology, topology};
pub use debug::{
    Corruption, DebugFlags, EnvError, Fault, Owner, POISON_END, POISON_FREE, POISON_INUSE, RED_ACTIVE, RED_INACTIVE,
    Side, environment, on_corruption,
};
pub use end::{ChainError, DestroyError, Unchainable};
pub use flush::shrink_all;
pub use hook::{Call, Grace};
pub use hotplug::{cpu_down, cpu_up};
pub use kmalloc::{alloc, alloc_bulk, free, set_poison, shrink, usable_size};
pub use machine::Machine;
pub use page::{PageStats, page_stats};
pub use percpu::rseq_report;
pub use place::NodePolicy;
pub use reap::{Reaped, reap, reaper};
pub use report::all_stats;
pub use segment::SLAB_BYTES;
pub use sheaf::Sheaf;
pub use slab_box::SlabBox;
pub use slabinfo::{Row, SlabInfo, slabinfo};
#[cfg(all(target_os = "linux", not(quietus_portable)))]
pub use source::MmapSource;
pub use source::{FailingSource, HeapSource, PageSource};
pub use stats::{CacheStats, NodeStats};
pub use typed::{BuildError, Cache, CacheBuilder};
pub use work::{WorkStats, work_stats, workers};

/// Memory could not be had: the page source failed, or the layout cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllocError;

impl std::fmt::Display for AllocError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("out of memory, or a layout that cannot be served")
    }
}

impl std::error::Error for AllocError {}

/// The parts that `quietus-kvfree` builds on: blocks, per-CPU words, recycling. Not covered by semver.
#[doc(hidden)]
pub mod raw {
    pub use crate::bulk::recycle;
    pub use crate::cpu::{current as current_cpu, pretend};
    pub use crate::hook::{Hook, hook};
    pub use crate::hotplug::fail_at;
    pub use crate::kmalloc::slab;
    pub use crate::lock::{Held, Lock, held, once};
    pub use crate::os::{Range, prefetch};
    pub use crate::page::{
        BLOCK_BYTES, Block, BlockNo, SLOTS, Stack, WEIGHT_UNIT, grow, page, page_stats, put_page, set_page_limit,
        try_page,
    };
    pub use crate::percpu::{Site, Stopped, Word, all_sites, pack, regions, sites, stop, unpack};
    pub use crate::reap::{follow, reaper_sleeps};
    pub use crate::report::cores_in_use;
    pub use crate::segment::{GRANULE, SEGMENT, place};
    pub use crate::slab::{LARGE_LANE, Slab, drop_value};
    pub use crate::work::{refuse_workers, settle};
}
