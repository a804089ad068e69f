//! What the tests of the seeds share.
#![allow(dead_code)]

use std::sync::atomic::{AtomicPtr, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// Tests that look at what the whole process has done take turns.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// How long a storm lasts: `QUIETUS_TORTURE_SECONDS`, or this many milliseconds.
pub(crate) fn storm_length(default_ms: u64) -> Duration {
    let seconds = std::env::var("QUIETUS_TORTURE_SECONDS").ok().and_then(|s| s.parse().ok());
    seconds.map_or(Duration::from_millis(default_ms), Duration::from_secs)
}

/// A generator of its own for each thread.
pub(crate) struct Random(pub(crate) u64);
impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Threads of this process that the allocator has started.
#[cfg(target_os = "linux")]
pub(crate) fn worker_threads() -> usize {
    threads_named("quietus-slab")
}

/// Threads of this process with this name. (One that was joined is listed for a moment more, as one that is exiting.)
#[cfg(target_os = "linux")]
pub(crate) fn threads_named(wanted: &str) -> usize {
    const EXITING: u64 = 4;
    let is_wanted = |stat: String| -> Option<bool> {
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let flags = rest.split_whitespace().nth(6)?.parse::<u64>().ok()?;
        Some(name == wanted && flags & EXITING == 0)
    };
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    stats.filter_map(is_wanted).filter(|&wanted| wanted).count()
}

/// The CPUs that a thread (0: this one) may run on.
#[cfg(target_os = "linux")]
pub(crate) fn affinity(of: libc::pid_t) -> Vec<u32> {
    // SAFETY: all zero is a valid set, which the kernel fills; the numbers are below its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        assert_eq!(libc::sched_getaffinity(of, size_of_val(&set), &mut set), 0);
        (0..libc::CPU_SETSIZE as u32).filter(|&cpu| libc::CPU_ISSET(cpu as usize, &set)).collect()
    }
}

/// Has a thread (0: this one) run on these CPUs only.
#[cfg(target_os = "linux")]
pub(crate) fn set_affinity(of: libc::pid_t, cpus: &[u32]) {
    // SAFETY: all zero is a valid set; the numbers are below its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        cpus.iter().for_each(|&cpu| libc::CPU_SET(cpu as usize, &mut set));
        assert_eq!(libc::sched_setaffinity(of, size_of_val(&set), &set), 0);
    }
}

/// Keeps this thread, and those it starts, on the CPU that it is on: what it frees is where it allocates.
pub(crate) fn stay() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: no preconditions.
        let cpu = unsafe { libc::sched_getcpu() };
        set_affinity(0, &[cpu as u32]);
    }
}

/// Runs `f` on each of these CPUs in turn, on a thread of its own.
#[cfg(target_os = "linux")]
pub(crate) fn on_each(cpus: &[u32], f: impl Fn(u32) + Sync) {
    for &cpu in cpus {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                set_affinity(0, &[cpu]);
                f(cpu);
            });
        });
    }
}

/// A timer that signals the thread that made it, and no other, once; the handler asks for the [`next_signal`]. There is one at a time.
#[cfg(target_os = "linux")]
pub(crate) struct Timer(libc::timer_t);

#[cfg(target_os = "linux")]
static TIMER: AtomicPtr<libc::c_void> = AtomicPtr::new(std::ptr::null_mut());

/// The next signal comes 50 µs from now. Called at the handler's end, so that the thread gets on however slow the machine is.
#[cfg(target_os = "linux")]
pub(crate) fn next_signal() {
    let soon = libc::timespec { tv_sec: 0, tv_nsec: 50_000 };
    let once = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: soon };
    // SAFETY: made before the first call (after its end the kernel refuses its number); the structure lives through the call, which a
    // handler may make.
    unsafe { libc::timer_settime(TIMER.load(SeqCst), 0, &once, std::ptr::null_mut()) };
}

#[cfg(target_os = "linux")]
pub(crate) fn signal_me(signal: libc::c_int) -> Timer {
    // SAFETY: all zero is valid for each of the structures, which are filled in and live through the calls.
    unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        event.sigev_notify_thread_id = libc::syscall(libc::SYS_gettid) as libc::c_int;
        let mut timer: libc::timer_t = std::mem::zeroed();
        assert_eq!(libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer), 0);
        TIMER.store(timer, SeqCst);
        next_signal();
        Timer(timer)
    }
}

#[cfg(target_os = "linux")]
impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the timer made above.
        unsafe { libc::timer_delete(self.0) };
    }
}
