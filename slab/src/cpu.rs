//! Which CPU am I on, how many can there be, and which node does each belong to.
//!
//! Handed to by [`machine`](crate::machine), [`percpu`](crate::percpu) and [`cache`](crate::cache). Everything is sized by *possible* CPUs, never by
//! online ones: a CPU that comes up later has its place already.

use crate::lock::once;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A machine as the allocator sees it: its CPUs and the nodes that they and the memory belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Topology {
    /// Number of CPU ids that may ever appear (highest possible id + 1).
    pub possible: u32,
    /// Node of each possible CPU. One that is not below [`nodes`](Self::nodes) is unknown: its CPU is served by the first node.
    pub node_of: Vec<u16>,
    /// Number of nodes (at least 1).
    pub nodes: u16,
    /// Whether each node has memory of its own; one at least has.
    pub memory: Vec<bool>,
    /// Whether each possible CPU was there when this was read.
    pub online: Vec<bool>,
}

/// The most CPUs the word area is laid out for; CPUs above share the try-lock slots.
pub(crate) const MAX_CPUS: u32 = 4096;
/// The most nodes.
pub(crate) const MAX_NODES: u16 = 64;

/// The topology of this machine, read once.
pub fn topology() -> &'static Topology {
    static TOPOLOGY: OnceLock<Topology> = OnceLock::new();
    once(&TOPOLOGY, || {
        if cfg!(not(target_os = "linux")) || cfg!(quietus_portable) {
            return Topology::new(1, vec![0; parallelism().min(MAX_CPUS) as usize]);
        }
        Topology::read(Path::new("/sys/devices/system"))
    })
}

/// What [`pretend`] was told; 0: nothing.
static PRETENDED: AtomicU32 = AtomicU32::new(0);

/// As if only so many CPUs were possible: for tests of threads on CPUs that nobody knew of. To be called before anything else. Not for users.
#[doc(hidden)]
pub fn pretend(cpus: u32) {
    // Relaxed: read by whoever reads the machine first, which is later.
    PRETENDED.store(cpus, Relaxed);
}

impl Topology {
    /// The topology that `cpu/possible`, `cpu/online`, `node/possible`, `node/has_memory` and `node/node*/cpulist` under `root` describe
    /// (`/sys/devices/system`). Whatever is missing or odd is left out: without any of it, as many CPUs as the system says, on one node.
    pub fn read(root: &Path) -> Topology {
        let list = |path: &str| std::fs::read_to_string(root.join(path)).map(|text| parse_list(&text)).ok();
        let possible =
            list("cpu/possible").and_then(|cpus| cpus.iter().max().map(|&most| most + 1)).unwrap_or_else(parallelism);
        // Relaxed: see `pretend`.
        let possible = Some(PRETENDED.load(Relaxed)).filter(|&n| n > 0).unwrap_or(possible);
        let mut node_of = vec![0u16; possible.clamp(1, MAX_CPUS) as usize];
        let mut nodes = 1;
        for node in list("node/possible").unwrap_or_default() {
            if node >= u32::from(MAX_NODES) {
                break;
            }
            nodes = nodes.max(node as u16 + 1);
            for cpu in list(&format!("node/node{node}/cpulist")).unwrap_or_default() {
                if let Some(n) = node_of.get_mut(cpu as usize) {
                    *n = node as u16;
                }
            }
        }
        let mut topology = Topology::new(nodes, node_of);
        for (flags, path) in [(&mut topology.online, "cpu/online"), (&mut topology.memory, "node/has_memory")] {
            // (A list that names none of them cannot be right.)
            if let Some(there) = list(path).filter(|l| l.iter().any(|&n| (n as usize) < flags.len())) {
                flags.iter_mut().enumerate().for_each(|(n, flag)| *flag = there.contains(&(n as u32)));
            }
        }
        topology
    }

    /// So many nodes, 1 to 64, and the node of each CPU, of which there are 1 to 4,096 (more are left out). All nodes have memory.
    pub fn new(nodes: u16, mut node_of: Vec<u16>) -> Topology {
        node_of.truncate(MAX_CPUS as usize);
        if node_of.is_empty() {
            node_of.push(0);
        }
        let (nodes, possible) = (nodes.clamp(1, MAX_NODES), node_of.len());
        Topology {
            possible: possible as u32,
            node_of,
            nodes,
            memory: vec![true; usize::from(nodes)],
            online: vec![true; possible],
        }
    }

    /// Nodes with `cpus` CPUs each, numbered one node after the other: 8 × 64, say.
    pub fn grid(nodes: u16, cpus: u32) -> Topology {
        Self::new(nodes, (0..nodes).flat_map(|n| (0..cpus).map(move |_| n)).collect())
    }

    /// The same, with a node that has CPUs but no memory. (The last one that has memory keeps it.)
    pub fn without_memory(mut self, node: u16) -> Topology {
        let others = (0..self.nodes).any(|n| n != node && self.memory[usize::from(n)]);
        if let Some(memory) = self.memory.get_mut(usize::from(node)).filter(|_| others) {
            *memory = false;
        }
        self
    }

    /// The node whose memory a CPU's threads have for their own; `None`: it is unknown, or has none.
    pub(crate) fn list_of(&self, cpu: u32) -> Option<u16> {
        let node = *self.node_of.get(cpu as usize)?;
        self.memory.get(usize::from(node)).copied().unwrap_or(false).then_some(node)
    }

    /// The node that serves a CPU: its own, or the nearest by number that has memory.
    pub(crate) fn home_of(&self, cpu: u32) -> u16 {
        let node = self.node_of.get(cpu as usize).copied().filter(|&n| n < self.nodes).unwrap_or(0);
        let with_memory = (0..self.nodes).filter(|&n| self.memory[usize::from(n)]);
        with_memory.min_by_key(|&n| n.abs_diff(node)).unwrap_or(0)
    }
}

/// CPUs, where nothing else is known.
fn parallelism() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u32)
}

/// Parses the kernel's list format ("0-3,8"). Parts that are none are passed over.
fn parse_list(text: &str) -> Vec<u32> {
    let mut out = Vec::new();
    for part in text.trim().split(',') {
        let mut ends = part.splitn(2, '-').map(|n| n.trim().parse::<u32>().ok().filter(|&n| n < 1 << 16));
        match (ends.next().flatten(), ends.next()) {
            (Some(a), None) => out.push(a),
            (Some(a), Some(Some(b))) => out.extend(a..=b),
            _ => {}
        }
    }
    out
}

/// A hint which CPU this thread runs on: it may have moved before the call returns. Always below `possible`.
pub fn current() -> u32 {
    raw_current() % topology().possible
}

#[cfg(all(target_os = "linux", not(quietus_portable)))]
fn raw_current() -> u32 {
    // SAFETY: no preconditions; a negative answer means "not supported".
    let cpu = unsafe { libc::sched_getcpu() };
    if cpu < 0 { 0 } else { cpu as u32 }
}

/// Without a way to ask, threads are spread over the slots by a number of their own.
#[cfg(not(all(target_os = "linux", not(quietus_portable))))]
fn raw_current() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Relaxed: a number of one's own.
    thread_local! { static MINE: u32 = NEXT.fetch_add(1, Relaxed) }
    MINE.try_with(|n| *n).unwrap_or(0)
}

/// The node that serves the CPU this thread runs on (a hint, like [`current`]).
pub(crate) fn node() -> u16 {
    let t = topology();
    if t.nodes == 1 { 0 } else { t.home_of(current()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_lists_parse() {
        assert_eq!(parse_list("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(parse_list("0"), [0]);
        assert!(parse_list("").is_empty());
        assert!(parse_list("x-3,5-2,-,4-,99999999999").is_empty());
        assert_eq!(parse_list(" 1 - 2 ,x,, 7\n"), [1, 2, 7]);
    }

    #[test]
    fn this_machine_has_a_cpu_and_a_node() {
        let t = topology();
        assert!(t.possible >= 1 && t.nodes >= 1);
        assert_eq!(t.node_of.len(), t.possible as usize);
        assert!(t.node_of.iter().all(|&n| n < t.nodes));
        assert!(current() < t.possible);
        assert!(node() < t.nodes);
    }
}
