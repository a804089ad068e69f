//! How much memory this process has, as the system counts it: Linux's `/proc`. Elsewhere, nothing is known, and that is 0.

use std::fs;

/// Forgets the peak so far and returns what is resident now: building the index does not count.
pub(crate) fn restart_peak() -> u64 {
    // Where this is not allowed the peak includes the building; that is true memory as well.
    let _ = fs::write("/proc/self/clear_refs", "5");
    status("VmRSS:")
}

/// What is resident now.
pub(crate) fn now() -> u64 {
    status("VmRSS:")
}

/// The most that was resident since.
pub(crate) fn peak() -> u64 {
    status("VmHWM:")
}

/// A line of `/proc/self/status`, in bytes.
fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_follows_what_is_touched() {
        if peak() == 0 {
            return; // this system does not say
        }
        // Other tests of this process may give memory back meanwhile: not each time.
        let follows = |_| {
            let before = restart_peak();
            assert!(before > 0);
            let touched = vec![1_u8; 32 << 20];
            std::hint::black_box(&touched);
            drop(touched);
            peak() >= before + (24 << 20)
        };
        assert!((0..200).any(follows));
    }
}
