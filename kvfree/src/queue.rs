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

use crate::grace::Cookie;
use crate::lane::Kind;
use quietus_slab::raw::BlockNo;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// Reclaims that may run at a time.
const RUNNING: usize = 16;

pub(crate) struct Queue {
    /// Memory: anybody may reclaim it. Calls: user code, run by workers, barriers and ticks only.
    plain: Fifo,
    calls: Fifo,
    last: u64,
}

/// Numbers of the batches being reclaimed; 0: free place.
#[derive(Default)]
pub(crate) struct Running([AtomicU64; RUNNING]);

#[derive(Clone, Copy)]
struct Fifo {
    head: BlockNo,
    tail: BlockNo,
}

const EMPTY: Fifo = Fifo { head: BlockNo::NONE, tail: BlockNo::NONE };

/// A batch taken off the queue.
pub(crate) struct Batch {
    /// Chain of blocks.
    pub(crate) first: BlockNo,
    pub(crate) cookie: Cookie,
    place: usize,
}

/// Size of a chain.
#[derive(Default, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
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
        Queue { plain: EMPTY, calls: EMPTY, last: 0 }
    }

    /// Appends a chain that was detached before `cookie` was taken. All its blocks are of one kind.
    pub(crate) fn push(&mut self, first: BlockNo, cookie: Cookie) {
        self.last += 1;
        let head = first.block();
        // Relaxed: queued blocks are the queue's, under its lock (S).
        head.cookie.store(cookie.0, Relaxed);
        head.opened.store(self.last, Relaxed);
        head.batch.store(BlockNo::NONE.get(), Relaxed);
        let fifo = if Kind::of(first) == Kind::Call { &mut self.calls } else { &mut self.plain };
        if fifo.tail.is_some() {
            // Relaxed: queued blocks are the queue's, under its lock (S).
            fifo.tail.block().batch.store(first.get(), Relaxed);
        } else {
            fifo.head = first;
        }
        fifo.tail = first;
    }

    /// Cookie of the oldest batch.
    pub(crate) fn oldest(&self) -> Option<Cookie> {
        [&self.plain, &self.calls].iter().filter_map(|f| f.cookie()).min()
    }

    /// Cookie of the oldest batch that anybody may reclaim.
    pub(crate) fn oldest_plain(&self) -> Option<Cookie> {
        self.plain.cookie()
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.plain.head.is_some() && !self.calls.head.is_some()
    }

    /// Number of the youngest batch.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Takes the oldest batch for which `elapsed` holds; those with calls only if asked for. It counts as running until
    /// [`Running::finished`].
    pub(crate) fn take(&mut self, running: &Running, calls: bool, elapsed: impl Fn(Cookie) -> bool) -> Option<Batch> {
        // Acquire: pairs with `finished`; whoever takes the lock later, a barrier for one, gets it from us.
        let place = running.0.iter().position(|n| n.load(Acquire) == 0)?;
        let ready = |f: &Fifo| f.cookie().filter(|&c| elapsed(c));
        let fifo = match (ready(&self.plain), ready(&self.calls).filter(|_| calls)) {
            (Some(p), Some(c)) if c < p => &mut self.calls,
            (Some(_), _) => &mut self.plain,
            (None, Some(_)) => &mut self.calls,
            (None, None) => return None,
        };
        let first = fifo.head;
        // Relaxed: queued blocks are the queue's, under its lock (S).
        fifo.head = BlockNo::from_raw(first.block().batch.load(Relaxed));
        if !fifo.head.is_some() {
            fifo.tail = BlockNo::NONE;
        }
        // Relaxed: queued blocks are the queue's, under its lock (S).
        let number = first.block().opened.load(Relaxed);
        // Relaxed: read under the lock, or as 0.
        running.0[place].store(number, Relaxed);
        Some(Batch { first, cookie: Cookie(first.block().cookie.load(Relaxed)), place })
    }

    /// Is every batch up to `number` off the queue and finished?
    pub(crate) fn done(&self, running: &Running, number: u64) -> bool {
        let waiting = [&self.plain, &self.calls].iter().any(|f| f.number().is_some_and(|n| n <= number));
        // Acquire: pairs with `finished`: what the reclaim freed.
        !waiting && !running.0.iter().map(|n| n.load(Acquire)).any(|n| n != 0 && n <= number)
    }
}

impl Fifo {
    fn cookie(&self) -> Option<Cookie> {
        // Relaxed: queued blocks are the queue's, under its lock (S).
        self.head.is_some().then(|| Cookie(self.head.block().cookie.load(Relaxed)))
    }
    fn number(&self) -> Option<u64> {
        // Relaxed: queued blocks are the queue's, under its lock (S).
        self.head.is_some().then(|| self.head.block().opened.load(Relaxed))
    }
}

impl Running {
    /// The batch's objects are free.
    pub(crate) fn finished(&self, batch: &Batch) {
        // Release: pairs with the Acquire in `done`.
        self.0[batch.place].store(0, Release);
    }
}
