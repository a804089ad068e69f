//! `qsbr::local` in a signal handler, on a thread that is just coming online, going offline, reading. One test, alone in its process.
#![cfg(all(target_os = "linux", not(quietus_loom)))]

use quietus::qsbr::{self, local};
use quietus::slab::SlabBox;
use quietus::{Qsbr, Rcu};
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::{Duration, Instant};

const LIVE: u64 = 0x11fe;

struct Value {
    canary: AtomicU64,
}

impl Drop for Value {
    fn drop(&mut self) {
        self.canary.store(0xdead, SeqCst);
    }
}

static CELL: OnceLock<Rcu<Value, Qsbr>> = OnceLock::new();
static SIGNALS: AtomicU64 = AtomicU64::new(0);
static BUSY: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicBool = AtomicBool::new(false);

fn value() -> SlabBox<Value> {
    SlabBox::new(Value { canary: AtomicU64::new(LIVE) })
}

/// Looks at the value for a while.
fn read(looks: u32) {
    local::with(|reader| {
        let seen = CELL.get().unwrap().load(reader);
        if (0..looks).any(|_| seen.canary.load(SeqCst) != LIVE) {
            WRONG.fetch_add(1, Relaxed);
        }
    });
}

extern "C" fn handler(_: libc::c_int) {
    let n = SIGNALS.fetch_add(1, Relaxed);
    read(20);
    let hook = match n % 4 {
        0 => local::park(),
        1 => local::unpark(),
        2 => local::quiescent(),
        _ => Ok(()),
    };
    if hook.is_err() {
        BUSY.fetch_add(1, Relaxed);
    }
    read(20);
    next_signal();
}

static TIMER: AtomicPtr<libc::c_void> = AtomicPtr::new(std::ptr::null_mut());

/// The next signal comes 20 µs from now: after the handler's end, not while it runs, so that the thread gets on however slow the machine is.
fn next_signal() {
    let soon = libc::timespec { tv_sec: 0, tv_nsec: 20_000 };
    let once = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: soon };
    // SAFETY: made before the first call (after its end the kernel refuses its number); the structure lives through the call, which a
    // handler may make.
    unsafe { libc::timer_settime(TIMER.load(Relaxed), 0, &once, std::ptr::null_mut()) };
}

/// A timer that signals this thread, and no other, once; the handler asks for the next.
fn start_timer() -> libc::timer_t {
    // SAFETY: `handler` is a signal handler; all structures are zeroed, filled in and live through the calls.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut()), 0);
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGALRM;
        event.sigev_notify_thread_id = libc::syscall(libc::SYS_gettid) as libc::c_int;
        let mut timer: libc::timer_t = std::mem::zeroed();
        assert_eq!(libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer), 0);
        TIMER.store(timer, SeqCst);
        next_signal();
        timer
    }
}

#[test]
fn a_handler_reads_and_parks_where_its_thread_does() {
    let cell = CELL.get_or_init(|| Rcu::in_flavour_box(value()));
    local::with(|_| ()); // a handler must not find the thread half registered
    let writer = std::thread::spawn(|| {
        while !DONE.load(SeqCst) {
            let old = cell.replace_box(value());
            if let Err(old) = old.try_reclaim() {
                drop(old);
            }
        }
    });
    let timer = start_timer();
    let end = Instant::now() + Duration::from_millis(2000);
    let mut round = 0u32;
    // A while, and until much has been interrupted; whoever runs the tests ends it if nothing ever is.
    let enough = || SIGNALS.load(Relaxed) > 100 || WRONG.load(Relaxed) > 0;
    while !round.is_multiple_of(64) || Instant::now() < end || !enough() {
        round += 1;
        // Refusals are the handler's business only: nothing is borrowed here.
        local::unpark().unwrap();
        read(round % 30);
        local::quiescent().unwrap();
        read(round % 30);
        local::park().unwrap();
        read(round % 30);
        local::offline(|| ()).unwrap();
    }
    // SAFETY: the timer is ours, and deleted once; a signal that is still pending finds everything in place.
    unsafe { libc::timer_delete(timer) };
    DONE.store(true, SeqCst);
    writer.join().unwrap();
    local::park().unwrap();
    qsbr::domain().barrier();
    assert_eq!(WRONG.load(Relaxed), 0, "values read after their end");
    println!("{} signals, {} refusals, {round} rounds", SIGNALS.load(Relaxed), BUSY.load(Relaxed));
}
