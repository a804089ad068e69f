//! Batches: chains of closed blocks, each chain with the one cookie taken after it was detached, in the order of their cookies.
//!
//! Handed to by [`collect`](crate::collect) and [`drain`](crate::drain), which detach under the queue's lock, so that nothing is
//! ever between a CPU and the queue for a barrier to miss; hands to [`reclaim`](crate::reclaim).
//!
//! # Layout
//! No memory is allocated: a batch is its first block, which carries the cookie (`cookie`), the batch's number (`opened`) and the
//! link to the next batch (`batch`); the other blocks hang on `next`.
//!
//! # Ordering
//! Everything but the end of a reclaim is under the lock; that is a Release store to `running`, read with Acquire by a barrier
//! under the lock, so that a retirer who helps never waits for the lock. Pair **S**: a pointer's last commit into its block, then the detaching, then the cookie.

use crate::ages::Ages;
use crate::grace::Cookie;
use crate::lane::{Kind, Lane, MIXED, lane_of};
use crate::stats::Size;
use crate::sync::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use quietus_slab::raw::BlockNo;
use std::time::Duration;

/// Reclaims that may run at a time: those of all workers there can be, and as many by others.
const RUNNING: usize = 2 * crate::crew::MOST;

pub(crate) struct Queue {
    /// Memory: anybody may reclaim it. Calls: user code (destructors, too), run by workers, barriers and ticks only.
    plain: Fifo,
    calls: Fifo,
    /// Batches in `calls`.
    many_calls: u32,
    last: u64,
    ages: Ages,
    /// The process is about to fork: nothing is taken.
    pub(crate) still: bool,
}

/// The batches being reclaimed, each as its number and, in the lowest 16 bits, its lane; 0: free place.
#[derive(Default)]
pub(crate) struct Running([AtomicU64; RUNNING]);

#[derive(Clone, Copy)]
struct Fifo {
    head: BlockNo,
    tail: BlockNo,
}

const EMPTY: Fifo = Fifo { head: BlockNo::NONE, tail: BlockNo::NONE };

/// Which batches to take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// Those without user code.
    Plain,
    All,
    /// Those that may hold objects of the cache with this id.
    Cache(Lane),
}

impl Want {
    fn lane(self, lane: Lane) -> bool {
        match self {
            Want::Cache(id) => lane == id || lane == MIXED,
            _ => true,
        }
    }
}

/// A batch taken off the queue.
pub(crate) struct Batch {
    /// Chain of blocks.
    pub(crate) first: BlockNo,
    pub(crate) cookie: Cookie,
    /// It holds user code.
    pub(crate) calls: bool,
    place: usize,
}

/// Objects and bytes in a chain that the caller owns.
pub(crate) fn measure(mut b: BlockNo) -> Size {
    let mut size = Size::default();
    while b.is_some() {
        size.objects += Kind::of(b).objects(b.block().filled());
        size.bytes += b.block().bytes() as u64;
        b = b.block().next();
    }
    size
}

impl Queue {
    pub(crate) const fn new() -> Self {
        Queue { plain: EMPTY, calls: EMPTY, many_calls: 0, last: 0, ages: Ages::new(), still: false }
    }

    /// Appends a chain that was detached before `cookie` was taken. All its blocks are of one lane.
    pub(crate) fn push(&mut self, first: BlockNo, cookie: Cookie, calls: bool) {
        self.last += 1;
        let head = first.block();
        // Relaxed: queued blocks are the queue's, under its lock (S).
        head.cookie.store(cookie.0, Relaxed);
        head.opened.store(self.last, Relaxed);
        head.batch.store(BlockNo::NONE.get(), Relaxed);
        self.many_calls += u32::from(calls);
        let fifo = if calls { &mut self.calls } else { &mut self.plain };
        if fifo.tail.is_some() {
            // Relaxed: queued blocks are the queue's, under its lock (S).
            fifo.tail.block().batch.store(first.get(), Relaxed);
        } else {
            fifo.head = first;
        }
        fifo.tail = first;
        let heads = [self.plain.head, self.calls.head].into_iter().filter(|b| b.is_some());
        // Relaxed: as above.
        let oldest = heads.map(|b| b.block().opened.load(Relaxed)).min().unwrap_or(self.last);
        self.ages.note(self.last, oldest);
    }

    /// Cookie of the oldest batch.
    pub(crate) fn oldest(&self) -> Option<Cookie> {
        [&self.plain, &self.calls].iter().filter_map(|f| f.cookie()).min()
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.plain.head.is_some() && !self.calls.head.is_some()
    }

    /// How many batches with user code are queued.
    pub(crate) fn calls(&self) -> u32 {
        self.many_calls
    }

    /// Is a batch without user code queued?
    pub(crate) fn has_plain(&self) -> bool {
        self.plain.head.is_some()
    }

    /// Every batch, by its first block.
    pub(crate) fn each(&self, mut f: impl FnMut(BlockNo)) {
        for fifo in [&self.plain, &self.calls] {
            let mut at = fifo.head;
            while at.is_some() {
                f(at);
                at = after(at);
            }
        }
    }

    /// What all batches hold: a walk over everything.
    pub(crate) fn size(&self) -> Size {
        let mut sum = Size::default();
        self.each(|batch| {
            let size = measure(batch);
            sum.objects += size.objects;
            sum.bytes += size.bytes;
        });
        sum
    }

    /// How long the oldest batch has been queued.
    pub(crate) fn oldest_age(&self) -> Option<Duration> {
        let heads = [self.plain.head, self.calls.head].into_iter().filter(|b| b.is_some());
        // Relaxed: queued blocks are the queue's, under its lock (S).
        let oldest = heads.map(|b| b.block().opened.load(Relaxed)).min()?;
        self.ages.age(oldest)
    }

    /// Number of the youngest batch.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Takes the oldest wanted batch for which `elapsed` holds. It counts as running until [`Running::finished`].
    pub(crate) fn take(&mut self, running: &Running, want: Want, elapsed: impl Fn(Cookie) -> bool) -> Option<Batch> {
        let ready = |f: &Fifo| f.find(want).filter(|&(_, b)| elapsed(cookie_of(b)));
        let calls = if want == Want::Plain { None } else { ready(&self.calls) };
        let (calls, (before, first)) = match (ready(&self.plain), calls) {
            (Some(p), Some(c)) if cookie_of(c.1) < cookie_of(p.1) => (true, c),
            (Some(p), _) => (false, p),
            (None, Some(c)) => (true, c),
            (None, None) => return None,
        };
        // Acquire: pairs with `finished`; whoever takes the lock later, a barrier for one, gets it from us.
        let place = running.0.iter().position(|n| n.load(Acquire) == 0).filter(|_| !self.still)?;
        self.many_calls -= u32::from(calls);
        let fifo = if calls { &mut self.calls } else { &mut self.plain };
        fifo.remove(before, first);
        // Relaxed: queued blocks are the queue's, under its lock (S).
        let number = first.block().opened.load(Relaxed);
        // Relaxed: read under the lock, or as 0.
        running.0[place].store(number << 16 | u64::from(lane_of(first)), Relaxed);
        Some(Batch { first, cookie: cookie_of(first), calls, place })
    }

    /// Is every wanted batch up to `number` off the queue and finished?
    pub(crate) fn done(&self, running: &Running, want: Want, number: u64) -> bool {
        let mut fifos = [&self.plain, &self.calls].into_iter();
        // Relaxed: queued blocks are the queue's, under its lock (S).
        let old = |b: BlockNo| b.block().opened.load(Relaxed) <= number;
        // Acquire: pairs with `finished`: what the reclaim freed.
        let mut now = running.0.iter().map(|n| n.load(Acquire)).filter(|&n| n != 0);
        !fifos.any(|f| f.find(want).is_some_and(|(_, b)| old(b)))
            && !now.any(|n| n >> 16 <= number && want.lane(n as Lane))
    }
}

impl Fifo {
    fn cookie(&self) -> Option<Cookie> {
        self.head.is_some().then(|| cookie_of(self.head))
    }

    /// The oldest wanted batch, and the one before it. A look at the first, unless a single cache's are wanted.
    fn find(&self, want: Want) -> Option<(BlockNo, BlockNo)> {
        let (mut before, mut at) = (BlockNo::NONE, self.head);
        while at.is_some() {
            if want.lane(lane_of(at)) {
                return Some((before, at));
            }
            (before, at) = (at, after(at));
        }
        None
    }

    fn remove(&mut self, before: BlockNo, b: BlockNo) {
        let next = after(b);
        if before.is_some() {
            // Relaxed: queued blocks are the queue's, under its lock (S).
            before.block().batch.store(next.get(), Relaxed);
        } else {
            self.head = next;
        }
        if !next.is_some() {
            self.tail = before;
        }
    }
}

fn cookie_of(b: BlockNo) -> Cookie {
    // Relaxed: queued blocks are the queue's, under its lock (S).
    Cookie(b.block().cookie.load(Relaxed))
}

fn after(b: BlockNo) -> BlockNo {
    // Relaxed: queued blocks are the queue's, under its lock (S).
    BlockNo::from_raw(b.block().batch.load(Relaxed))
}

impl Running {
    /// Is nothing being reclaimed?
    pub(crate) fn is_idle(&self) -> bool {
        // Acquire: pairs with `finished`.
        self.0.iter().all(|n| n.load(Acquire) == 0)
    }

    /// Whoever was reclaiming does not exist any more.
    pub(crate) fn forget(&self) {
        // Relaxed: in a fork child, which has one thread.
        self.0.iter().for_each(|n| n.store(0, Relaxed));
    }

    /// The batch's objects are free.
    pub(crate) fn finished(&self, batch: &Batch) {
        // Release: pairs with the Acquire in `done`.
        self.0[batch.place].store(0, Release);
    }
}
