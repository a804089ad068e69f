//! Giving back what nobody has used for a while: blocks of CPUs, barns, blocks on their way home, free slabs.
//!
//! Called by users ([`reap`]), or by a thread that does it at intervals ([`reaper`]). Stirred by [`cache`](crate::cache)'s slow paths; hands
//! to [`flush`](crate::flush), [`hotplug`](crate::hotplug) and [`segment`](crate::segment).
//!
//! A round looks at what there is, and takes what it found in the same state the round before: so things go that were not used between two
//! rounds. (A CPU's block with as many objects as before counts as unused; taken by mistake, it is filled again in a microsecond.) All
//! CPUs' blocks of a round are taken under one membarrier. Each round first looks which CPUs the process may run on: those that it has lost
//! [go down](crate::cpu_down), and come up when it has them again.
//!
//! The thread sleeps without an end when nothing is left to give back; the next block that is installed wakes it.
//!
//! # Ordering
//! The sleep is *bell*, as with kvfree's worker: the thread swaps `ASLEEP` to true (AcqRel), then looks for blocks; a slow path installs a
//! block, then swaps it to false (AcqRel). The later of the two sees the other. All else is under the round's lock.

use crate::cache::Core;
use crate::flush::{Taken, holds};
use crate::life::alive;
use crate::lock::long;
use crate::machine::Machine;
use crate::percpu::{Site, Word, unpack};
use crate::process::here;
use crate::segment::Pool;
use crate::{cpu, flush, hotplug, order, os, percpu};
use std::collections::HashMap;
use std::sync::atomic::{
    AtomicBool, AtomicPtr,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

/// What a round has given back.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reaped {
    /// CPUs' blocks taken back, counted by cache and CPU.
    pub cpu_blocks: u32,
    /// Blocks of barns taken back, and blocks sent home to other nodes.
    pub node_blocks: u32,
    /// Bytes of free slabs given back to the page source.
    pub bytes: usize,
    /// Is there anything left that a later round might take?
    pub more: bool,
}

/// One for each process.
#[derive(Default)]
pub(crate) struct Reaper {
    seen: Mutex<Seen>,
    thread: Mutex<Option<(Arc<AtomicBool>, JoinHandle<()>)>>,
}

/// What the last round saw.
#[derive(Default)]
struct Seen {
    words: HashMap<(u16, u32), Look>,
    /// CPUs that went down because the process may not run there.
    gone: Vec<u32>,
}

/// A CPU's blocks as they were.
type Look = (u64, u32, u32);

fn look(word: Word, site: Site) -> Option<Look> {
    let value = word.load(site);
    let (main, spare) = unpack(value);
    holds(value).then(|| (value, main.block().len(), spare.block().len()))
}

/// One round, by the caller: gives back what was not used since the last one. Twice in a row it gives back everything that is not in
/// use. Takes locks; one membarrier, if a CPU's blocks go; waits for flushes that are under way.
pub fn reap() -> Reaped {
    flush::catch_up();
    let mut seen = long(&here().reaper.seen);
    if let Some(allowed) = os::allowed_cpus() {
        follow_cpus(&mut seen.gone, &allowed);
    }
    let mut reaped = Reaped::default();
    {
        let _cpus = order::cpus();
        let _caches = order::caches();
        let cores: Vec<_> = alive().into_iter().filter(|core| core.hold()).collect();
        // Nodes first: what comes back from CPUs is a use of theirs.
        cores.iter().for_each(|core| reap_nodes(core, &mut reaped));
        reap_cpus(&cores, &mut seen.words, &mut reaped);
        for core in cores {
            reaped.more |= core.nodes.iter().any(|node| !node.is_idle());
            core.drop_lives(1);
        }
    }
    for pool in Pool::all() {
        let (bytes, more) = pool.age();
        reaped.bytes += bytes;
        reaped.more |= more;
    }
    reaped
}

/// Takes the blocks that are as they were.
fn reap_cpus(cores: &[&'static Core], words: &mut HashMap<(u16, u32), Look>, reaped: &mut Reaped) {
    let former = std::mem::take(words);
    let mut idle: Vec<(&'static Core, Site, u64, Taken)> = Vec::new();
    for &core in cores {
        for site in core.all_sites() {
            let Some(now) = look(core.word(), site) else { continue };
            let key = (core.id(), site.index());
            if former.get(&key) == Some(&now) {
                idle.push((core, site, now.0, Taken::NOTHING));
            } else {
                words.insert(key, now);
                reaped.more = true;
            }
        }
    }
    let mut machines: Vec<Option<&'static Machine>> = Vec::new();
    for (core, ..) in &idle {
        if !machines.iter().any(|&m| core.machine_is(m)) {
            machines.push(core.machine());
        }
    }
    // Sorted, so that each stop finds its caches.
    idle.sort_by_key(|&(_, site, ..)| site.index());
    for machine in machines {
        let of = |site: Site, idle: &[(&'static Core, Site, u64, Taken)]| {
            let first = idle.partition_point(|&(_, s, ..)| s.index() < site.index());
            first..idle.partition_point(|&(_, s, ..)| s.index() <= site.index())
        };
        let sites: Vec<Site> =
            idle.iter().filter(|(core, ..)| core.machine_is(machine)).map(|&(_, site, ..)| site).collect();
        percpu::stop_of(
            machine,
            |site| sites.contains(&site),
            |stopped| {
                let range = of(stopped.site(), &idle);
                for (core, site, value, taken) in &mut idle[range] {
                    if core.word().load(*site) == *value {
                        taken.take(stopped, core.word());
                    }
                }
            },
        );
    }
    for (core, _, _, taken) in idle {
        reaped.cpu_blocks += taken.cpus;
        core.take_back(taken);
    }
}

/// Takes what a cache's nodes have not needed.
fn reap_nodes(core: &'static Core, reaped: &mut Reaped) {
    for node in &core.nodes {
        let (own, aliens, released) = node.age();
        for chain in [own, aliens] {
            let blocks = std::iter::successors(Some(chain), |b| Some(b.block().next()));
            reaped.node_blocks += blocks.take_while(|b| b.is_some()).count() as u32;
        }
        core.flush_chain(own);
        core.go_home(aliens);
        core.give(released);
    }
}

/// CPUs that are not allowed go down; those that went, and are, come up again.
fn follow_cpus(gone: &mut Vec<u32>, allowed: &[u32]) {
    for (cpu, &online) in (0..).zip(&cpu::topology().online) {
        if online && !allowed.contains(&cpu) && !gone.contains(&cpu) {
            hotplug::cpu_down(cpu);
            gone.push(cpu);
        }
    }
    // Without memory it stays down, and the next round tries again.
    gone.retain(|cpu| !allowed.contains(cpu) || hotplug::cpu_up(*cpu).is_err());
}

/// Has the process run on these CPUs alone, as far as the reaper knows. For tests.
#[doc(hidden)]
pub fn follow(allowed: &[u32]) {
    follow_cpus(&mut long(&here().reaper.seen).gone, allowed);
}

/// Is a thread on duty? Then slow paths look whether it sleeps.
static ON: AtomicBool = AtomicBool::new(false);
static ASLEEP: AtomicBool = AtomicBool::new(false);
/// Who is to be woken. Former ones are kept, a word or two each: somebody may be about to wake them.
static THREAD: AtomicPtr<Thread> = AtomicPtr::new(std::ptr::null_mut());

/// Is there a thread, and does it sleep without an end? For tests.
#[doc(hidden)]
pub fn reaper_sleeps() -> bool {
    // Relaxed: a look.
    ASLEEP.load(Relaxed)
}

/// A block was installed on a CPU, or put down somewhere.
#[inline]
pub(crate) fn stir() {
    // Relaxed: a hint, but see `reaper`.
    if ON.load(Relaxed) {
        wake();
    }
}

#[cold]
fn wake() {
    // AcqRel: the block is before it; pairs with the swap in `run` (bell).
    if ASLEEP.swap(false, AcqRel) {
        // Acquire: pairs with the Release in `run`: the handle. SAFETY: what was published lives for ever.
        if let Some(thread) = unsafe { THREAD.load(Acquire).as_ref() } {
            thread.unpark();
        }
    }
}

/// Starts a thread, `quietus-reap`, that [reaps](reap) at intervals of `period`, so that what is not used goes back to the system after one
/// to two of them; `None` ends it, and waits for it. There is none unless this was called: allocating memory never starts threads. It sleeps
/// while there is nothing to give back. A child of a fork has none.
///
/// Errors: the system gives no thread.
pub fn reaper(period: Option<Duration>) -> std::io::Result<()> {
    let mut place = long(&here().reaper.thread);
    if let Some((stop, handle)) = place.take() {
        // Relaxed: the flag is all there is to say.
        stop.store(true, Relaxed);
        handle.thread().unpark();
        ON.store(false, Relaxed);
        let _ = handle.join();
    }
    let Some(period) = period else { return Ok(()) };
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    // Relaxed: a thread that begins looks at everything that was there before it; what comes later is to ring.
    ON.store(true, Relaxed);
    let handle = std::thread::Builder::new().name("quietus-reap".into()).spawn(move || run(&flag, period));
    *place = Some((stop, handle.inspect_err(|_| ON.store(false, Relaxed))?));
    Ok(())
}

fn run(stop: &AtomicBool, period: Duration) {
    // Release: pairs with the Acquire in `wake`.
    THREAD.store(Box::into_raw(Box::new(std::thread::current())), Release);
    // Relaxed: as in `reaper`.
    while !stop.load(Relaxed) {
        if reap().more {
            std::thread::park_timeout(period);
            continue;
        }
        // AcqRel: pairs with the swap in `wake` (bell): what was installed before that is seen here.
        ASLEEP.swap(true, AcqRel);
        if anything() || stop.load(Relaxed) {
            // Relaxed: a bell that rings now is answered by the next round.
            ASLEEP.store(false, Relaxed);
            std::thread::park_timeout(period);
            continue;
        }
        // Relaxed: whoever clears it wakes us afterwards.
        while ASLEEP.load(Relaxed) && !stop.load(Relaxed) {
            std::thread::park();
        }
        // Relaxed: as above.
        ASLEEP.store(false, Relaxed);
    }
}

/// Is anything on a CPU or in a barn?
fn anything() -> bool {
    let mut any = false;
    for core in alive().into_iter().filter(|core| core.hold()) {
        any |= core.all_sites().any(|site| holds(core.word().load(site))) || core.nodes.iter().any(|n| !n.is_idle());
        core.drop_lives(1);
    }
    any
}
