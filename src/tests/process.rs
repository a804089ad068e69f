//! What is true of a whole process: its mode, what a filter does to it, a fork, a stall of the global engine.

use crate::engine_ref::EngineRef;
use crate::membarrier::{self, Mode, Reason};
use std::process::Command;

/// Runs tests of this binary in a child process, in which `QUIETUS_CHILD` is set to `mark`.
#[track_caller]
fn passes(args: &[&str], setting: &str, mark: &str) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(args).env("QUIETUS_MEMBARRIER", setting).env("QUIETUS_CHILD", mark).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("running 0 tests"), "{text}");
}

/// The body of a test that needs a process to itself: the test called `test` runs itself again in a child for each of
/// `settings`, and there the body.
#[track_caller]
fn in_child(test: &str, settings: &[&str], body: impl FnOnce()) {
    if std::env::var("QUIETUS_CHILD").as_deref() == Ok(test) {
        return body();
    }
    for setting in settings {
        passes(&["--exact", &format!("tests::process::{test}")], setting, test);
    }
}

#[test]
fn everything_holds_in_fenced_mode() {
    passes(&["tests::", "--skip", "tests::process"], "off", "fenced");
}

#[test]
fn fenced_is_fenced() {
    in_child("fenced_is_fenced", &["off"], || {
        drop(crate::memb::pin());
        let report = membarrier::report();
        assert_eq!(report.mode(), Mode::Fenced);
        assert_eq!(report.reason(), Reason::SwitchedOff);
        assert_eq!(report.to_string(), "fenced: membarrier switched off by QUIETUS_MEMBARRIER");
    });
}

#[test]
fn a_setting_that_is_not_understood_is_reported() {
    in_child("a_setting_that_is_not_understood_is_reported", &["fast"], || {
        assert_eq!(membarrier::report().unknown_setting(), Some("fast"));
        assert!(EngineRef::Global.try_wait_until(EngineRef::Global.start(), None).is_ok());
    });
}

#[test]
#[cfg(not(quietus_no_grace_periods))]
fn a_leaked_global_guard_stalls_for_ever() {
    in_child("a_leaked_global_guard_stalls_for_ever", &["auto", "off"], || {
        std::thread::spawn(|| {
            let _: &'static crate::memb::Guard = Box::leak(Box::new(crate::memb::pin()));
        })
        .join()
        .unwrap();
        let engine = EngineRef::Global;
        let cookie = engine.start();
        let soon = std::time::Instant::now() + std::time::Duration::from_millis(50);
        assert_eq!(engine.try_wait_until(cookie, Some(soon)), Ok(false));
        assert!(engine.holdouts(cookie)[0].exited);
    });
}

#[cfg(all(target_os = "linux", target_arch = "x86_64", not(any(quietus_portable, miri))))]
mod linux {
    use super::{EngineRef, Mode, Reason, in_child, membarrier};
    use crate::memb::DomainGuard;

    /// From now on the kernel answers EPERM to membarrier.
    fn deny_membarrier() {
        let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
        let mut filter = [
            op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_membarrier as u32),
            op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
            op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: the program is four valid instructions that live through the call; the filter only denies one call.
        unsafe {
            assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
            let answer = libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_TSYNC,
                &program,
            );
            assert_eq!(answer, 0);
        }
    }

    #[test]
    fn a_filter_that_was_there_first_means_fences() {
        in_child("linux::a_filter_that_was_there_first_means_fences", &["auto"], || {
            deny_membarrier();
            let engine = EngineRef::private();
            drop(DomainGuard::pin(&engine));
            engine.synchronize();
            let report = membarrier::report();
            assert_eq!((report.mode(), report.reason()), (Mode::Fenced, Reason::Refused(libc::EPERM)));
            assert_eq!(report.to_string(), "fenced: membarrier kernel answered EPERM");
        });
    }

    #[test]
    #[cfg(not(quietus_no_grace_periods))]
    fn a_filter_that_comes_later_means_no_grace_periods() {
        in_child("linux::a_filter_that_comes_later_means_no_grace_periods", &["auto"], || {
            let engine = EngineRef::private();
            if membarrier::report().mode() == Mode::Fenced {
                return;
            }
            std::thread::scope(|scope| {
                let (send, receive) = std::sync::mpsc::channel::<()>();
                let (registered, wait) = std::sync::mpsc::channel();
                let borrowed = &engine;
                scope.spawn(move || {
                    drop(DomainGuard::pin(borrowed));
                    registered.send(()).unwrap();
                    let _ = receive.recv();
                });
                wait.recv().unwrap();
                engine.synchronize();
                deny_membarrier();
                let cookie = engine.start();
                assert!(!engine.advance(cookie) && !engine.advance(cookie));
                assert_eq!(engine.counts().refusals, 2);
                drop(send);
            });
        });
    }
}
