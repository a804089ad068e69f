//! Seed 5 on the real machine: CPUs that the process may not run on any more. In a process of its own, whose affinity it changes.
#![cfg(all(target_os = "linux", not(quietus_portable)))]

mod support;

use quietus_slab::{Cache, raw, reap};
use support::{affinity, alone, on_each};

/// Has all threads of the process run on these CPUs only. (Some may have ended since they were listed.)
fn keep_process_on(cpus: &[u32]) {
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let id = task.file_name().to_str().unwrap().parse().unwrap();
        // SAFETY: all zero is a valid set; the numbers are below its size.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            cpus.iter().for_each(|&cpu| libc::CPU_SET(cpu as usize, &mut set));
            libc::sched_setaffinity(id, size_of_val(&set), &set);
        }
    }
}

fn leave_some(cache: &Cache<u64>) {
    drop((0..10).map(|i| cache.alloc(i)).collect::<Vec<_>>());
}

/// A CPU that the process loses goes down with the next round, and what it held goes back at once; it comes back with the process.
#[test]
fn s5_7_the_affinity_is_followed() {
    let _alone = alone();
    let cpus = affinity(0);
    if cpus.len() < 2 {
        return; // there is none to lose
    }
    let cache = Cache::new("affinity");
    reap();
    on_each(&cpus, |_| leave_some(&cache));
    assert_eq!(cache.stats().cpu_flush, 0);
    keep_process_on(&cpus[..1]);
    reap();
    let lost = cpus.len() as u64 - 1;
    assert_eq!(cache.stats().cpu_flush, lost, "without waiting for a second round");
    keep_process_on(&cpus);
    reap();
    on_each(&cpus, |_| leave_some(&cache));
    let before = quietus_slab::work_stats().pinned;
    cache.flush();
    assert_eq!(quietus_slab::work_stats().pinned - before, cpus.len() as u64, "workers may run on all of them again");
}

/// The same by hand: CPUs that the user took down stay down.
#[test]
fn s5_7_what_is_followed_is_what_was_lost() {
    let _alone = alone();
    let cpus = affinity(0);
    let cache = Cache::new("followed");
    on_each(&cpus, |_| leave_some(&cache));
    raw::follow(&[]);
    assert_eq!(cache.stats().cpu_flush, cpus.len() as u64);
    assert!(cpus.iter().all(|&cpu| quietus_slab::cpu_down(cpu) == 0), "they are down");
    raw::follow(&cpus);
    on_each(&cpus[..1], |_| leave_some(&cache));
    assert_eq!(quietus_slab::cpu_down(cpus[0]), 1, "and up again");
    raw::follow(&cpus);
    on_each(&cpus[..1], |_| leave_some(&cache));
    assert_eq!(quietus_slab::cpu_down(cpus[0]), 0, "the user's word stands");
    quietus_slab::cpu_up(cpus[0]).unwrap();
}
