//! A signal handler that allocates and frees on the thread that is just doing the same. One test, alone in its process.
#![cfg(target_os = "linux")]

use quietus_slab::{Cache, SlabBox};
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::{Duration, Instant};

type Object = [u64; 8];
static CACHE: OnceLock<Cache<Object>> = OnceLock::new();
static SIGNALS: AtomicU64 = AtomicU64::new(0);
static BEATS: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicBool = AtomicBool::new(false);

const KEPT: usize = 64;
thread_local! {
    /// What the handler keeps from one signal to the next.
    static HELD: Cell<[*mut Object; KEPT]> = const { Cell::new([std::ptr::null_mut(); KEPT]) };
}

fn check(b: &Object) {
    if b.iter().any(|&w| w != b[0]) {
        WRONG.fetch_add(1, Relaxed);
    }
}

extern "C" fn handler(_: libc::c_int) {
    let n = SIGNALS.fetch_add(1, Relaxed);
    let Some(cache) = CACHE.get() else { return };
    let mut held = HELD.get();
    for i in 0..4 {
        let slot = &mut held[(n as usize * 4 + i) % KEPT];
        if let Some(old) = std::ptr::NonNull::new(*slot) {
            // SAFETY: from `into_raw` below; the handler does not interrupt itself.
            let old = unsafe { SlabBox::from_raw(old) };
            check(&old);
            drop(old);
        }
        // Memory may be out of reach here, never wrong.
        *slot = cache.try_alloc([n; 8]).map_or(std::ptr::null_mut(), |b| SlabBox::into_raw(b).as_ptr());
    }
    HELD.set(held);
    next_signal();
}

static TIMER: AtomicPtr<libc::c_void> = AtomicPtr::new(std::ptr::null_mut());

/// The next signal comes 50 µs from now: after the handler's end, not while it runs, so that the thread gets on however slow the machine is.
fn next_signal() {
    let soon = libc::timespec { tv_sec: 0, tv_nsec: 50_000 };
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
fn a_handler_allocates_and_frees_where_its_thread_does() {
    // A deadlock cannot be left by unwinding: say so and end.
    std::thread::spawn(|| {
        let mut last = 0;
        while !DONE.load(SeqCst) {
            std::thread::sleep(Duration::from_secs(60));
            let now = BEATS.load(Relaxed);
            if now == last && !DONE.load(SeqCst) {
                eprintln!("deadlock: a handler waits for its own thread ({} signals)", SIGNALS.load(Relaxed));
                std::process::abort();
            }
            last = now;
        }
    });
    let cache = CACHE.get_or_init(|| Cache::new("signalled"));
    drop(cache.alloc([0; 8]));
    let timer = start_timer();
    let end = Instant::now() + Duration::from_millis(1500);
    let mut held: Vec<SlabBox<Object>> = Vec::new();
    let mut round = 0u64;
    // A while, and until much has been interrupted; whoever runs the tests ends it if nothing ever is.
    while Instant::now() < end || SIGNALS.load(Relaxed) <= 100 && WRONG.load(Relaxed) == 0 {
        round += 1;
        BEATS.fetch_add(1, Relaxed);
        // Long runs of either kind go through blocks, barn and slabs, under the node's lock.
        for i in 0..1000 {
            held.push(cache.alloc([round ^ i; 8]));
        }
        held.drain(..).for_each(|b| check(&b));
        if round.is_multiple_of(16) {
            cache.shrink();
        }
    }
    // SAFETY: the timer made above.
    unsafe { libc::timer_delete(timer) };
    DONE.store(true, SeqCst);
    for p in HELD.get().into_iter().filter_map(std::ptr::NonNull::new) {
        // SAFETY: the handler's, which does not run any more.
        let left = unsafe { SlabBox::from_raw(p) };
        check(&left);
    }
    assert_eq!(WRONG.load(SeqCst), 0, "objects were in two hands");
    cache.flush();
    assert_eq!(cache.stats().live, 0);
}
