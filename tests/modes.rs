//! The whole contract where the system refuses what makes the library fast: no restartable sequences, no membarrier, neither.
//! Each in a child process, this binary once more, because the modes are fixed for the life of a process.
#![cfg(not(quietus_loom))]

#[path = "contract/flavour.rs"]
mod flavour;
#[path = "contract/objects.rs"]
mod objects;
#[path = "contract/suite.rs"]
mod suite;

use flavour::{Flavour, Global, Private, Ticked};
use quietus::membarrier::{self, Mode, Reason};
use quietus::slab::{Cache, SlabBox, rseq_report};
use quietus::{Atomic, Domain, Shared};
use std::process::Command;
use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{AcqRel, Acquire, SeqCst},
};
use std::time::{Duration, Instant};

const CHILD: &str = "QUIETUS_TEST_MODES_CHILD";
const NO_FILTERS: &str = "no seccomp filters here";

/// The child's part of every test here; in the parent, which does not set the variable, nothing.
#[test]
fn child() {
    let Some(what) = std::env::var_os(CHILD) else { return };
    #[cfg(target_os = "linux")]
    if what == "seccomp" && !deny_membarrier() {
        return println!("child of {what:?}: {NO_FILTERS}: {}", std::io::Error::last_os_error());
    }
    macro_rules! run {
        ($($promise:ident,)*) => { $(
            suite::$promise::<Global>();
            suite::$promise::<Private>();
            suite::$promise::<Ticked>();
        )* };
    }
    suite::promises!(run);
    suite::exact_promises!(run);
    torture();
    let (sequences, reason) = rseq_report();
    println!("child of {what:?}: sequences {sequences}, {reason}; {}", membarrier::report());
}

/// A small one: writers replace values, readers must not see one that is gone.
fn torture() {
    const LIVE: u64 = 0x11fe;
    struct Value(AtomicU64);
    impl Drop for Value {
        fn drop(&mut self) {
            self.0.store(0xdead, SeqCst);
        }
    }
    let f = Private::alone();
    let domain = f.domain();
    let cache: Cache<Value> = Cache::new("modes");
    // SAFETY: values are retired after they are unlinked.
    let new = || unsafe { Shared::from_raw(SlabBox::into_raw(cache.alloc(Value(AtomicU64::new(LIVE))))) };
    let link = Atomic::new(new());
    let (stop, wrong, reads) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _stop = objects::Sets(&stop);
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    let guard = domain.pin();
                    // SAFETY: the section protects it.
                    let value = unsafe { link.load(Acquire, &guard).deref() };
                    for _ in 0..50 {
                        wrong.fetch_add(u64::from(value.0.load(SeqCst) != LIVE), SeqCst);
                    }
                    reads.fetch_add(1, SeqCst);
                }
            });
        }
        let end = Instant::now() + Duration::from_millis(300);
        // A while, and until the readers have had their turns; whoever runs the tests ends it if they never get any.
        while Instant::now() < end || reads.load(SeqCst) <= 100 && wrong.load(SeqCst) == 0 {
            let guard = domain.pin();
            let old = NonNull::new(link.swap(new(), AcqRel, &guard).as_raw()).unwrap();
            // SAFETY: unlinked by this thread alone.
            unsafe { domain.retire(old) };
            drop(guard);
            cache.flush();
        }
    });
    assert_eq!(wrong.load(SeqCst), 0, "of {reads:?} reads");
    let guard = domain.pin();
    let last = NonNull::new(link.swap(Shared::null(), AcqRel, &guard).as_raw()).unwrap();
    drop(guard);
    // SAFETY: unlinked by this thread alone.
    unsafe { domain.retire(last) };
    domain.barrier();
    assert_eq!(cache.stats().live, 0);
}

/// From now on the kernel answers EPERM to membarrier, on all threads. False: it has no such filters, or does not let us.
#[cfg(target_os = "linux")]
fn deny_membarrier() -> bool {
    let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_membarrier as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program is four valid instructions that live through the calls; the filter denies one call only.
    unsafe {
        let flags = libc::SECCOMP_FILTER_FLAG_TSYNC;
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &program) == 0
    }
}

/// Runs the child; returns its last line, which says in which modes it ran.
#[track_caller]
fn run(what: &str, env: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture", "--test-threads=1"]).env(CHILD, what);
    command.env_remove("QUIETUS_RSEQ").env_remove("QUIETUS_MEMBARRIER").envs(env.iter().copied());
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {}\n{out}\n{err}", output.status);
    let line = out.lines().find_map(|l| l.find("child of").map(|at| &l[at..]));
    line.unwrap_or_else(|| panic!("the child did nothing:\n{out}\n{err}")).to_owned()
}

/// What this process found is what a child finds that is told nothing.
fn expected(rseq_off: bool, membarrier_off: bool) -> (String, String) {
    let (sequences, reason) = if rseq_off { (false, "switched off by QUIETUS_RSEQ") } else { rseq_report() };
    let fences = if membarrier_off {
        "fenced: membarrier switched off by QUIETUS_MEMBARRIER".into()
    } else {
        membarrier::report().to_string()
    };
    (format!("sequences {sequences}, {reason}"), fences)
}

/// This process was told something, so that what it found says nothing of a child that is not: nothing can be compared.
fn was_told() -> bool {
    let told = ["QUIETUS_RSEQ", "QUIETUS_MEMBARRIER"].iter().any(|name| std::env::var_os(name).is_some());
    if told {
        eprintln!("skipped: run it without QUIETUS_RSEQ and QUIETUS_MEMBARRIER");
    }
    told
}

#[track_caller]
fn combination(rseq: &str, membarrier: &str) {
    if was_told() {
        return;
    }
    let line = run("combination", &[("QUIETUS_RSEQ", rseq), ("QUIETUS_MEMBARRIER", membarrier)]);
    let (sequences, fences) = expected(rseq == "off", membarrier == "off");
    assert!(line.contains(&sequences) && line.ends_with(&fences), "{line}\nwanted: {sequences}; {fences}");
}

#[test]
fn both() {
    combination("on", "on");
}

#[test]
fn no_sequences() {
    combination("off", "on");
}

#[test]
fn no_membarrier() {
    combination("on", "off");
}

#[test]
fn neither() {
    combination("off", "off");
}

/// On the machines this library is made for, both are there.
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu", not(quietus_portable)))]
#[test]
fn a_usual_system_has_both() {
    let tuned = std::env::var("GLIBC_TUNABLES").is_ok_and(|t| t.contains("rseq=0"));
    let (sequences, reason) = rseq_report();
    let report = membarrier::report();
    // Old kernels and containers may refuse either; then they say why.
    assert!(sequences && reason == "in use" || tuned || !reason.is_empty() && reason != "in use", "{reason}");
    assert_eq!(report.mode() == Mode::Asymmetric, report.reason() == Reason::Available, "{report}");
}

/// Nothing of the library has run when the filter comes; sequences need membarrier, too.
#[cfg(target_os = "linux")]
#[test]
fn a_filter_that_denies_membarrier() {
    let line = run("seccomp", &[]);
    if line.contains(NO_FILTERS) {
        return eprintln!("skipped: {line}");
    }
    assert!(line.contains("sequences false, "), "{line}");
    if cfg!(quietus_portable) {
        assert!(line.ends_with("fenced: membarrier not part of this build"), "{line}");
    } else {
        assert!(line.ends_with("fenced: membarrier kernel answered EPERM"), "{line}");
        if rseq_report().0 {
            assert!(line.contains("membarrier does not restart sequences here"), "{line}");
        }
    }
    // The child was refused by its own filter: this process was not, unless whoever runs the tests has one, too.
    let filtered = std::fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("Seccomp:\t2"));
    assert!(filtered || membarrier::report().reason() != Reason::Refused(1), "this process has no filter");
}

/// glibc asked not to register restartable sequences.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn a_c_library_without_sequences() {
    if was_told() {
        return;
    }
    let line = run("tunable", &[("GLIBC_TUNABLES", "glibc.pthread.rseq=0")]);
    assert!(line.contains("sequences false, "), "{line}");
    if rseq_report().0 {
        assert!(line.contains("registration is switched off"), "{line}");
    }
    assert!(line.ends_with(&expected(false, false).1), "{line}");
}

/// A setting that nobody understands changes nothing, and is said.
#[test]
fn a_setting_that_is_not_understood() {
    if was_told() {
        return;
    }
    let line = run("odd", &[("QUIETUS_MEMBARRIER", "perhaps")]);
    assert!(line.contains("perhaps") && line.contains("taken for auto"), "{line}");
    assert!(line.contains(&expected(false, false).1), "{line}");
}

/// The three flavours are what they say.
#[test]
fn flavours_are_different() {
    assert!(std::ptr::eq(Global::alone().domain(), Domain::global()));
    let (a, b) = (Private::alone(), Ticked::alone());
    assert!(!std::ptr::eq(a.domain(), b.domain()));
}
