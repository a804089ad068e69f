//! The work queue: what is done *for a CPU* by a thread that runs there, or later and elsewhere than where it was found out.
//!
//! Handed to by [`flush`](crate::flush) (a CPU's blocks) and [`chain`](crate::chain) (the end of a cache). Items live as long as the
//! process and are linked through themselves: queueing allocates nothing and cannot fail.
//!
//! Threads are started when something is queued, named `quietus-slab`, and end when nothing has come for a tenth of a second: an idle
//! process has none. With [`workers(false)`](workers), with the environment variable `QUIETUS_SLAB_WORKERS=off`, or
//! when the system gives no thread, whoever waits for an item does it; an item that nobody waits for is done by the next call that
//! makes, flushes, shrinks, ends or lists caches. No item waits for another.
//!
//! # Ordering
//! Relaxed: an item's state and link are the queue's, under its lock, which also orders what was done with who waits for it.

use crate::cpu;
use crate::lock::{Held, Lock, Signal};
use crate::process::here;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// Most threads at a time.
const SEATS: usize = 4;
/// How long a thread waits for more.
const LINGER: Duration = Duration::from_millis(100);
/// The CPU of an item that may be done anywhere.
pub(crate) const ANYWHERE: u32 = u32::MAX;

const IDLE: u8 = 0;
const QUEUED: u8 = 1;
const RUNNING: u8 = 2;
/// Running, and queued again since: what it is about to do may come too late for that.
const AGAIN: u8 = 3;

/// Something to do. In the queue once at a time, but may be queued while it runs.
pub(crate) struct Item {
    run: fn(u32, bool),
    argument: u32,
    cpu: AtomicU32,
    state: AtomicU8,
    next: AtomicPtr<Item>,
    /// Where it was queued last: in a child, its parent's office means nothing.
    office: AtomicPtr<Office>,
}

impl Item {
    /// `run(argument, pinned)` is called on a worker; `pinned`: it runs on the CPU that the item was queued for.
    pub(crate) const fn new(run: fn(u32, bool), argument: u32) -> Item {
        Item {
            run,
            argument,
            cpu: AtomicU32::new(ANYWHERE),
            state: AtomicU8::new(IDLE),
            next: AtomicPtr::new(null_mut()),
            office: AtomicPtr::new(null_mut()),
        }
    }
}

/// The queue and its threads; see [`process`](crate::process).
pub(crate) struct Office {
    queue: Lock<Queue>,
    /// Something was queued, or the threads are to end.
    work: Signal,
    /// Something is done, or a thread has ended.
    done: Signal,
}

struct Queue {
    head: *mut Item,
    tail: *mut Item,
    waiting: usize,
    on: bool,
    idle: usize,
    threads: usize,
    seats: [Seat; SEATS],
}

#[derive(Default)]
struct Seat {
    taken: bool,
    handle: Option<JoinHandle<()>>,
    running: Option<&'static Item>,
}

// SAFETY: items live for ever and are shared; their links are read under the queue's lock.
unsafe impl Send for Queue {}

impl Queue {
    fn push(&mut self, item: &'static Item) {
        let this = std::ptr::from_ref(item).cast_mut();
        item.state.store(QUEUED, Relaxed);
        item.next.store(null_mut(), Relaxed);
        // SAFETY: items live for ever.
        match unsafe { self.tail.as_ref() } {
            Some(tail) => tail.next.store(this, Relaxed),
            None => self.head = this,
        }
        self.tail = this;
        self.waiting += 1;
    }

    fn pop(&mut self) -> Option<&'static Item> {
        // SAFETY: items live for ever.
        let item = unsafe { self.head.as_ref() }?;
        self.head = item.next.load(Relaxed);
        if self.head.is_null() {
            self.tail = null_mut();
        }
        self.waiting -= 1;
        item.state.store(RUNNING, Relaxed);
        Some(item)
    }
}

fn switched_off() -> bool {
    std::env::var("QUIETUS_SLAB_WORKERS").is_ok_and(|v| v == "off" || v == "0")
}

impl Office {
    pub(crate) fn new() -> Self {
        Office {
            queue: Lock::new(Queue {
                head: null_mut(),
                tail: null_mut(),
                waiting: 0,
                on: !switched_off(),
                idle: 0,
                threads: 0,
                seats: Default::default(),
            }),
            work: Signal::new(),
            done: Signal::new(),
        }
    }

    /// In a child: takes what its parent had queued or in hand. (If another thread was at the queue in the moment of the fork, it
    /// stays there.)
    pub(crate) fn inherit(&self, parent: &Office) {
        let Some(mut theirs) = parent.queue.try_lock() else { return };
        let mut ours = self.queue.lock();
        ours.on = theirs.on;
        let running: Vec<_> = theirs.seats.iter_mut().filter_map(|s| s.running.take()).collect();
        while let Some(item) = theirs.pop() {
            self.adopt(&mut ours, item);
        }
        running.into_iter().for_each(|item| self.adopt(&mut ours, item));
        // Its threads are not here, and their handles mean nothing.
        std::mem::take(&mut theirs.seats).into_iter().for_each(std::mem::forget);
    }

    fn adopt(&self, queue: &mut Queue, item: &'static Item) {
        item.office.store(std::ptr::from_ref(self).cast_mut(), Relaxed);
        queue.push(item);
    }

    /// Does the item that was taken off the queue; the lock is given up meanwhile.
    fn perform(&'static self, item: &'static Item, seat: Option<usize>) {
        let cpu = item.cpu.load(Relaxed);
        let pinned = seat.is_some() && cpu != ANYWHERE && pin(cpu);
        let count = if seat.is_none() { &COUNTS.inline } else { &COUNTS.by_threads };
        count.add(1);
        // A panic was reported; whoever waits must not hang for it.
        let _ = catch_unwind(AssertUnwindSafe(|| (item.run)(item.argument, pinned)));
        let mut queue = self.queue.lock();
        if let Some(seat) = seat {
            queue.seats[seat].running = None;
        }
        if item.state.swap(IDLE, Relaxed) == AGAIN {
            queue.push(item);
            self.staff(queue);
        } else {
            drop(queue);
        }
        self.done.all();
    }

    fn work(&'static self, seat: usize) {
        let mut queue = self.queue.lock();
        loop {
            if !queue.on {
                break;
            }
            if let Some(item) = queue.pop() {
                queue.seats[seat].running = Some(item);
                drop(queue);
                self.perform(item, Some(seat));
                queue = self.queue.lock();
                continue;
            }
            queue.idle += 1;
            let late = self.work.wait_for(&mut queue, LINGER);
            queue.idle -= 1;
            if late && queue.head.is_null() {
                break;
            }
        }
        self.leave(queue, seat);
    }

    fn leave(&self, mut queue: Held<'_, Queue>, seat: usize) {
        queue.threads -= 1;
        queue.seats[seat].taken = false;
        drop(queue);
        self.done.all();
    }

    /// Starts a thread if something waits that no thread is idle for. Without a thread, whoever waits finds out.
    fn staff(&'static self, mut queue: Held<'_, Queue>) {
        let seat = queue.seats.iter().position(|s| !s.taken);
        let Some(seat) = seat.filter(|_| queue.on && queue.waiting > queue.idle) else {
            drop(queue);
            return self.work.all();
        };
        queue.threads += 1;
        queue.seats[seat].taken = true;
        let former = queue.seats[seat].handle.take();
        drop(queue);
        // It gave its seat up, so it is about to end.
        former.map(JoinHandle::join);
        let started = if REFUSE.load(Relaxed) {
            Err(std::io::ErrorKind::WouldBlock.into())
        } else {
            std::thread::Builder::new().name("quietus-slab".into()).spawn(move || self.work(seat))
        };
        let mut queue = self.queue.lock();
        match started {
            Ok(handle) => {
                COUNTS.started.add(1);
                // A thread that was so fast that its seat is taken again is let go.
                queue.seats[seat].handle.get_or_insert(handle);
            }
            Err(_) => self.leave(queue, seat),
        }
    }
}

/// Queues an item, for a CPU or [`ANYWHERE`]. False: it is queued already.
pub(crate) fn queue(item: &'static Item, cpu: u32) -> bool {
    let office = &here().office;
    let mut queue = office.queue.lock();
    let this = std::ptr::from_ref(office).cast_mut();
    let state = if item.office.swap(this, Relaxed) == this { item.state.load(Relaxed) } else { IDLE };
    if state == QUEUED || state == AGAIN {
        return false;
    }
    COUNTS.queued.add(1);
    item.cpu.store(cpu, Relaxed);
    if state == RUNNING {
        item.state.store(AGAIN, Relaxed);
    } else {
        queue.push(item);
        office.staff(queue);
    }
    true
}

/// Waits until the item is done; does it, and what is queued before it, if there are no threads.
pub(crate) fn wait(item: &'static Item) {
    let office = &here().office;
    let mut queue = office.queue.lock();
    while item.state.load(Relaxed) != IDLE {
        if queue.threads > 0 {
            office.done.wait(&mut queue);
        } else if let Some(first) = queue.pop() {
            drop(queue);
            office.perform(first, None);
            queue = office.queue.lock();
        } else {
            office.done.wait(&mut queue); // another who waits is at it
        }
    }
}

/// Does what is queued, if there are no threads to do it.
pub(crate) fn run_pending() {
    let office = &here().office;
    loop {
        let mut queue = office.queue.lock();
        if queue.threads > 0 {
            return;
        }
        let Some(item) = queue.pop() else { return };
        drop(queue);
        office.perform(item, None);
    }
}

/// Waits until everything that is queued is done. Not for items.
pub fn settle() {
    let office = &here().office;
    loop {
        run_pending();
        let mut queue = office.queue.lock();
        if queue.head.is_null() && queue.seats.iter().all(|s| s.running.is_none()) {
            return;
        }
        if queue.threads > 0 {
            office.done.wait(&mut queue);
        }
    }
}

/// Are threads to be used?
pub(crate) fn on() -> bool {
    here().office.queue.lock().on
}

/// Whether the allocator may use threads of its own, for flushes and for the ends of caches. They are on unless
/// `QUIETUS_SLAB_WORKERS=off`. Switching them off finishes what is under way and joins them; from then on whoever flushes does the work
/// itself, and the ends of caches wait for the next call that makes, flushes, shrinks, ends or lists caches.
pub fn workers(on: bool) {
    let office = &here().office;
    let mut queue = office.queue.lock();
    queue.on = on;
    if on {
        return office.staff(queue);
    }
    office.work.all();
    while queue.threads > 0 {
        office.done.wait(&mut queue);
    }
    let handles: Vec<_> = queue.seats.iter_mut().filter_map(|s| s.handle.take()).collect();
    drop(queue);
    for handle in handles {
        let _ = handle.join();
    }
    run_pending();
}

crate::stats::counts! {
    /// What the work queue has done since the process began.
    pub struct WorkStats, static COUNTS: Counts {
        /// Items queued: one for each CPU that a flush finds something on, one for the end of a chained cache.
        queued,
        /// Items done by threads of the queue.
        by_threads,
        /// Of these: run on the very CPU that they were queued for.
        pinned,
        /// Items done by whoever waited, or by the next call that came along.
        inline,
        /// Threads started.
        started,
    }
}

/// Statistics of the work queue.
pub fn work_stats() -> WorkStats {
    COUNTS.read()
}

/// Makes the start of threads fail, for tests.
#[doc(hidden)]
pub fn refuse_workers(yes: bool) {
    REFUSE.store(yes, Relaxed);
}
static REFUSE: AtomicBool = AtomicBool::new(false);

/// Moves this thread to a CPU, if the process may run there.
#[cfg(all(target_os = "linux", not(quietus_portable)))]
fn pin(cpu: u32) -> bool {
    let id = cpu as usize;
    // SAFETY: all zero is a valid set; the kernel fills it; `CPU_ISSET` is given a number inside it.
    let may = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        id < libc::CPU_SETSIZE as usize
            && libc::sched_getaffinity(libc::getpid(), size_of_val(&set), &mut set) == 0
            && libc::CPU_ISSET(id, &set)
    };
    let pinned = may && core_affinity::set_for_current(core_affinity::CoreId { id }) && cpu::current() == cpu;
    COUNTS.pinned.add(u64::from(pinned));
    pinned
}

#[cfg(not(all(target_os = "linux", not(quietus_portable))))]
fn pin(_: u32) -> bool {
    let _ = cpu::current;
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    static ITEM: Item = Item::new(run, 0);
    static RUNS: AtomicU32 = AtomicU32::new(0);

    /// Queued for the next time while it runs: a core may end, be used again, and end again, before its item is finished.
    fn run(_: u32, _: bool) {
        if RUNS.fetch_add(1, Relaxed) == 0 {
            assert!(queue(&ITEM, ANYWHERE) && !queue(&ITEM, ANYWHERE), "once more, and no more than once");
        }
    }

    #[test]
    fn s3_5_an_item_that_is_queued_while_it_runs_runs_again() {
        assert!(queue(&ITEM, ANYWHERE));
        wait(&ITEM);
        settle();
        assert_eq!(RUNS.load(Relaxed), 2);
    }
}
