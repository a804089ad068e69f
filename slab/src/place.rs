//! Where a cache's memory and blocks are: which machine, which regions, which node.
//!
//! Handed to by [`cache`](crate::cache) and everything that looks for a cache's blocks; hands to [`percpu`](crate::percpu) and
//! [`node`](crate::node).
//!
//! # Ordering
//! Relaxed: what is set at creation is read by threads that got the handle or an object, so after it.

use crate::cache::Core;
use crate::cpu;
use crate::machine::Machine;
use crate::node::Node;
use crate::percpu::{self, Site, Stopped};
use std::sync::atomic::Ordering::Relaxed;

/// Which node a cache takes fresh memory from, where there are several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodePolicy {
    /// The node of the CPU that asks. What is freed elsewhere goes home.
    #[default]
    Local,
    /// One node for all, whoever asks and frees; a number above those there are means the last.
    Bound(u16),
    /// The nodes that have memory take turns, block by block; what is freed stays where it is.
    Interleave,
}

const LOCAL: u32 = u32::MAX;
const INTERLEAVE: u32 = u32::MAX - 1;

impl NodePolicy {
    pub(crate) fn number(self) -> u32 {
        match self {
            NodePolicy::Local => LOCAL,
            NodePolicy::Bound(n) => u32::from(n),
            NodePolicy::Interleave => INTERLEAVE,
        }
    }
}

impl Core {
    /// The simulated machine that it is for.
    pub(crate) fn machine(&self) -> Option<&'static Machine> {
        // SAFETY: machines live for ever.
        // Relaxed: set before the handle or the object was handed out.
        unsafe { self.machine.load(Relaxed).as_ref() }
    }
    /// Is it for this machine?
    pub(crate) fn machine_is(&self, machine: Option<&'static Machine>) -> bool {
        // Relaxed: as above.
        std::ptr::eq(self.machine.load(Relaxed), machine.map_or(std::ptr::null(), std::ptr::from_ref))
    }
    /// The cache that its tables come from.
    pub(crate) fn host(&self) -> Option<&'static Core> {
        // SAFETY: cores live for ever.
        // Relaxed: set before the handle or the object was handed out.
        unsafe { self.tables.load(Relaxed).as_ref() }
    }
    /// The regions that this thread may work in now; see [`percpu::sites`].
    pub(crate) fn sites(&self) -> impl Iterator<Item = Site> + use<> {
        percpu::sites_of(self.machine())
    }
    /// Every region that its blocks may be in.
    pub(crate) fn all_sites(&self) -> impl Iterator<Item = Site> + use<> {
        percpu::all_sites_of(self.machine())
    }
    /// Stops regions of its machine; see [`percpu::stop`].
    pub(crate) fn stop(&self, wanted: impl FnMut(Site) -> bool, edit: impl FnMut(&Stopped<'_>)) -> bool {
        percpu::stop_of(self.machine(), wanted, edit)
    }
    /// The node that serves this thread's CPU.
    pub(crate) fn here(&self) -> (&Node, u16) {
        // Relaxed: set before the handle or the object was handed out.
        let n = match self.policy.load(Relaxed) {
            LOCAL | INTERLEAVE => self.machine().map_or_else(cpu::node, |m| m.topology().home_of(m.current())),
            n => n as u16,
        };
        let n = usize::from(n).min(self.nodes.len() - 1);
        (&self.nodes[n], n as u16)
    }

    /// The node that the next memory comes from.
    pub(crate) fn near(&self) -> (&Node, u16) {
        // Relaxed: set before the handle was handed out.
        if self.policy.load(Relaxed) != INTERLEAVE {
            return self.here();
        }
        let topology = self.machine().map_or_else(cpu::topology, Machine::topology);
        // Relaxed: whose turn it is, more or less.
        let turn = self.turn.fetch_add(1, Relaxed) as usize;
        let with_memory = || (0..topology.nodes).filter(|&n| topology.memory[usize::from(n)]);
        let n = with_memory().nth(turn % with_memory().count().max(1)).unwrap_or(0);
        (&self.nodes[usize::from(n)], n)
    }

    /// A free object of one node: from its slabs, else from fresh memory. `None`: there is no such node, or it has no memory, or
    /// memory is out.
    pub(crate) fn alloc_on(&'static self, n: usize) -> Option<*mut u8> {
        let topology = self.machine().map_or_else(cpu::topology, Machine::topology);
        let node = self.nodes.get(n).filter(|_| topology.memory.get(n) == Some(&true))?;
        self.counters.alloc_direct.add(1);
        loop {
            if let Some(p) = node.take_one() {
                return Some(p);
            }
            node.grow(self, n as u16).ok()?;
        }
    }

    /// Has this cache objects of other nodes to send home?
    pub(crate) fn has_aliens(&self) -> bool {
        // Relaxed: as above.
        let local = || self.policy.load(Relaxed) == LOCAL;
        self.nodes.len() > 1 && self.block_capacity() > 0 && !self.is_array() && local()
    }
}
