//! One run: this program again with a hidden command, its spec on standard input, its outcome on standard output.
//!
//! A process that dies, says nothing, or does not end has broken something: that is an outcome too. On Linux none outlives
//! the program that started it.

use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::alloc::{self, Allocator};
use crate::args::HIDDEN_RUN;
use crate::run::spec::{Outcome, Spec};

/// Runs it; calls `tick` several times a second meanwhile.
pub(super) fn run(spec: &Spec, allocator: Allocator, mut tick: impl FnMut()) -> Outcome {
    let name = spec.reclaimer.name();
    let failed = |what: &str| Outcome::violated(format!("{name}: {what}"));
    let mut child = match start(allocator) {
        Ok(child) => child,
        Err(error) => return failed(&format!("the process for the run could not be started: {error}")),
    };
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let told = serde_json::to_string(spec).expect("numbers and strings");
    // Written and read beside the waiting, so that neither pipe can fill up.
    let writing = thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(told.as_bytes())));
    let reading = thread::spawn(move || {
        let mut said = String::new();
        stdout.map(|mut stdout| stdout.read_to_string(&mut said));
        said
    });
    let status = wait(&mut child, deadline(spec.seconds), &mut tick);
    let _ = writing.join();
    let said = reading.join().unwrap_or_default();
    match (said.lines().last().and_then(|line| serde_json::from_str(line).ok()), status) {
        (Some(outcome), Some(_)) => outcome,
        (_, None) => failed("the run did not end and was stopped"),
        (None, Some(status)) => failed(&format!("the process of the run died: {status}")),
    }
}

/// A run ends by itself after three times its time at most, and the drain; more than this is a run that hangs.
fn deadline(seconds: f64) -> Instant {
    Instant::now() + Duration::from_secs_f64(seconds * 4.0 + 60.0)
}

fn start(allocator: Allocator) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(HIDDEN_RUN).env(alloc::VARIABLE, allocator.name()).stdin(Stdio::piped()).stdout(Stdio::piped());
    #[cfg(target_os = "linux")]
    end_with_this_process(&mut command);
    command.spawn()
}

/// Whatever ends this process, even SIGKILL, ends the child: a run that nobody waits for would only keep the machine busy.
///
/// The signal comes when the thread ends that started the child: `main`'s, which waits for it.
#[cfg(target_os = "linux")]
fn end_with_this_process(command: &mut Command) {
    use std::os::unix::process::CommandExt;

    let parent = std::process::id();
    let follow = move || {
        // SAFETY: sets an attribute of the calling process; no memory is involved.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // It may have ended before that: then this process has another parent, and no signal will come.
        // SAFETY: no preconditions.
        if unsafe { libc::getppid() } as u32 != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes two system calls and reads `errno`; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(follow) };
}

/// The exit status, or none if the child had to be killed.
fn wait(child: &mut Child, deadline: Instant, tick: &mut impl FnMut()) -> Option<ExitStatus> {
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        tick();
        thread::sleep(Duration::from_millis(50));
    }
}
