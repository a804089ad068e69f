//! What hardened caches do beside their checks (`b_debug`), and what asks the process to end.

mod support;

use quietus_slab::{Cache, DebugFlags, SLAB_BYTES, SlabBox, on_corruption};
use std::collections::HashSet;
use std::process::Command;
use std::ptr::NonNull;
use support::alone;

fn hardened<T>(name: &'static str) -> Cache<T> {
    Cache::builder(name).hardened(true).build().unwrap()
}

fn index<T>(b: &SlabBox<T>) -> usize {
    std::ptr::from_ref::<T>(b).addr() % SLAB_BYTES / size_of::<T>()
}

/// Objects come from random places of a slab: neighbours in time are no neighbours in space, nor does a free place come back at once.
#[test]
fn b_hardened_objects_are_placed_at_random() {
    let _alone = alone();
    support::stay(); // on one node
    type Object = [u64; 8];
    let order = |cache: Cache<Object>| {
        let held: Vec<_> = (0..1024).map(|i| cache.alloc([i; 8])).collect();
        assert_eq!(cache.stats().slabs, 1, "each place of the one slab is found");
        held.iter().map(index).collect::<Vec<_>>()
    };
    let orders = [order(hardened("placed")), order(hardened("placed"))];
    assert_ne!(orders[0], orders[1]);
    for order in &orders {
        assert_eq!(order.iter().collect::<HashSet<_>>().len(), 1024);
        // A random order has one such pair on average.
        let neighbours = order.windows(2).filter(|w| w[0].abs_diff(w[1]) == 1).count();
        assert!(neighbours < 100, "{neighbours}");
    }
    // Wherever the search begins: with a few places in a slab, it often begins behind the last free one.
    let few = hardened::<[u64; 2048]>("few");
    let held: Vec<_> = (0..400).map(|i| few.alloc([i; 2048])).collect();
    assert_eq!((held.len(), few.stats().slabs), (400, 100));
    let cache = hardened::<Object>("placed");
    let _keep = cache.alloc([0; 8]);
    let places: HashSet<_> = (0..200).map(|i| index(&cache.alloc([i; 8]))).collect();
    assert!(places.len() > 100, "{} places for 200 objects, one at a time", places.len());
}

/// Around the descriptors of a hardened cache there are pages that nobody can touch; around others' there are none. What a hardened
/// cache gives back is unmapped with them.
#[test]
#[cfg(all(target_os = "linux", not(quietus_portable)))]
fn b_hardened_descriptors_stand_between_guard_pages() {
    const SEGMENT: usize = 4 << 20;
    /// The permissions of the mapping that an address is in.
    fn permissions(address: usize) -> Option<String> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().find_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (from, to) = range.split_once('-')?;
            let [from, to] = [from, to].map(|n| usize::from_str_radix(n, 16).unwrap());
            (from..to).contains(&address).then(|| rest[..4].to_owned())
        })
    }
    let _alone = alone();
    let cache = hardened::<[u64; 1024]>("guarded");
    let held: Vec<_> = (0..1200).map(|i| cache.alloc([i; 1024])).collect();
    let segments: HashSet<_> = held.iter().map(|b| std::ptr::from_ref(&**b).addr() & !(SEGMENT - 1)).collect();
    assert!(segments.len() > 1);
    for &base in &segments {
        for guard in [base - 1, base - SEGMENT, base + SLAB_BYTES - 1, base + SLAB_BYTES - 4096] {
            assert_eq!(permissions(guard).as_deref(), Some("---p"), "{guard:#x}, of the segment {base:#x}");
        }
        for used in [base, base + 256 + 63 * 576, base + SLAB_BYTES] {
            assert_eq!(permissions(used).as_deref(), Some("rw-p"), "{used:#x}, of the segment {base:#x}");
        }
    }
    drop(held);
    cache.shrink();
    let mapped = segments.iter().filter(|&&base| permissions(base - 1).as_deref() == Some("---p")).count();
    assert_eq!(mapped, 1, "one segment is kept, with its guards");
    let plain: Cache<[u64; 1024]> = Cache::new("plain");
    let base = std::ptr::from_ref(&*plain.alloc([0; 1024])).addr() & !(SEGMENT - 1);
    assert_eq!(permissions(base + SLAB_BYTES - 1).as_deref(), Some("rw-p"));
}

/// A cache that is asked to ends the process, after the report; others go on, also when the hook panics.
#[test]
#[cfg(unix)]
fn b_4_abort_if_that_is_wanted() {
    use std::os::unix::process::ExitStatusExt;
    const TEST: &str = "b_4_abort_if_that_is_wanted";
    const CHILD: &str = "QUIETUS_TEST_B_ABORT";
    let free_twice = |cache: &Cache<u64>| {
        let p = SlabBox::into_raw(cache.alloc(1)).as_ptr();
        // SAFETY: live; then once more, of a checked cache.
        unsafe {
            cache.free(p);
            cache.free(p);
        }
    };
    if let Ok(how) = std::env::var(CHILD) {
        match &*how {
            "builder" => free_twice(&Cache::builder("end").hardened(true).abort_on_corruption(true).build().unwrap()),
            "env" => free_twice(&Cache::new("end")),
            _ => {
                free_twice(
                    &Cache::builder("end").debug(DebugFlags::CONSISTENCY).abort_on_corruption(false).build().unwrap(),
                );
                on_corruption(Some(|_| panic!("a hook gives up")));
                free_twice(&Cache::builder("end").hardened(true).build().unwrap());
                on_corruption(None);
            }
        }
        return println!("the program went on");
    }
    for (how, value, aborts) in [("builder", "-", true), ("env", "FX,end", true), ("neither", "-", false)] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let command = command.args(["--exact", TEST, "--nocapture"]).env(CHILD, how).env("QUIETUS_SLAB_DEBUG", value);
        let run = command.output().unwrap();
        let [out, err] = [&run.stdout, &run.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        assert_eq!(run.status.signal(), aborts.then_some(libc::SIGABRT), "{how}: {out} {err}");
        assert_eq!(out.contains("the program went on"), !aborts);
        assert!(err.contains("quietus-slab: cache end: object 0x") && err.contains("freed twice"), "{how}: {err}");
    }
}

/// A box of a hardened cache goes the same way as one that was freed by hand.
#[test]
fn b_hardened_boxes_are_values_like_any() {
    let _alone = alone();
    let cache = hardened::<String>("boxes");
    let held: Vec<_> = (0..500).map(|i| cache.alloc(i.to_string())).collect();
    assert!(held.iter().enumerate().all(|(i, b)| **b == i.to_string()));
    let threads = std::thread::spawn(move || drop(held));
    threads.join().unwrap();
    let b = SlabBox::into_raw(cache.alloc("x".into()));
    // SAFETY: from `into_raw`.
    assert_eq!(SlabBox::into_inner(unsafe { SlabBox::from_raw(NonNull::new_unchecked(b.as_ptr())) }), "x");
    assert_eq!((cache.stats().live, cache.stats().corruptions), (0, 0));
}
