//! The processor time that quietus's own threads have used. Linux only: elsewhere it is not known.

use std::thread;
use std::time::{Duration, Instant};

/// What the names of the library's threads begin with. The program's own threads are called otherwise.
#[cfg(target_os = "linux")]
const PREFIX: &str = "quietus-";

/// Milliseconds of processor time of the library's threads that live now; none if the system does not say.
#[cfg(target_os = "linux")]
pub(crate) fn workers_ms() -> Option<f64> {
    let own = std::process::id();
    let mut total = None;
    for task in std::fs::read_dir("/proc/self/task").ok()?.flatten() {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let Some(thread) = task.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // The first thread is called like the program.
        if thread != own && name.starts_with(PREFIX) {
            *total.get_or_insert(0.0) += thread_ms(thread)?;
        }
    }
    total
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn workers_ms() -> Option<f64> {
    None
}

/// The same, once there is a worker to be seen: a thread takes its name itself, some time after it was started. Gives up after
/// a second, and where no system says.
pub(crate) fn workers_ms_at_first() -> Option<f64> {
    let start = Instant::now();
    while cfg!(target_os = "linux") && workers_ms().is_none() && start.elapsed() < Duration::from_secs(1) {
        thread::sleep(Duration::from_millis(1));
    }
    workers_ms()
}

/// One thread's clock, which is finer than the ticks in its `stat`: the kernel's numbering of processor clocks, where 4 stands
/// for a thread and 2 for the time it ran.
#[cfg(target_os = "linux")]
fn thread_ms(thread: u32) -> Option<f64> {
    let clock = (!thread << 3 | 4 | 2) as libc::clockid_t;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the struct it is given; a clock that there is not is an error.
    let answer = unsafe { libc::clock_gettime(clock, &raw mut time) };
    (answer == 0).then(|| time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_works_shows() {
        let work = || {
            // SAFETY: no preconditions.
            let thread = unsafe { libc::gettid() } as u32;
            let start = Instant::now();
            // By its own clock: on a busy machine that takes longer.
            while thread_ms(thread).expect("its own clock") < 20.0 {
                assert!(start.elapsed() < Duration::from_secs(60));
            }
            workers_ms().expect("there is one")
        };
        let named = thread::Builder::new().name("quietus-test".into()).spawn(work).expect("started");
        assert!(named.join().expect("no panic") >= 20.0);
    }
}
