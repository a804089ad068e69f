//! What caches have to say about themselves.
//!
//! Handed to by [`typed`](crate::typed) and users; reads [`cache`](crate::cache) and [`node`](crate::node).

use crate::cache::Core;
use crate::life::alive;
use crate::percpu::{self, unpack};
use crate::segment::SLAB_BYTES;
use crate::stats::CacheStats;
use crate::work;

impl Core {
    /// Counts and sizes now. Takes each node's lock in turn; what the CPUs hold is a racy look.
    pub(crate) fn stats(&self) -> CacheStats {
        let word = self.word();
        let (mut in_cpus, mut slabs, mut free, mut barn_blocks, mut in_barns) = (0, 0, 0, 0, 0);
        for site in percpu::all_sites() {
            let (main, spare) = unpack(word.load(site));
            in_cpus += u64::from(main.block().len() + spare.block().len());
        }
        for node in &self.nodes {
            let (s, f, b, o) = node.counts();
            (slabs, free, barn_blocks, in_barns) = (slabs + s, free + f, barn_blocks + b, in_barns + o);
        }
        let per_slab = SLAB_BYTES as u32 / self.stride();
        let objects = u64::from(slabs) * u64::from(per_slab);
        CacheStats {
            name: self.name(),
            object_bytes: self.stride(),
            block_capacity: self.block_capacity(),
            slabs,
            objects,
            live: objects.saturating_sub(free + in_cpus + in_barns),
            in_cpu_blocks: in_cpus,
            barn_blocks,
            in_barns,
            free_in_slabs: free,
            ..self.counters.read()
        }
    }
}

/// Statistics of every cache alive, size classes among them. Chained caches are not shown: what is left of them is their parent's, or
/// will be with the next free.
pub fn all_stats() -> Vec<CacheStats> {
    work::run_pending();
    let mut all = Vec::new();
    for core in alive().into_iter().filter(|core| core.hold()) {
        if core.parent().is_none() {
            all.push(core.stats());
        }
        core.drop_lives(1);
    }
    all
}

/// Caches that are not over: chained ones, and those without a handle, too. For tests.
pub fn cores_in_use() -> usize {
    alive().len()
}
