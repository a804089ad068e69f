//! Which CPU am I on, how many can there be, and which node does each belong to.
//!
//! Handed to by [`percpu`](crate::percpu) and [`cache`](crate::cache). Everything is sized by *possible* CPUs, never by
//! online ones: a CPU that comes up later has its place already.

use std::sync::OnceLock;

/// The machine as the allocator sees it, read once.
#[derive(Debug, Clone)]
pub struct Topology {
    /// Number of CPU ids that may ever appear (highest possible id + 1).
    pub possible: u32,
    /// Node of each possible CPU.
    pub node_of: Vec<u16>,
    /// Number of nodes (at least 1).
    pub nodes: u16,
}

/// The most CPUs the word area is laid out for; CPUs above share the try-lock slots.
pub(crate) const MAX_CPUS: u32 = 4096;

/// The topology of this machine.
pub fn topology() -> &'static Topology {
    static TOPOLOGY: OnceLock<Topology> = OnceLock::new();
    TOPOLOGY.get_or_init(read)
}

fn read() -> Topology {
    let possible = list("/sys/devices/system/cpu/possible")
        .iter()
        .max()
        .map_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get() as u32), |&most| most + 1);
    let possible = possible.clamp(1, MAX_CPUS);
    let mut node_of = vec![0u16; possible as usize];
    let mut nodes = 1;
    for node in list("/sys/devices/system/node/possible") {
        if node >= 64 {
            break;
        }
        nodes = nodes.max(node as u16 + 1);
        for cpu in list(&format!("/sys/devices/system/node/node{node}/cpulist")) {
            if let Some(n) = node_of.get_mut(cpu as usize) {
                *n = node as u16;
            }
        }
    }
    Topology { possible, node_of, nodes }
}

/// Parses the kernel's list format ("0-3,8"); an absent or odd file is an empty list.
fn list(path: &str) -> Vec<u32> {
    if cfg!(not(target_os = "linux")) {
        return Vec::new();
    }
    std::fs::read_to_string(path).map(|text| parse_list(&text)).unwrap_or_default()
}

fn parse_list(text: &str) -> Vec<u32> {
    let mut out = Vec::new();
    for part in text.trim().split(',').filter(|p| !p.is_empty()) {
        let mut ends = part.splitn(2, '-').map(|n| n.trim().parse::<u32>());
        match (ends.next(), ends.next()) {
            (Some(Ok(a)), None) => out.push(a),
            (Some(Ok(a)), Some(Ok(b))) if a <= b && b < 1 << 16 => out.extend(a..=b),
            _ => return Vec::new(),
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
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Relaxed: a number of one's own.
    thread_local! { static MINE: u32 = NEXT.fetch_add(1, Relaxed) }
    MINE.try_with(|n| *n).unwrap_or(0)
}

/// The node of the CPU this thread runs on (a hint, like [`current`]).
pub(crate) fn node() -> usize {
    let t = topology();
    if t.nodes == 1 { 0 } else { t.node_of[current() as usize] as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_lists_parse() {
        assert_eq!(parse_list("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(parse_list("0"), [0]);
        assert!(parse_list("").is_empty());
        assert!(parse_list("x-3").is_empty());
        assert!(parse_list("5-2").is_empty());
    }

    #[test]
    fn this_machine_has_a_cpu_and_a_node() {
        let t = topology();
        assert!(t.possible >= 1 && t.nodes >= 1);
        assert_eq!(t.node_of.len(), t.possible as usize);
        assert!(t.node_of.iter().all(|&n| n < t.nodes));
        assert!(current() < t.possible);
        assert!(node() < t.nodes as usize);
    }
}
