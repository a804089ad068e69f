//! The `env` command: what was found on this machine and what the library makes of it, a line each.

use std::env;
use std::fs;
use std::thread;

use quietus::{kvfree, membarrier, slab};

use crate::complaint::SWITCHES;

/// All of it.
pub(crate) fn describe() -> String {
    let lines = [
        ("rseq", rseq()),
        ("membarrier", membarrier::report().to_string()),
        ("CPUs", cpus()),
        ("nodes", nodes()),
        ("page", format!("{} bytes", page_bytes())),
        ("block", format!("{} bytes, up to {} pointers", slab::raw::BLOCK_BYTES, slab::raw::SLOTS)),
        ("slab", format!("{} KiB", slab::SLAB_BYTES >> 10)),
        ("limits", limits()),
        ("switches", switches()),
    ];
    lines.map(|(name, value)| format!("{name:<12}{value}\n")).concat()
}

fn rseq() -> String {
    let (on, why) = slab::rseq_report();
    format!("{}: {why}", if on { "on" } else { "off" })
}

fn cpus() -> String {
    let possible = slab::topology().possible;
    let allowed = thread::available_parallelism().map_or_else(|error| error.to_string(), |n| n.to_string());
    format!("{possible} possible, {allowed} allowed to this process")
}

fn nodes() -> String {
    let topology = slab::topology();
    let on = |node| topology.node_of.iter().filter(|&&of| of == node).count();
    let each: Vec<String> =
        (0..topology.nodes).map(|node| format!("node {node} has {} of the CPUs", on(node))).collect();
    format!("{}: {}", topology.nodes, each.join(", "))
}

#[cfg(unix)]
fn page_bytes() -> i64 {
    // SAFETY: asks for a constant of the system; no preconditions.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) }
}

#[cfg(not(unix))]
fn page_bytes() -> i64 {
    4096
}

/// What bounds memory: the library's own limits, and those around this process.
fn limits() -> String {
    let blocks = slab::page_stats().limit;
    let mut limits = vec![
        format!("{} MiB retired before retirers help", kvfree::Config::default().budget >> 20),
        format!("{blocks} blocks"),
    ];
    limits.extend(cgroup("memory.high").map(|bytes| format!("cgroup memory.high {bytes}")));
    limits.extend(cgroup("memory.max").map(|bytes| format!("cgroup memory.max {bytes}")));
    limits.extend(address_space().map(|bytes| format!("address space {bytes} bytes")));
    limits.join(", ")
}

/// A limit of this process's control group, if there is one: version 2, by the path `/proc/self/cgroup` gives.
fn cgroup(file: &str) -> Option<String> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let limit = fs::read_to_string(format!("/sys/fs/cgroup{path}/{file}")).ok()?;
    Some(limit.trim()).filter(|&limit| limit != "max").map(str::to_owned)
}

#[cfg(unix)]
fn address_space() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes the struct it is given.
    let answer = unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) };
    (answer == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

#[cfg(not(unix))]
fn address_space() -> Option<u64> {
    None
}

/// The environment variables the library looks at.
fn switches() -> String {
    let set = |name| format!("{name}={}", env::var(name).unwrap_or_else(|_| "auto".into()));
    SWITCHES.map(set).join(" ")
}
