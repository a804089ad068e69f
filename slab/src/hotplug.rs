//! CPUs that go and come back.
//!
//! Called by users who learn of it; hands to [`flush`](crate::flush). "Down" in userspace is a CPU that has left the process's affinity
//! or cpuset. It is never a promise: threads may still run there, and find an empty block as on any CPU.

use crate::flush::{Taken, holds};
use crate::life::alive;
use crate::{flush, order, percpu};

/// A CPU has left: its blocks, of every cache, go back to the slabs, and no worker is sent there. Returns the number of caches that
/// had something there. Waits for flushes that are under way; one membarrier.
pub fn cpu_down(cpu: u32) -> u32 {
    flush::catch_up();
    let mut cpus = order::cpus_changing();
    if !cpus.set_down(cpu, true) {
        return 0;
    }
    let _caches = order::caches();
    let Some(site) = percpu::site_of(cpu) else { return 0 };
    let mut all: Vec<_> = alive().into_iter().filter(|core| core.hold()).map(|core| (core, Taken::NOTHING)).collect();
    if all.iter().any(|(core, _)| holds(core.word().load(site))) {
        percpu::stop(
            |s| s == site,
            |stopped| all.iter_mut().for_each(|(core, taken)| taken.take(stopped, core.word())),
        );
    }
    let mut caches = 0;
    for (core, taken) in all {
        caches += taken.cpus;
        core.take_back(taken);
        core.drop_lives(1);
    }
    caches
}

/// A CPU is back, and workers may run there again. (Its blocks come with the first allocation or free.)
pub fn cpu_up(cpu: u32) {
    order::cpus_changing().set_down(cpu, false);
}
