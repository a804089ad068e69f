//! Taking back what CPUs and barns hold: flush, shrink, and the end of a handle.
//!
//! Handed to by [`typed`](crate::typed), [`kmalloc`](crate::kmalloc) and [`hotplug`](crate::hotplug); hands work items to
//! [`work`](crate::work) and free objects to [`cache`](crate::cache).
//!
//! A flush interrupts nobody: each CPU that holds something gets a work item that runs there and takes the blocks with the same
//! exchange as any thread on that CPU. Where no worker can run (the process may not be there; a slot for strays), the worker uses
//! the remote drain. The exclusive part is the swap to empty alone; objects are freed after it. An operation in flight on the CPU
//! fails and is done again.
//!
//! # Ordering
//! Relaxed where nothing else is said: the items' fields are the flush lock's, and the work queue's lock orders them with the worker.

use crate::cache::{Core, DEAD};
use crate::life::alive;
use crate::lock::once;
use crate::order::{self, Rank};
use crate::orphan;
use crate::page::BlockNo;
use crate::percpu::{self, Site, Stopped, Word, unpack};
use crate::work::{self, ANYWHERE, Item};
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering::Relaxed};

/// How often a worker on the right CPU tries the exchange before it drains from afar.
const TRIES: u32 = 100;

/// A CPU's work item, shared by all caches (`slub_flush_work`).
struct CpuWork {
    item: Item,
    core: AtomicPtr<Core>,
    skip: AtomicBool,
    /// Did it hold something when the worker came?
    found: AtomicBool,
}

/// One for each region.
fn cpu_works() -> &'static [CpuWork] {
    static WORKS: OnceLock<Box<[CpuWork]>> = OnceLock::new();
    once::<Box<[_]>>(&WORKS, || {
        let work = |n| CpuWork {
            item: Item::new(run, n),
            core: AtomicPtr::new(null_mut()),
            skip: AtomicBool::new(true),
            found: AtomicBool::new(false),
        };
        (0..percpu::regions()).map(work).collect()
    })
}

/// A worker's part.
fn run(n: u32, pinned: bool) {
    let work = &cpu_works()[n as usize];
    // SAFETY: cores live for ever.
    let Some(core) = (unsafe { work.core.load(Relaxed).as_ref() }) else { return };
    let site = Site::from_index(n);
    let here = if pinned { take_here(core.word(), site) } else { None };
    let taken = here.unwrap_or_else(|| take_remotely(core, |s| s == site));
    work.found.store(taken.cpus > 0, Relaxed);
    core.take_back(taken);
}

/// Blocks taken from CPUs: a chain, and from how many.
#[derive(Clone, Copy)]
pub(crate) struct Taken {
    chain: BlockNo,
    pub(crate) cpus: u32,
}

impl Taken {
    pub(crate) const NOTHING: Taken = Taken { chain: BlockNo::NONE, cpus: 0 };

    /// Adds the blocks of a word's value.
    fn add(&mut self, value: u64) {
        let (main, spare) = unpack(value);
        for b in [main, spare].into_iter().filter(|b| b.is_some()) {
            b.block().set_next(self.chain);
            self.chain = b;
        }
        self.cpus += u32::from(holds(value));
    }

    /// Takes a word's blocks in a stopped region, leaving it empty (or dead).
    pub(crate) fn take(&mut self, stopped: &Stopped<'_>, word: Word) {
        if holds(word.load(stopped.site())) {
            self.add(stopped.take(word, 0));
        }
    }
}

/// Does this value of a word name blocks?
pub(crate) fn holds(value: u64) -> bool {
    !matches!(value, 0 | DEAD)
}

/// Takes the blocks of the CPU that this thread is on. `None`: it is not, or others are always faster.
fn take_here(word: Word, site: Site) -> Option<Taken> {
    for _ in 0..TRIES {
        let old = word.load(site);
        if !holds(old) {
            return Some(Taken::NOTHING);
        }
        if word.exchange(site, old, 0) {
            let mut taken = Taken::NOTHING;
            taken.add(old);
            return Some(taken);
        }
        std::thread::yield_now();
    }
    None
}

/// Takes the blocks of regions by the remote drain: one membarrier for all of them.
fn take_remotely(core: &Core, wanted: impl Fn(Site) -> bool) -> Taken {
    let (word, mut taken) = (core.word(), Taken::NOTHING);
    core.stop(|site| wanted(site) && holds(word.load(site)), |stopped| taken.take(stopped, word));
    taken
}

/// What others could not do where they were: ends of caches, frees of signal handlers.
pub(crate) fn catch_up() {
    work::run_pending();
    orphan::adopt();
}

impl Core {
    /// Takes back what the CPUs hold and empties the barns into the slabs. Others may go on allocating and freeing meanwhile.
    /// Returns the number of regions that held something.
    pub(crate) fn flush(&'static self) -> u32 {
        catch_up();
        let cpus = order::cpus();
        self.flush_locked(|cpu| cpus.is_down(cpu))
    }

    /// [`flush`](Self::flush) for who keeps CPUs from going down and coming up; `down` tells which are.
    pub(crate) fn flush_locked(&'static self, down: impl Fn(u32) -> bool) -> u32 {
        order::assert_held(Rank::Cpus);
        let mut flushed = 0;
        // (Simulated CPUs have no work items.)
        if work::on() && self.machine().is_none() {
            let _items = order::flush();
            // Queue all, then wait for all: the CPUs work side by side. Those that hold nothing are left in peace.
            for (site, work) in percpu::all_sites().zip(cpu_works()) {
                let skip = !holds(self.word().load(site));
                work.skip.store(skip, Relaxed);
                if !skip {
                    work.found.store(false, Relaxed);
                    work.core.store(std::ptr::from_ref(self).cast_mut(), Relaxed);
                    work::queue(&work.item, site.cpu().filter(|&cpu| !down(cpu)).unwrap_or(ANYWHERE));
                }
            }
            for work in cpu_works().iter().filter(|work| !work.skip.load(Relaxed)) {
                work::wait(&work.item);
                flushed += u32::from(work.found.load(Relaxed));
            }
        } else {
            let taken = take_remotely(self, |_| true);
            flushed = taken.cpus;
            self.take_back(taken);
        }
        self.empty_barns();
        flushed
    }

    /// Frees what was taken from CPUs.
    pub(crate) fn take_back(&'static self, taken: Taken) {
        self.counters.cpu_flush.add(u64::from(taken.cpus));
        self.flush_chain(taken.chain);
    }

    pub(crate) fn flush_chain(&'static self, mut chain: BlockNo) {
        while chain.is_some() {
            let b = chain;
            chain = b.block().next();
            self.flush_block(b);
        }
    }

    pub(crate) fn empty_barns(&'static self) {
        for node in &self.nodes {
            self.flush_chain(node.take_all_blocks());
        }
    }

    /// [`flush`](Self::flush), then gives empty slabs and their pages back; partial slabs are sorted, fullest first. Returns bytes
    /// given back to the page source.
    pub(crate) fn shrink(&'static self) -> usize {
        self.flush();
        self.do_shrink()
    }

    fn do_shrink(&'static self) -> usize {
        self.nodes.iter().for_each(|node| node.sort_partial());
        self.release_empty();
        self.pool().purge()
    }

    pub(crate) fn release_empty(&'static self) {
        for node in &self.nodes {
            self.give(node.take_empty());
        }
    }

    /// Gives the empty slabs of one node back.
    pub(crate) fn shrink_node(&'static self, n: usize) {
        if let Some(node) = self.nodes.get(n) {
            self.give(node.take_empty());
        }
    }

    /// Takes the blocks of all CPUs, and marks their words: from now on nothing is parked there. `None`: the kernel refused the fence,
    /// and CPUs' words are as they were.
    pub(crate) fn mark_dead(&'static self) -> Option<Taken> {
        let word = self.word();
        let mut taken = Taken::NOTHING;
        if self.stop(|_| true, |stopped| taken.add(stopped.take(word, DEAD))) {
            return Some(taken);
        }
        self.take_back(taken);
        None
    }

    /// The handle goes. Objects that are still out keep the core alive; the last of them ends it.
    pub(crate) fn close(&'static self) {
        catch_up();
        let _cpus = order::cpus();
        let _caches = order::caches();
        let Some(taken) = self.mark_dead() else { return }; // the cache stays as it is, without a handle
        // Relaxed: whoever puts a block into a barn after the flush below has taken the node's lock after it, and sees this.
        self.dead.store(true, Relaxed);
        self.flush_chain(taken.chain);
        self.empty_barns();
        self.take_tables(true);
        self.release_empty();
        self.drop_handle();
    }
}

/// Flushes and shrinks every cache, size classes among them: what is done before memory goes away
/// (`slab_mem_going_offline_callback`). Returns bytes given back to page sources. Keeps caches from ending meanwhile; takes locks, waits
/// for workers.
pub fn shrink_all() -> usize {
    catch_up();
    let cpus = order::cpus();
    let _caches = order::caches();
    let mut given = 0;
    for core in alive().into_iter().filter(|core| core.hold()) {
        core.flush_locked(|cpu| cpus.is_down(cpu));
        given += core.do_shrink();
        core.drop_lives(1);
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Recipe;

    fn core() -> &'static Core {
        let recipe = Recipe { name: "flushed", stride: 64, ..Recipe::default() };
        Core::create(&recipe).unwrap()
    }

    /// A CPU whose blocks were gone when the worker came was not flushed.
    #[test]
    fn s1_2_only_real_flushes_count() {
        let core = core();
        let _items = order::flush();
        let work = &cpu_works()[0];
        work.core.store(std::ptr::from_ref(core).cast_mut(), Relaxed);
        run(0, false);
        assert_eq!((core.counters.cpu_flush.get(), work.found.load(Relaxed)), (0, false));
        drop(_items);
        core.close();
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "Cpus has to be held")]
    fn s1_5_a_locked_flush_asserts_its_lock() {
        core().flush_locked(|_| false);
    }
}
