//! CPUs that go and come back.
//!
//! Called by users who learn of it, and by [`reap`](crate::reap), which does; hands to [`flush`](crate::flush) and
//! [`alien`](crate::alien). "Down" in userspace is a CPU that has left the process's affinity or cpuset. It is never a promise: threads may
//! still run there, and find an empty block as on any CPU.
//!
//! What a cache has for each *node* stays for as long as the cache; what is for CPUs goes and comes. Nothing is allocated, and nothing
//! freed, under a node's lock: the memory of what is taken away may come from the very cache that is being cleared.

use crate::AllocError;
use crate::alien::Table;
use crate::cache::Core;
use crate::cpu::{self, Topology};
use crate::flush::{Taken, holds};
use crate::life::alive;
use crate::machine::Machine;
use crate::page::{self, BlockNo};
use crate::percpu::{Site, pack};
use crate::{flush, order, percpu};
use std::cell::Cell;

/// A CPU has left: its blocks, of every cache, go back to the slabs, and no worker is sent there. With the last CPU of a node, what its
/// barns hold goes too. Then, when all caches' objects are back, the node's free slabs are given back. Returns the number of
/// caches that had something on the CPU. Waits for flushes that are under way; one membarrier.
pub fn cpu_down(cpu: u32) -> u32 {
    down(None, cpu)
}

/// A CPU is back, and workers may run there again. Caches that are in use get an empty block there, and what its node lacks. Nothing to do
/// for one that is not down. Errors: memory is out; then nothing has changed, and the CPU is down as before.
pub fn cpu_up(cpu: u32) -> Result<(), AllocError> {
    up(None, cpu)
}

impl Machine {
    /// [`cpu_down`](crate::cpu_down) for a CPU of this machine.
    pub fn cpu_down(&'static self, cpu: u32) -> u32 {
        down(Some(self), cpu)
    }
    /// [`cpu_up`](crate::cpu_up) for a CPU of this machine.
    pub fn cpu_up(&'static self, cpu: u32) -> Result<(), AllocError> {
        up(Some(self), cpu)
    }
}

fn topology(machine: Option<&'static Machine>) -> &'static Topology {
    machine.map_or_else(cpu::topology, Machine::topology)
}

/// The caches of a machine, each held.
fn caches_of(machine: Option<&'static Machine>) -> impl Iterator<Item = &'static Core> {
    alive().into_iter().filter(|core| core.hold()).filter(move |core| {
        let its = core.machine_is(machine);
        if !its {
            core.drop_lives(1);
        }
        its
    })
}

fn down(machine: Option<&'static Machine>, cpu: u32) -> u32 {
    flush::catch_up();
    let mut cpus = order::cpus_changing();
    let Some(site) = percpu::site_of(machine, cpu) else { return 0 };
    if !cpus.set_down(site.index(), true) {
        return 0;
    }
    let _caches = order::caches();
    let mut all: Vec<_> = caches_of(machine).map(|core| (core, Taken::NOTHING)).collect();
    if all.iter().any(|(core, _)| holds(core.word().load(site))) {
        percpu::stop_of(
            machine,
            |s| s == site,
            |stopped| all.iter_mut().for_each(|(core, taken)| taken.take(stopped, core.word())),
        );
    }
    // A node without memory, or one that is not known, has no list: its CPU's blocks go back all the same.
    let topology = topology(machine);
    let list = topology.list_of(cpu);
    let is_up = |cpu: u32| {
        topology.online[cpu as usize] && percpu::site_of(machine, cpu).is_some_and(|s| !cpus.is_down(s.index()))
    };
    let last = list.filter(|_| !(0..topology.possible).any(|c| topology.list_of(c) == list && is_up(c)));
    let mut caches = 0;
    for &(core, taken) in &all {
        caches += taken.cpus;
        core.take_back(taken);
        if let Some(n) = last {
            core.shut_node(usize::from(n), true);
        }
    }
    // The second pass: what one cache gave back may have been the memory of another's.
    for (core, _) in all {
        if let Some(n) = list {
            core.shrink_node(usize::from(n));
        }
        core.drop_lives(1);
    }
    caches
}

/// What a CPU that comes up needs for one cache: allocated before any lock.
struct Parts {
    core: &'static Core,
    block: Option<BlockNo>,
    table: Option<Table>,
}

impl Parts {
    fn make(core: &'static Core, n: usize, node: bool) -> Result<Parts, AllocError> {
        let mut parts = Parts { core, block: None, table: None };
        if core.block_capacity() > 0 && core.is_in_use() {
            let block = if fails() { None } else { page::page() };
            let block = block.ok_or(AllocError)?;
            block.block().reset(core.block_capacity());
            parts.block = Some(block);
            if core.has_aliens() && core.host().is_some() && node {
                parts.table = if fails() { None } else { Table::make(core, n) };
                if parts.table.is_none() {
                    return Err(AllocError);
                }
            }
        }
        Ok(parts)
    }
}

impl Drop for Parts {
    /// What was not installed is surplus.
    fn drop(&mut self) {
        page::put_page(self.block.take().unwrap_or(BlockNo::NONE));
        if let Some(table) = self.table.take() {
            table.free();
        }
        self.core.drop_lives(1);
    }
}

fn up(machine: Option<&'static Machine>, cpu: u32) -> Result<(), AllocError> {
    flush::catch_up();
    let mut cpus = order::cpus_changing();
    let Some(site) = percpu::site_of(machine, cpu).filter(|s| cpus.is_down(s.index())) else { return Ok(()) };
    let _caches = order::caches();
    let list = topology(machine).list_of(cpu);
    let n = usize::from(list.unwrap_or(0));
    // Everything is allocated before it is known what is needed: then no lock is held.
    let (mut all, mut missing) = (Vec::new(), false);
    for core in caches_of(machine) {
        match Parts::make(core, n, list.is_some()) {
            Ok(parts) => all.push(parts),
            Err(AllocError) => missing = true,
        }
    }
    if missing {
        return Err(AllocError); // and everything goes back
    }
    cpus.set_down(site.index(), false);
    install_blocks(machine, site, &mut all);
    for parts in all.iter_mut().filter(|_| list.is_some()) {
        parts.core.nodes[n].open();
        parts.table = parts.table.take().and_then(|table| parts.core.nodes[n].install(table));
    }
    Ok(())
}

/// Gives the CPU its blocks, where it has none.
fn install_blocks(machine: Option<&'static Machine>, site: Site, all: &mut [Parts]) {
    if !all.iter().any(|parts| parts.block.is_some()) {
        return;
    }
    percpu::stop_of(
        machine,
        |s| s == site,
        |stopped| {
            for parts in all.iter_mut() {
                let word = parts.core.word();
                if word.load(stopped.site()) == 0 {
                    if let Some(block) = parts.block.take() {
                        stopped.take(word, pack(block, BlockNo::NONE));
                    }
                }
            }
        },
    );
}

thread_local! {
    /// Allocations until one fails; 0: none does.
    static FAILS: Cell<u32> = const { Cell::new(0) };
}

fn fails() -> bool {
    FAILS.with(|f| {
        f.set(f.get().saturating_sub(1));
        f.get() == 1
    })
}

/// Makes the `n`th allocation (from 1 on) of this thread's next [`cpu_up`] fail; 0: none. For tests.
#[doc(hidden)]
pub fn fail_at(n: u32) {
    FAILS.with(|f| f.set(if n == 0 { 0 } else { n + 1 }));
}
