//! Threads are sent to other processors at random, in the middle of whatever they do.
//!
//! A thread, started by `faults`; it moves every thread of the process, the library's too, and at the end lets them go everywhere.

use std::fs;
use std::mem;
use std::thread;
use std::time::Duration;

use crate::torture::flavours::Flavour;
use crate::torture::random::Random;
use crate::torture::tally::{self, Count};
use crate::torture::watch::Beat;
use crate::torture::world::World;

/// The processors this process may use.
fn allowed() -> Vec<usize> {
    // SAFETY: the set is plain bits, and lives through the call, which writes no more than it is long.
    let set = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        if libc::sched_getaffinity(libc::getpid(), size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return Vec::new();
        }
        set
    };
    // SAFETY: within the set.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// Lets a thread run on these alone. It may have ended.
fn send(thread: libc::pid_t, cpus: &[usize]) -> bool {
    // SAFETY: the set is plain bits, filled with numbers that were read from one, and lives through the call.
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        cpus.iter().for_each(|&cpu| libc::CPU_SET(cpu, &mut set));
        libc::sched_setaffinity(thread, size_of::<libc::cpu_set_t>(), &raw const set) == 0
    }
}

/// The threads of this process.
fn threads() -> Vec<libc::pid_t> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect()
}

/// Sends everybody everywhere when it goes.
struct Free(Vec<usize>);

impl Drop for Free {
    fn drop(&mut self) {
        threads().into_iter().for_each(|thread| {
            send(thread, &self.0);
        });
    }
}

/// The thread.
pub(super) fn run<F: Flavour>(world: &World<'_, F>, beat: &Beat, mut random: Random) {
    let free = Free(allowed());
    loop {
        beat.begin("moving threads");
        for thread in threads() {
            let cpus: Vec<usize> = match random.below(3) {
                0 => free.0.clone(),
                _ => free.0.iter().copied().filter(|_| random.one_in(2)).collect(),
            };
            if !cpus.is_empty() && send(thread, &cpus) {
                tally::add(Count::Moves, 1);
            }
        }
        if world.stopped() {
            return;
        }
        thread::sleep(Duration::from_micros(1000 + random.below(9000)));
    }
}
