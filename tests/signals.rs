//! A signal handler that reads and retires on the thread that is just retiring, allocating and freeing. One test, alone in its
//! process.
#![cfg(all(target_os = "linux", not(quietus_loom)))]

use quietus::slab::{Cache, SlabBox};
use quietus::{Atomic, Domain, Shared, pin};
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, SeqCst},
    compiler_fence,
};
use std::time::{Duration, Instant};

const LIVE: u64 = 0x11fe;

struct Object {
    canary: AtomicU64,
    words: [u64; 7],
}

static CACHE: OnceLock<Cache<Object>> = OnceLock::new();
static DOMAIN: OnceLock<Domain> = OnceLock::new();
static LINK: Atomic<Object> = Atomic::null();
static SIGNALS: AtomicU64 = AtomicU64::new(0);
static RETIRED: AtomicU64 = AtomicU64::new(0);
static BEATS: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicBool = AtomicBool::new(false);

const KEPT: usize = 4096;
thread_local! {
    /// While the thread is putting one there the handler leaves them alone.
    static FILLING: Cell<bool> = const { Cell::new(false) };
    /// Objects for the handler to retire: how many, which.
    static STOCK: Cell<usize> = const { Cell::new(0) };
    static OBJECTS: [Cell<*mut Object>; KEPT] = const { [const { Cell::new(std::ptr::null_mut()) }; KEPT] };
}

fn check(object: &Object) {
    if object.canary.load(Relaxed) != LIVE || object.words.iter().any(|&w| w != object.words[0]) {
        WRONG.fetch_add(1, Relaxed);
    }
}

extern "C" fn handler(_: libc::c_int) {
    read_and_retire();
    next_signal();
}

fn read_and_retire() {
    let n = SIGNALS.fetch_add(1, Relaxed);
    let (Some(domain), guard) = (DOMAIN.get(), pin()) else { return };
    // SAFETY: objects are published before, and retired after they are unlinked, to the global domain.
    if let Some(object) = unsafe { LINK.load(Acquire, &guard).as_ref() } {
        check(object);
    }
    for _ in 0..20 {
        let left = STOCK.get();
        if left == 0 || FILLING.get() {
            break;
        }
        STOCK.set(left - 1);
        let object = OBJECTS.with(|all| all[left - 1].get());
        let object = NonNull::new(object).unwrap();
        let inner = domain.pin();
        // SAFETY: the thread gave it to the handler, and nobody else knows it.
        unsafe { if n.is_multiple_of(2) { domain.retire(object) } else { Domain::global().retire(object) } };
        drop(inner);
        RETIRED.fetch_add(1, Relaxed);
    }
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
fn a_handler_reads_and_retires_where_its_thread_does() {
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
    let domain = DOMAIN.get_or_init(Domain::new);
    let object = |n: u64| SlabBox::into_raw(cache.alloc(Object { canary: AtomicU64::new(LIVE), words: [n; 7] }));
    // What is made at first use is made before: a handler must not find it half made.
    let _ = (pin(), domain.pin(), Domain::global());
    let timer = start_timer();
    let end = Instant::now() + Duration::from_millis(2000);
    let mut held = Vec::new();
    let mut round = 0;
    // A while, and until much has been interrupted; whoever runs the tests ends it if nothing ever is.
    let enough = || SIGNALS.load(Relaxed) > 100 && RETIRED.load(Relaxed) > 100 || WRONG.load(Relaxed) > 0;
    while Instant::now() < end || !enough() {
        round += 1;
        BEATS.fetch_add(1, Relaxed);
        // Long runs of either kind go through blocks, barn and slabs, and through the queue of batches.
        for i in 0..1000 {
            held.push(object(round ^ i));
        }
        for (i, p) in held.drain(..).enumerate() {
            match i % 3 {
                0 => {
                    // SAFETY: fresh; unlinked by the next swap, by this thread alone.
                    let new = unsafe { Shared::from_raw(p) };
                    let guard = pin();
                    let old = LINK.swap(new, AcqRel, &guard);
                    if let Some(old) = NonNull::new(old.as_raw()) {
                        // SAFETY: just unlinked.
                        unsafe {
                            check(old.as_ref());
                            Domain::global().retire(old);
                        }
                    }
                }
                1 => {
                    FILLING.set(true);
                    compiler_fence(SeqCst); // the handler is this thread
                    let left = STOCK.get();
                    if left < KEPT {
                        OBJECTS.with(|all| all[left].set(p.as_ptr()));
                        STOCK.set(left + 1);
                    } else {
                        // SAFETY: nobody else knows it.
                        unsafe { domain.retire(p) };
                    }
                    compiler_fence(SeqCst);
                    FILLING.set(false);
                }
                // SAFETY: from `into_raw`.
                _ => drop(unsafe { SlabBox::from_raw(p) }),
            }
        }
        if round % 16 == 0 {
            cache.shrink();
            domain.flush();
        }
    }
    // SAFETY: the timer made above.
    unsafe { libc::timer_delete(timer) };
    DONE.store(true, SeqCst);
    assert_eq!(WRONG.load(SeqCst), 0, "objects were in two hands");
    for i in 0..STOCK.get() {
        let p = OBJECTS.with(|all| NonNull::new(all[i].get()).unwrap());
        // SAFETY: the handler has not taken it, and does not run any more.
        drop(unsafe { SlabBox::from_raw(p) });
    }
    let guard = pin();
    let last = NonNull::new(LINK.swap(Shared::null(), AcqRel, &guard).as_raw()).unwrap();
    drop(guard);
    // SAFETY: just unlinked.
    unsafe { Domain::global().retire(last) };
    domain.barrier();
    Domain::global().barrier();
    let leaked = domain.stats().kvfree.leaked + Domain::global().stats().kvfree.leaked;
    assert_eq!((cache.stats().live, leaked), (0, 0));
}
