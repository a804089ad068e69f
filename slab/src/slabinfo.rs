//! [`slabinfo`]: the caches as the kernel shows them in `/proc/slabinfo`.
//!
//! Called by users; reads [`report`](crate::report).

use crate::cache::Core;
use crate::life::alive;
use crate::segment::SLAB_BYTES;
use crate::stats::{CacheStats, NodeStats};
use crate::{os, work};
use std::fmt;

/// A picture of all caches, in the format of `/proc/slabinfo`, version 2.1: whoever reads that reads this.
///
/// | column | here |
/// | --- | --- |
/// | `active_objs` | objects handed out (the kernel counts those in CPUs' blocks, too) |
/// | `num_objs` | objects that the slabs hold |
/// | `objsize`, `objperslab`, `pagesperslab` | as there; pages of 4 KiB |
/// | `limit`, `batchcount` | objects in a block |
/// | `sharedfactor` | full blocks that a barn holds at most |
/// | `active_slabs`, `num_slabs` | slabs that are not free, and all |
/// | `sharedavail` | free objects in barns |
///
/// Blanks in names are shown as `_`. Merged caches are named in a comment behind the one that they share; chained caches are not
/// shown.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SlabInfo {
    /// The caches, in the order in which they were made.
    pub caches: Vec<Row>,
}

/// What [`SlabInfo`] has of one cache.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Row {
    /// Sizes and events.
    pub stats: CacheStats,
    /// The same node by node.
    pub nodes: Vec<NodeStats>,
    /// Full blocks that a barn holds at most.
    pub barn_most: u32,
}

/// All caches as they are now, size classes among them; chained ones are hidden. Locks each node in turn; what the CPUs hold is a racy
/// look.
pub fn slabinfo() -> SlabInfo {
    work::run_pending();
    let mut caches = Vec::new();
    for core in alive().into_iter().filter(|core| core.hold()) {
        if core.parent().is_none() {
            caches.push(row(core));
        }
        core.drop_lives(1);
    }
    SlabInfo { caches }
}

fn row(core: &'static Core) -> Row {
    Row { stats: core.stats(), nodes: core.node_stats(), barn_most: core.barn_most() }
}

impl Row {
    /// Objects that a slab holds (`objperslab`).
    pub fn objects_per_slab(&self) -> u32 {
        SLAB_BYTES as u32 / self.stats.object_bytes.max(1)
    }
    /// Pages of 4 KiB in a slab (`pagesperslab`).
    pub fn pages_per_slab(&self) -> u32 {
        (SLAB_BYTES / os::PAGE) as u32
    }
    /// Slabs that are not free (`active_slabs`).
    pub fn active_slabs(&self) -> u32 {
        let empty = self.nodes.iter().map(|node| node.empty_slabs).sum();
        self.stats.slabs.saturating_sub(empty)
    }
}

/// A name without blanks.
struct Name(&'static str);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.replace(|c: char| c.is_whitespace() || c.is_control(), "_");
        f.pad(if name.is_empty() { "_" } else { &name })
    }
}

impl fmt::Display for SlabInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("slabinfo - version: 2.1\n")?;
        f.write_str("# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab>")?;
        f.write_str(" : tunables <limit> <batchcount> <sharedfactor>")?;
        f.write_str(" : slabdata <active_slabs> <num_slabs> <sharedavail>\n")?;
        self.caches.iter().try_for_each(|row| row.fmt(f))
    }
}

impl fmt::Display for Row {
    /// One line, and one more for its aliases.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.stats;
        write!(f, "{:<17} {:6} {:6} {:6} ", Name(s.name), s.live, s.objects, s.object_bytes)?;
        write!(f, "{:4} {:4}", self.objects_per_slab(), self.pages_per_slab())?;
        write!(f, " : tunables {:4} {:4} {:4}", s.block_capacity, s.block_capacity, self.barn_most)?;
        writeln!(f, " : slabdata {:6} {:6} {:6}", self.active_slabs(), s.slabs, s.in_barns)?;
        if !s.aliases.is_empty() {
            write!(f, "# {} is also", Name(s.name))?;
            s.aliases.iter().try_for_each(|alias| write!(f, " {}", Name(alias)))?;
            writeln!(f)?;
        }
        Ok(())
    }
}
