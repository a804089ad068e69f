//! Code that runs in a real signal handler.
#![allow(dead_code)] // each test binary uses its part

use std::cell::Cell;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};

thread_local! {
    static JOB: Cell<*mut &mut dyn FnMut()> = const { Cell::new(std::ptr::null_mut()) };
}

fn install(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) {
    // SAFETY: the structure is zeroed, filled in, and lives through the call; `handler` is a signal handler.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
    }
}

extern "C" fn run_job(_: libc::c_int) {
    let job = JOB.get();
    if !job.is_null() {
        // SAFETY: `in_handler` is waiting in `raise`, with the job on its stack.
        unsafe { (*job)() };
    }
}

/// Runs `job` in a handler of this thread.
pub(crate) fn in_handler<R>(job: impl FnOnce() -> R) -> R {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| install(libc::SIGUSR1, run_job));
    let (mut job, mut result) = (Some(job), None);
    let mut call = || result = job.take().map(|job| job());
    let mut call: &mut dyn FnMut() = &mut call;
    JOB.set(std::ptr::from_mut(&mut call).cast());
    // SAFETY: no preconditions; returns after the handler has run.
    unsafe { libc::raise(libc::SIGUSR1) };
    JOB.set(std::ptr::null_mut());
    result.expect("the handler has run")
}

static HANDLER: AtomicUsize = AtomicUsize::new(0);
static HANDLED: AtomicU64 = AtomicU64::new(0);

extern "C" fn interrupt(_: libc::c_int) {
    let handler = HANDLER.load(SeqCst);
    if handler != 0 {
        // SAFETY: stored from a `fn()`.
        unsafe { std::mem::transmute::<usize, fn()>(handler)() };
    }
    HANDLED.fetch_add(1, SeqCst);
}

/// Runs `work` while another thread interrupts this one again and again with `handler`: each time a moment after the handler's end, so
/// that the work gets on however slow the machine is.
pub(crate) fn interrupted(handler: fn(), work: impl FnOnce()) {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }
    HANDLER.store(handler as usize, SeqCst);
    install(libc::SIGUSR2, interrupt);
    // SAFETY: no preconditions.
    let target = unsafe { libc::pthread_self() };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let done = &done;
        scope.spawn(move || {
            while !done.load(SeqCst) {
                let before = HANDLED.load(SeqCst);
                // SAFETY: the target waits for this thread's end.
                unsafe { libc::pthread_kill(target, libc::SIGUSR2) };
                while HANDLED.load(SeqCst) == before {
                    std::thread::yield_now();
                }
                std::thread::sleep(std::time::Duration::from_micros(20));
            }
        });
        let _stop = Stop(done);
        work();
    });
}
