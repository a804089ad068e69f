//! Further workers: started where user code piles up, or keeps the worker; ended when there is nothing left for them to do.
//!
//! Handed to by [`reclaim`](crate::reclaim) (a worker that leaves others behind it in the queue), and by whoever notices that the worker
//! is kept: [`collect`](crate::collect), [`throttle`](crate::throttle), those who wait for a task. Hands to the rounds of
//! [`worker`](crate::worker).
//!
//! The first worker alone sleeps without a timer, and is the one that retirers wake. A further one does the same rounds, looks again by
//! itself, and ends when it has run no user code for [`LINGER`] and another one is free. None is started where a thread cannot be: in a
//! signal handler, or under a lock of the allocator.
//!
//! # Forks
//! The roster is locked only by who has the queue's lock, which a fork takes; so a child never finds it taken. Who it lists is gone
//! there: the process id says so.
//!
//! # Ordering
//! None but the locks': what seats say are hints, and a stale one makes a worker too many, or one a little later.

use crate::event::event;
use crate::grace::GracePeriods;
use crate::queue::Queue;
use crate::shared::Shared;
use crate::sync::{
    AtomicBool, AtomicU64, Held, Instant, Lock,
    Ordering::{Acquire, Relaxed},
    thread::{self, JoinHandle},
};
use crate::worker;
use quietus_slab::raw;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Most workers there can be: half of the reclaims that may run at a time, so that retirers and barriers find a place beside them.
pub(crate) const MOST: usize = 16;
/// So many batches with user code in the queue are too many for those who are at it. (16: some 4,000 destructors.)
const BACKLOG: u32 = if cfg!(quietus_shuttle) { 1 } else { 16 };
/// A worker that has been in one batch for so long is kept.
pub(crate) const LATE: Duration = Duration::from_millis(5);
/// How long a further worker stays without user code to run.
const LINGER: Duration = Duration::from_millis(if cfg!(quietus_shuttle) { 8 } else { 100 });

/// All workers of one `Shared`.
pub(crate) struct Crew {
    born: Instant,
    /// The first worker's, then the others'.
    seats: Box<[Seat]>,
    roster: Lock<Roster>,
}

/// What one worker is doing.
#[derive(Default)]
struct Seat {
    /// Since when it has been running user code, in nanoseconds since `born`; 0: it is not.
    calling: AtomicU64,
    /// It sleeps.
    parked: AtomicBool,
    /// Somebody sits here.
    taken: AtomicBool,
}

/// The further workers: that of seat 1 first.
struct Roster {
    process: u32,
    places: Vec<Place>,
}

enum Place {
    Free,
    /// Somebody is starting it.
    Starting,
    Taken(JoinHandle<()>),
    /// It is leaving, or has left.
    Left(JoinHandle<()>),
}

impl Crew {
    pub(crate) fn new(most: usize) -> Crew {
        let most = most.clamp(1, MOST);
        let places = (1..most).map(|_| Place::Free).collect();
        Crew {
            born: Instant::now(),
            seats: (0..most).map(|_| Seat::default()).collect(),
            roster: Lock::new(Roster { process: std::process::id(), places }),
        }
    }

    /// Never 0.
    fn now(&self) -> u64 {
        self.born.elapsed().as_nanos() as u64 + 1
    }

    /// A worker takes a seat that is free, or gives it up.
    pub(crate) fn sit(&self, seat: usize, taken: bool) {
        let seat = &self.seats[seat];
        // Relaxed: hints. In a fork child they may be those of one who is gone.
        seat.calling.store(0, Relaxed);
        seat.parked.store(false, Relaxed);
        seat.taken.store(taken, Relaxed);
    }

    /// Sleeps on a seat: until woken, or so long.
    pub(crate) fn rest(&self, seat: usize, pause: Option<Duration>) {
        let parked = &self.seats[seat].parked;
        // Relaxed: hints. Who takes the mark back wakes, too, and then this thread does not sleep.
        parked.store(true, Relaxed);
        match pause {
            Some(pause) => thread::park_timeout(pause),
            None => thread::park(),
        }
        // Relaxed: as above.
        parked.store(false, Relaxed);
    }

    fn is_parked(&self, seat: usize) -> bool {
        // Relaxed: a hint.
        self.seats[seat].parked.load(Relaxed)
    }

    /// Has user code had this worker for so long?
    fn is_kept(&self, seat: usize, patience: Duration) -> bool {
        // Relaxed: a hint.
        let since = self.seats[seat].calling.load(Relaxed);
        since != 0 && self.now().saturating_sub(since) >= patience.as_nanos() as u64
    }

    fn roster(&self, _queue: &Held<'_, Queue>) -> Held<'_, Roster> {
        let mut roster = self.roster.lock();
        let process = std::process::id();
        if roster.process != process {
            roster.process = process;
            for (i, place) in roster.places.iter_mut().enumerate() {
                // A thread of another process can be neither joined nor detached.
                std::mem::forget(std::mem::replace(place, Place::Free));
                self.sit(i + 1, false);
            }
        }
        roster
    }
}

/// Until this is dropped a worker runs user code.
pub(crate) struct Calling<'c>(Option<(&'c Seat, u64)>);

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        if let Some((seat, before)) = self.0 {
            // Relaxed: a hint.
            seat.calling.store(before, Relaxed);
        }
    }
}

impl<G: GracePeriods> Shared<G> {
    /// The calling thread is about to run user code; that matters if it is one of our workers.
    pub(crate) fn calling(&self) -> Calling<'_> {
        Calling(worker::seat_of(self).map(|seat| {
            let seat = &self.crew.seats[seat];
            // Relaxed: a hint, written by this thread only.
            let before = seat.calling.load(Relaxed);
            seat.calling.store(self.crew.now(), Relaxed);
            (seat, before)
        }))
    }

    /// A worker has taken a batch with user code. If it leaves many behind it another one wakes, or is started.
    pub(crate) fn share_out(&self, queue: Held<'_, Queue>) {
        if queue.calls() < BACKLOG || worker::seat_of(self).is_none() {
            return;
        }
        let roster = self.crew.roster(&queue);
        for (i, place) in roster.places.iter().enumerate() {
            if let Place::Taken(handle) = place
                // Relaxed: a hint; see `rest`.
                && self.crew.is_parked(i + 1) && self.crew.seats[i + 1].parked.swap(false, Relaxed)
            {
                return handle.thread().unpark();
            }
        }
        // Relaxed: as above.
        if self.crew.is_parked(0) && self.crew.seats[0].parked.swap(false, Relaxed) {
            drop(roster);
            drop(queue);
            return self.wake();
        }
        self.reinforce(queue, roster);
    }

    /// User code has kept the worker for so long, and all others: then one more is started. From retirers, once for each block they open, and
    /// from those who wait.
    pub(crate) fn relieve_worker(&self, patience: Duration) {
        let crew = &self.crew;
        // Relaxed: the next who comes by sees it.
        if crew.seats.len() < 2 || !crew.is_kept(0, patience) || self.lost.load(Relaxed) || raw::held() {
            return;
        }
        let Some(queue) = self.queue.try_lock() else { return };
        let roster = crew.roster(&queue);
        let free = |(i, place): (usize, &Place)| match place {
            Place::Starting => true,
            Place::Taken(_) => !crew.is_kept(i + 1, patience),
            Place::Free | Place::Left(_) => false,
        };
        if !roster.places.iter().enumerate().any(free) {
            self.reinforce(queue, roster);
        }
    }

    /// Starts one more, if there may be one more.
    fn reinforce(&self, queue: Held<'_, Queue>, mut roster: Held<'_, Roster>) {
        // Acquire: pairs with the Release in `stop`, which then looks at the roster under the lock.
        if self.stopping.load(Acquire) {
            return;
        }
        let vacant = |place: &Place| matches!(place, Place::Free | Place::Left(_));
        let Some(at) = roster.places.iter().position(vacant) else { return };
        let before = std::mem::replace(&mut roster.places[at], Place::Starting);
        drop(roster);
        drop(queue);
        // Without the locks from here: starting a thread allocates.
        if let Place::Left(handle) = before {
            let _ = handle.join();
        }
        self.crew.sit(at + 1, true);
        let me = self.me.get().and_then(Weak::upgrade);
        let started = me.and_then(|me| worker::start_further(me, at + 1).ok());
        if started.is_some() {
            self.counters.further_workers.add(1);
        }
        if started.is_none() {
            self.crew.sit(at + 1, false);
        }
        let queue = self.lock_queue();
        self.crew.roster(&queue).places[at] = started.map_or(Place::Free, Place::Taken);
    }

    /// What a further worker does, in `seat`.
    pub(crate) fn assist(&self, seat: usize) {
        event!(debug, seat, "further worker started");
        let (process, period) = (std::process::id(), self.config.age / 2);
        let mut useful = Instant::now();
        // Acquire: pairs with the Release in `stop`. A fork child has come here by a deferred function of its own, and has a worker.
        while !self.stopping.load(Acquire) && std::process::id() == process {
            worker::guarded(|| {
                let before = worker::calls_here();
                let left = self.round();
                if worker::calls_here() != before {
                    useful = Instant::now();
                }
                // Where the first one is at it, it is there for what waits for a grace period.
                let soon = left && !self.crew.is_parked(0);
                self.crew.rest(seat, Some(if soon { worker::SHORT.min(period) } else { period }));
            });
            if useful.elapsed() > LINGER && self.leave(seat) {
                break;
            }
        }
        self.crew.sit(seat, false);
        event!(debug, seat, "further worker stopped");
    }

    /// A further worker ends, if another one is free to do what comes. (One that gets up just now finds this one gone, and stays.)
    fn leave(&self, seat: usize) -> bool {
        let queue = self.lock_queue();
        let mut roster = self.crew.roster(&queue);
        if !(0..self.crew.seats.len()).any(|other| other != seat && self.crew.is_parked(other)) {
            return false;
        }
        let place = &mut roster.places[seat - 1];
        match std::mem::replace(place, Place::Free) {
            Place::Taken(handle) => {
                *place = Place::Left(handle);
                true
            }
            // Whoever has started this thread has not come so far as to put it down.
            other => {
                *place = other;
                false
            }
        }
    }

    /// Ends the further workers, after `stopping` was set; waits for their end only if asked to.
    pub(crate) fn dismiss(&self, wait: bool) {
        let handles: Vec<JoinHandle<()>> = loop {
            let queue = self.lock_queue();
            let mut roster = self.crew.roster(&queue);
            if !roster.places.iter().any(|place| matches!(place, Place::Starting)) {
                let mut places = [const { Place::Free }; MOST];
                places.iter_mut().zip(&mut roster.places).for_each(|(to, from)| std::mem::swap(to, from));
                drop(roster);
                drop(queue);
                let taken = |place| match place {
                    Place::Taken(handle) | Place::Left(handle) => Some(handle),
                    Place::Free | Place::Starting => None,
                };
                break places.into_iter().filter_map(taken).collect();
            }
            drop(roster);
            drop(queue);
            thread::sleep(Duration::from_micros(50));
        };
        for handle in handles {
            handle.thread().unpark();
            if wait {
                let _ = handle.join();
            }
        }
    }

    /// How many workers there are, the first included. A look.
    pub(crate) fn workers(&self) -> u32 {
        // Relaxed: a look.
        let lost = u32::from(self.lost.load(Relaxed));
        let taken = self.crew.seats.iter().filter(|seat| seat.taken.load(Relaxed)).count() as u32;
        taken.saturating_sub(lost)
    }
}

/// As many as there are CPUs, but four at most.
pub(crate) fn usual() -> usize {
    static CORES: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *quietus_slab::raw::once(&CORES, || std::thread::available_parallelism().map_or(1, |n| n.get().min(4)))
}

/// Starts a thread of that name that holds on to `shared`.
pub(crate) fn spawn<G: GracePeriods>(
    shared: Arc<Shared<G>>,
    name: String,
    body: impl FnOnce(&Shared<G>) + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name).spawn(move || body(&shared))
}
