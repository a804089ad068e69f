//! What caches have to say about themselves.
//!
//! Handed to by [`typed`](crate::typed) and users; reads [`cache`](crate::cache) and [`node`](crate::node).

use crate::cache::Core;
use crate::life::alive;
use crate::percpu::unpack;
use crate::segment::SLAB_BYTES;
use crate::stats::{CacheStats, NodeStats};
use crate::work;

impl Core {
    /// Counts and sizes now. Takes each node's lock in turn; what the CPUs hold is a racy look.
    pub(crate) fn stats(&self) -> CacheStats {
        let word = self.word();
        let (mut in_cpus, mut slabs, mut free, mut barn_blocks, mut in_barns, mut in_aliens) = (0, 0, 0, 0, 0, 0);
        for site in self.all_sites() {
            let (main, spare) = unpack(word.load(site));
            in_cpus += u64::from(main.block().len() + spare.block().len());
        }
        for node in self.node_stats() {
            slabs += node.slabs;
            free += node.free_in_slabs;
            barn_blocks += node.barn_blocks;
            in_barns += node.in_barn;
            in_aliens += node.in_alien_blocks;
        }
        let per_slab = SLAB_BYTES as u32 / self.stride();
        let objects = u64::from(slabs) * u64::from(per_slab);
        CacheStats {
            name: self.name(),
            aliases: self.aliases(),
            object_bytes: self.stride(),
            block_capacity: self.block_capacity(),
            slabs,
            objects,
            live: objects.saturating_sub(free + in_cpus + in_barns + in_aliens),
            in_cpu_blocks: in_cpus,
            barn_blocks,
            in_barns,
            in_alien_blocks: in_aliens,
            free_in_slabs: free,
            ..self.counters.read()
        }
    }

    /// Addresses of up to `most` objects that are out, lowest slab first. Exact when what CPUs and barns hold was flushed, and nobody uses the
    /// cache meanwhile.
    pub(crate) fn objects_out(&'static self, most: usize) -> Vec<usize> {
        let mut slabs = Vec::with_capacity(most); // nothing is allocated under the pool's lock
        self.pool().each_slab(|slab| {
            let its = slab.cache().is_some_and(|core| std::ptr::eq(core, self)) && slab.taken().next().is_some();
            if its && slabs.len() < slabs.capacity() {
                slabs.push(slab);
            }
        });
        slabs.iter().flat_map(|slab| slab.taken()).take(most).collect()
    }

    /// What there is on each node, which is locked in turn.
    pub(crate) fn node_stats(&self) -> Vec<NodeStats> {
        (0..).zip(&self.nodes).map(|(node, n)| NodeStats { node, ..n.counts() }).collect()
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
