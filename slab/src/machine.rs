//! A machine that is not there: [`Machine`], for caches that are to run on other CPUs and nodes than there are.
//!
//! Handed to by [`percpu`](crate::percpu) (where its regions are), [`cache`](crate::cache) (which node is near) and
//! [`hotplug`](crate::hotplug); hands to [`os`](crate::os).
//!
//! A simulated CPU is a region of the area of words like any other, beyond those of the real ones, and used like a slot: under its
//! try-lock. **The fast paths know the real CPU alone**, and find nothing there for a cache of a simulated machine: every operation of such a
//! cache goes by the slow path. Everything behind that path — blocks, barns, nodes, flushes, CPUs that go and come — is the code that
//! real machines run. What is simulated says nothing about speed.
//!
//! # Ordering
//! The address of a machine's regions is stored before its number is known to anybody; Release and Acquire.

use crate::cpu::Topology;
use crate::lock::Lock;
use crate::{AllocError, os};
use std::cell::Cell;
use std::sync::atomic::{
    AtomicPtr,
    Ordering::{Acquire, Release},
};

/// A region's size is two to this power.
pub(crate) const REGION_SHIFT: u32 = 16;
/// Regions from this number on are those of simulated CPUs.
pub(crate) const FIRST: u32 = 1 << 16;
/// Two to this power is the distance of the regions of one machine from those of the next.
const SHIFT: u32 = 12;
/// Most machines a process can make.
const MOST: usize = 64;

static AREAS: [AtomicPtr<u8>; MOST] = [const { AtomicPtr::new(std::ptr::null_mut()) }; MOST];
static MADE: Lock<usize> = Lock::new(0);

thread_local! {
    /// The CPU of each machine that this thread is on.
    static ON: [Cell<u16>; MOST] = const { [const { Cell::new(0) }; MOST] };
}

/// CPUs and nodes of one's own choice, for tests of what depends on them: [`CacheBuilder::machine`](crate::CacheBuilder::machine). Which CPU
/// a thread is on it says itself. Caches of such a machine have no fast paths.
///
/// ```
/// use quietus_slab::{Cache, Machine, Topology};
/// let machine = Machine::simulated(Topology::grid(8, 64))?;
/// let cache: Cache<u64> = Cache::builder("there").machine(machine).build().unwrap();
/// machine.run_on(7 * 64);
/// let far = cache.alloc(1);
/// assert_eq!(cache.node_stats()[7].slabs, 1);
/// # drop(far);
/// # Ok::<(), quietus_slab::AllocError>(())
/// ```
#[derive(Debug)]
pub struct Machine {
    topology: Topology,
    number: usize,
}

impl Machine {
    /// A machine of this topology. It stays for as long as the process: 64 KiB of address space for each CPU. Errors: there are 64 already;
    /// no address space.
    pub fn simulated(topology: Topology) -> Result<&'static Machine, AllocError> {
        let mut made = MADE.lock();
        let number = *made;
        let area = AREAS.get(number).ok_or(AllocError)?;
        let base = os::reserve((topology.possible as usize) << REGION_SHIFT).ok_or(AllocError)?;
        // Release: pairs with `base`.
        area.store(base.as_ptr(), Release);
        *made += 1;
        drop(made);
        Ok(Box::leak(Box::new(Machine { topology, number })))
    }

    /// Its CPUs and nodes.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// From now on this thread runs on a CPU of this machine (the first, until it says so); numbers are taken modulo those there are.
    pub fn run_on(&self, cpu: u32) {
        // In a thread that ends, it stays where it is.
        let _ = ON.try_with(|on| on[self.number].set((cpu % self.topology.possible) as u16));
    }

    /// The CPU that this thread is on.
    pub fn current(&self) -> u32 {
        ON.try_with(|on| u32::from(on[self.number].get())).unwrap_or(0)
    }

    /// Number of its first CPU's region.
    pub(crate) fn first(&self) -> u32 {
        FIRST + ((self.number as u32) << SHIFT)
    }
}

/// First byte of the region of a simulated CPU.
pub(crate) fn base(region: u32) -> *mut u8 {
    let (machine, cpu) = ((region - FIRST) >> SHIFT, region & ((1 << SHIFT) - 1));
    // Acquire: pairs with the store of whoever gave the number out.
    let area = AREAS[machine as usize].load(Acquire);
    debug_assert!(!area.is_null());
    area.wrapping_add((cpu as usize) << REGION_SHIFT)
}
