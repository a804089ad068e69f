//! Forks: a gate that keeps every thread out of the allocator's locks while the process is copied, and tells keepers of freed objects.
//!
//! Handed to by [`lock`](crate::lock), each of whose locks is taken inside the gate, and whose [`once`](lock::once) has the
//! handlers installed; hands to the [`hook`](crate::hook)s.
//!
//! A child has one thread. What another one held at that moment would stay locked for ever, with what it guards half-done. So the
//! thread that forks closes the gate, waits until nobody is inside (for [`PATIENCE`] at most: a page source or an account that takes
//! longer in a lock is on its own), takes the slots of [`percpu`](crate::percpu), and opens everything again in both processes. Fast
//! paths by restartable sequences are not asked: what a vanished thread has not committed has not happened.
//!
//! By `pthread_atfork`, since whoever notices a new process id later is too late. `QUIETUS_ATFORK=off` switches the handlers off; a child
//! may then `exec` or `_exit`, and nothing else.
//!
//! # Ordering
//! Pair **Y**, store buffering: whoever wants a lock counts itself inside, then looks at the gate; whoever forks closes the gate, then
//! looks at the counts. All four are SeqCst, so one of them sees the other; on x86-64 the locked addition is all that this costs. Leaving is Release: what was done inside is in the
//! copy.

use crate::hook;
use crate::lock::{self, Pass};
use crate::percpu::{self, Lock};
use std::cell::Cell;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a fork waits for threads inside.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks.
const LOOK: Duration = Duration::from_micros(20);

/// The thread whose turn it is to fork, or 0.
static TURN: AtomicUsize = AtomicUsize::new(0);
/// The thread that has closed the gate, or 0: it is open.
static FORKER: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Forks of this thread's, under way, that were not prepared for.
    static SKIPPED: Cell<u32> = const { Cell::new(0) };
}

/// How many threads are inside, spread over cache lines.
static INSIDE: [Stripe; STRIPES] = [const { Stripe(AtomicU32::new(0)) }; STRIPES];
const STRIPES: usize = 32;

#[repr(align(64))]
struct Stripe(AtomicU32);

/// Which stripe a thread counts itself in: any number of its own serves.
fn stripe(thread: usize) -> &'static AtomicU32 {
    &INSIDE[(thread >> 8).wrapping_mul(0x9e37_79b9) % STRIPES].0
}

/// Goes inside, unless the gate is closed.
pub(crate) fn try_enter(thread: usize) -> bool {
    let count = stripe(thread);
    // SeqCst, and SeqCst: counted before the look (Y). The look also acquires the opening, which gives the slots back.
    count.fetch_add(1, SeqCst);
    let open = FORKER.load(SeqCst) == 0;
    if !open {
        // Release: nothing was done inside.
        count.fetch_sub(1, Release);
    }
    open
}

/// Goes inside; waits while a fork is under way.
pub(crate) fn enter(thread: usize) {
    while !try_enter(thread) {
        std::thread::sleep(LOOK);
    }
}

/// Goes outside.
pub(crate) fn leave(thread: usize) {
    // Release: pairs with the look at the counts in `close` (Y).
    stripe(thread).fetch_sub(1, Release);
}

/// What a fork holds until it is over: the slots; and a mark on its thread as if that held a lock, so that it passes the gate, and its
/// signal handlers keep out.
struct Frozen {
    slots: Vec<Lock>,
    pass: Pass,
}

static FROZEN: Mutex<Option<Frozen>> = Mutex::new(None);

fn frozen() -> MutexGuard<'static, Option<Frozen>> {
    FROZEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has forks tell us. Once for the process; later calls do nothing.
pub(crate) fn install() {
    // Not a `Once`, which a child might wait for.
    static DONE: AtomicBool = AtomicBool::new(false);
    // Relaxed: nothing is handed on.
    if DONE.load(Relaxed) || DONE.swap(true, Relaxed) {
        return;
    }
    if std::env::var_os("QUIETUS_ATFORK").is_none_or(|setting| setting != "off") {
        #[cfg(all(target_os = "linux", not(miri)))]
        // SAFETY: the handlers are functions of this crate, which is never unloaded while its threads run.
        unsafe {
            libc::pthread_atfork(Some(prepare), Some(parent), Some(child));
        }
    }
}

#[cfg_attr(not(all(target_os = "linux", not(miri))), allow(dead_code))]
extern "C" fn prepare() {
    let me = lock::thread();
    // Relaxed: this thread's own store, if it is its number.
    if lock::inside() || TURN.load(Relaxed) == me {
        // In a signal handler that interrupted the allocator, or another fork: its child may `exec`.
        return SKIPPED.with(|skipped| skipped.set(skipped.get() + 1));
    }
    // Acquire: one fork at a time, after the one before.
    while TURN.compare_exchange(0, me, Acquire, Relaxed).is_err() {
        std::thread::sleep(LOOK);
    }
    hook::before_fork();
    // Before the gate closes: a signal handler of this thread's would wait there for ever.
    let pass = Pass::new();
    // SeqCst: closed before the look (Y).
    FORKER.store(me, SeqCst);
    let end = Instant::now() + PATIENCE;
    // SeqCst: the look (Y); what was done inside is in the copy.
    while INSIDE.iter().any(|stripe| stripe.0.load(SeqCst) != 0) && Instant::now() < end {
        std::thread::sleep(LOOK);
    }
    let slots = percpu::take_slots(end);
    hook::at_fork();
    *frozen() = Some(Frozen { slots, pass });
}

#[cfg_attr(not(all(target_os = "linux", not(miri))), allow(dead_code))]
extern "C" fn parent() {
    go_on(false);
}

#[cfg_attr(not(all(target_os = "linux", not(miri))), allow(dead_code))]
extern "C" fn child() {
    go_on(true);
}

fn go_on(child: bool) {
    let skipped = SKIPPED.with(Cell::get);
    if skipped > 0 {
        return SKIPPED.with(|count| count.set(skipped - 1));
    }
    let Some(Frozen { slots, pass }) = frozen().take() else { return };
    drop(slots);
    if child {
        // Relaxed: the child has one thread. Whoever was inside after all is not there.
        INSIDE.iter().for_each(|stripe| stripe.0.store(0, Relaxed));
    }
    // Release: whoever comes in finds the slots given back.
    FORKER.store(0, Release);
    drop(pass);
    hook::after_fork(child);
    // Release: pairs with the exchange in `prepare`.
    TURN.store(0, Release);
}

#[cfg(all(test, target_os = "linux", not(miri)))]
mod tests {
    use super::*;
    use crate::lock::once;
    use std::sync::OnceLock;
    use std::sync::atomic::AtomicBool;

    /// Another thread is at it when the fork comes, and takes its time.
    fn child_finds_it_made() -> bool {
        let (cell, begun, over) = (OnceLock::new(), AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|s| {
            s.spawn(|| {
                once(&cell, || {
                    begun.store(true, SeqCst);
                    while FORKER.load(SeqCst) == 0 && !over.load(SeqCst) {
                        std::thread::yield_now();
                    }
                    std::thread::sleep(Duration::from_millis(50));
                })
            });
            while !begun.load(SeqCst) {
                std::thread::yield_now();
            }
            // SAFETY: the child looks at a word, and ends.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // SAFETY: the end.
                unsafe { libc::_exit(i32::from(cell.get().is_none())) }
            }
            over.store(true, SeqCst);
            let mut status = 0;
            // SAFETY: our own child.
            assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
            status == 0
        })
    }

    /// (On a busy machine a fork's patience may end first: not each time.)
    #[test]
    fn a_child_finds_made_what_was_being_made() {
        assert!((0..20).any(|_| child_finds_it_made()));
    }
}
