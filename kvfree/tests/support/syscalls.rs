//! Counts the system calls of a thread: a seccomp filter traps each, and its handler counts it and makes it all the same.
#![allow(dead_code)] // each test binary uses its part

use libc::{c_int, c_long, c_void};
use std::sync::Once;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::Duration;

/// The sixth argument of calls that the filter lets pass. A multiple of a page, since it may be the offset of an `mmap`; not 0, since
/// it may be the bit set of a `futex`.
const PASS: u32 = 0x0051_5000;

static FUTEXES: AtomicU64 = AtomicU64::new(0);
static OTHERS: AtomicU64 = AtomicU64::new(0);
static LAST: AtomicU64 = AtomicU64::new(0);
static SLOW: AtomicBool = AtomicBool::new(false);

extern "C" fn trapped(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the third argument of an SA_SIGINFO handler is the interrupted thread's context, which is ours to change.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let [number, a, b, c, d, e] =
        [libc::REG_RAX, libc::REG_RDI, libc::REG_RSI, libc::REG_RDX, libc::REG_R10, libc::REG_R8]
            .map(|register| registers[register as usize]);
    if number == libc::SYS_futex {
        FUTEXES.fetch_add(1, SeqCst);
    } else {
        OTHERS.fetch_add(1, SeqCst);
        LAST.store(number as u64, SeqCst);
    }
    // SAFETY: the call that the thread was about to make; no call that it makes here has a meaning for its sixth argument.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, c_long::from(PASS)) };
    // SAFETY: the thread's own errno, which the call has just set if it failed.
    let errno = unsafe { *libc::__errno_location() };
    registers[libc::REG_RAX as usize] = if result == -1 { -i64::from(errno) } else { result };
    if number == libc::SYS_futex && SLOW.load(Relaxed) {
        let pause = libc::timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        // SAFETY: as above; the structure lives through the call.
        unsafe { libc::syscall(libc::SYS_nanosleep, &raw const pause, 0, 0, 0, 0, c_long::from(PASS)) };
    }
}

/// System calls of this thread: futexes, others, and which was the last of the others.
pub(crate) fn counts() -> (u64, u64, u64) {
    (FUTEXES.load(SeqCst), OTHERS.load(SeqCst), LAST.load(SeqCst))
}

/// After each futex call the thread waits for a moment, so that whom it has woken may be asleep again when it goes on.
pub(crate) fn slow_futexes(yes: bool) {
    SLOW.store(yes, SeqCst);
}

/// From now on this thread's system calls are counted, up to its end. False, with a word: seccomp cannot be used here.
pub(crate) fn count() -> bool {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: the structure is zeroed, filled in, and lives through the call; `trapped` is an SA_SIGINFO handler.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = trapped as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            assert_eq!(libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()), 0);
        }
    });
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    let op = |code, jt, k| libc::sock_filter { code, jt, jf: 0, k };
    let mut filter = [
        op(load, 0, 0), // the number
        op(equal, 5, libc::SYS_rt_sigreturn as u32),
        op(equal, 4, libc::SYS_exit as u32),
        op(equal, 3, libc::SYS_exit_group as u32),
        op(load, 0, 16 + 5 * 8), // the sixth argument
        op(equal, 1, PASS),
        op(answer, 0, libc::SECCOMP_RET_TRAP),
        op(answer, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: integers, and a program that lives through the call.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if !done {
        eprintln!("skipped in part: no seccomp filter here ({})", std::io::Error::last_os_error());
    }
    done
}

/// Page faults of this thread so far.
pub(crate) fn faults() -> i64 {
    // SAFETY: the structure is zeroed, and filled in by the kernel.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &mut usage), 0);
        usage.ru_minflt + usage.ru_majflt
    }
}

/// Waits until the worker of the process's only `Kvfree` sleeps: not runnable in two looks that see the same number of switches.
pub(crate) fn until_workers_sleep() {
    let look = || {
        let mut all = Vec::new();
        for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
            let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
            if read("comm").trim() == "quietus-drain" {
                let status = read("status");
                let line = |name: &str| status.lines().find(|l| l.starts_with(name)).map(str::to_owned);
                all.push((line("State"), line("voluntary_ctxt_switches")));
            }
        }
        all
    };
    let mut before = look();
    for _ in 0..30_000 {
        std::thread::sleep(Duration::from_millis(2));
        let now = look();
        if now == before && now.iter().all(|(state, _)| state.as_ref().is_some_and(|s| s.contains("sleeping"))) {
            return;
        }
        before = now;
    }
    panic!("a worker does not come to rest");
}
