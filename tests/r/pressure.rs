//! R8, memory pressure: files of a directory of the test's own say that memory is short, and the worker, or a tick, gives back what it can;
//! what cannot be read is counted, and no pressure.

use crate::support::until;
use quietus::slab::{Cache, SlabBox};
use quietus::{Builder, Domain, Pressure};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// A directory in the place of `/`, that goes with the test.
struct Root(PathBuf);

impl Root {
    /// With a system that has memory enough, and the process in the group `/a/b`, without limits.
    fn new(name: &str) -> Root {
        let root = Root(std::env::temp_dir().join(format!("quietus-{name}-{}", std::process::id())));
        let _ = fs::remove_dir_all(&root.0);
        root.stalled("0.00");
        root.write("proc/self/cgroup", "1:cpu:/elsewhere\n0::/a/b\n");
        for group in ["a", "a/b"] {
            root.write(&format!("sys/fs/cgroup/{group}/memory.high"), "max\n");
            root.write(&format!("sys/fs/cgroup/{group}/memory.current"), "1000000\n");
        }
        root
    }
    fn write(&self, path: &str, content: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // At once: somebody may be reading.
        let fresh = path.with_extension("fresh");
        fs::write(&fresh, content).unwrap();
        fs::rename(fresh, path).unwrap();
    }
    fn stalled(&self, avg10: &str) {
        let rest = "avg60=0.00 avg300=0.00 total=8";
        self.write("proc/pressure/memory", &format!("some avg10={avg10} {rest}\nfull avg10=99.00 {rest}\n"));
    }
    fn pressure(&self) -> Pressure {
        Pressure::at(&self.0).every(Duration::ZERO)
    }
    fn is_short(&self) -> bool {
        self.pressure().is_short(&self.pressure().read())
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Does by itself only what is asked of it.
fn patient() -> Builder {
    Domain::builder().age_limit(Duration::from_secs(3600)).budget(1 << 30)
}

fn retire(domain: &Domain, cache: &Cache<[u64; 8]>) {
    // SAFETY: fresh, known to nobody else.
    unsafe { domain.retire(SlabBox::into_raw(cache.alloc([7; 8]))) }
}

#[test]
fn r_8_the_files_say_whether_memory_is_short() {
    let root = Root::new("files");
    let reading = root.pressure().read();
    assert_eq!((reading.stalled, reading.used, reading.errors), (Some(0.0), None, 0));
    for (avg10, short) in [("9.99", false), ("10.00", true), ("100.00", true), ("0.01", false)] {
        root.stalled(avg10);
        assert_eq!(root.is_short(), short, "{avg10} % of the time");
    }
    root.stalled("12.50");
    assert!(!root.pressure().stalled(12.6).is_short(&root.pressure().read()), "as was asked for");
    root.stalled("0.00");
    // The limit of a group that the process's own lies in counts, too.
    for group in ["a/b", "a"] {
        let high = format!("sys/fs/cgroup/{group}/memory.high");
        for (limit, short) in [("1052000", true), ("1053000", false), ("0", true), ("500000", true)] {
            root.write(&high, limit);
            assert_eq!(root.is_short(), short, "{limit} in {group}");
        }
        assert_eq!(root.pressure().read().used, Some(200.0));
        root.write(&high, "max\n");
    }
}

#[test]
fn r_8_what_cannot_be_read_is_no_pressure_and_is_counted() {
    let root = Root::new("malformed");
    let read = || {
        let reading = root.pressure().read();
        assert!(!root.pressure().is_short(&reading), "{reading:?}");
        reading.errors
    };
    let psi = "proc/pressure/memory";
    for text in
        ["", "some", "some avg10=", "some avg10=much", "some avg10=-11", "some avg10=NaN", "full avg10=99.00", "\u{1}"]
    {
        root.write(psi, text);
        assert_eq!(read(), 1, "{text:?}");
    }
    fs::write(root.0.join(psi), [0xff, 0xfe]).unwrap();
    assert_eq!(read(), 1, "no text");
    fs::remove_file(root.0.join(psi)).unwrap();
    assert_eq!(read(), 1, "no file");
    root.stalled("0.00");
    let (high, current) = ("sys/fs/cgroup/a/b/memory.high", "sys/fs/cgroup/a/b/memory.current");
    for (file, text) in [(high, "much"), (high, "-1"), (high, ""), (current, "")] {
        root.write(high, "1");
        root.write(file, text);
        assert_eq!(read(), 1, "{text:?} in {file}");
    }
    fs::remove_file(root.0.join(current)).unwrap();
    root.write(high, "1");
    assert_eq!(read(), 1, "a limit, and no file that says what is used");
    fs::remove_file(root.0.join(high)).unwrap();
    assert_eq!(read(), 0, "a group without limit");
    for (groups, errors) in [("", 0), ("3:memory:/a\n", 0), ("0::/../b\n", 0), ("0::/gone\n", 0), ("0::a\n", 1)] {
        root.write("proc/self/cgroup", groups);
        assert_eq!(read(), errors, "{groups:?}");
    }
    fs::remove_file(root.0.join("proc/self/cgroup")).unwrap();
    assert_eq!(read(), 1, "no file");
    // And in a domain's numbers.
    let domain = patient().workers(false).pressure(root.pressure()).build();
    let cache = Cache::new("malformed");
    retire(&domain, &cache);
    domain.tick();
    let stats = domain.stats().kvfree;
    assert_eq!((stats.pressure_looks, stats.pressure_reliefs, stats.pressure_errors), (1, 0, 1));
}

/// Without a worker: each tick looks. Open blocks are closed (a tick does that anyway), the reserve is given back and stays small.
#[test]
fn r_8_a_tick_gives_back() {
    let root = Root::new("tick");
    let domain = patient().workers(false).reserve(5).pressure(root.pressure()).build();
    let cache = Cache::new("tick");
    let guard = domain.pin();
    retire(&domain, &cache);
    domain.tick();
    assert_eq!(domain.stats().kvfree.pressure_looks, 1);
    assert!(!domain.stats().kvfree.backing_off);
    root.stalled("50.00");
    domain.tick();
    let stats = domain.stats().kvfree;
    assert_eq!((stats.pressure_looks, stats.pressure_reliefs, stats.pressure_errors), (2, 1, 0));
    assert!(stats.backing_off && stats.reserve_blocks == 0, "{stats:?}");
    assert_eq!(stats.pending_objects, 1, "a reader is inside");
    drop(guard);
    domain.tick();
    assert_eq!(domain.stats().kvfree.pending_objects, 0);
    // Nothing pending, nothing looked at.
    let looks = domain.stats().kvfree.pressure_looks;
    domain.tick();
    assert_eq!(domain.stats().kvfree.pressure_looks, looks);
}

/// The worker looks by itself, not more often than it was told to.
#[test]
fn r_8_the_worker_gives_back() {
    let root = Root::new("worker");
    root.stalled("50.00");
    let builder = || Domain::builder().age_limit(Duration::from_millis(2));
    let domain = builder().pressure(root.pressure()).build();
    let seldom = builder().pressure(root.pressure().every(Duration::from_secs(3600))).build();
    let not = builder().build();
    let cache = Cache::new("worker");
    let guards = [&domain, &seldom, &not].map(Domain::pin);
    [&domain, &seldom, &not].iter().for_each(|domain| retire(domain, &cache));
    until("it has looked", || domain.stats().kvfree.pressure_reliefs >= 3);
    assert!(domain.stats().kvfree.backing_off);
    assert_eq!(seldom.stats().kvfree.pressure_looks, 0);
    assert_eq!(not.stats().kvfree.pressure_looks, 0);
    assert!(!not.stats().kvfree.backing_off);
    drop(guards);
    until("nothing is pending", || domain.stats().kvfree.pending_objects == 0);
}
