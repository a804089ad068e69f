//! One run in a process of its own: this program again with a hidden command, told what to do on standard input, answering with a
//! line on standard output.
//!
//! `parent` and `torture` start them. A process that dies, says nothing, or does not end has broken something: that is an outcome
//! too. On Linux none outlives the program that started it.

use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What to start.
pub(crate) struct Job<'a, Spec> {
    /// The hidden command.
    pub(crate) command: &'static str,
    /// What it is told.
    pub(crate) spec: &'a Spec,
    /// Variables that it has beside ours.
    pub(crate) variables: &'a [(&'a str, &'a str)],
    /// It ends by itself before that; later, it hangs.
    pub(crate) limit: Duration,
}

/// Runs it; calls `tick` several times a second meanwhile. The error says what became of it instead of an outcome.
pub(crate) fn run<Outcome: DeserializeOwned>(
    job: &Job<'_, impl Serialize>,
    mut tick: impl FnMut(),
) -> Result<Outcome, String> {
    let mut child = start(job).map_err(|error| format!("the process for the run could not be started: {error}"))?;
    let deadline = Instant::now() + job.limit;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let told = serde_json::to_string(job.spec).expect("numbers and strings");
    // Written and read beside the waiting, so that neither pipe can fill up.
    let writing = thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(told.as_bytes())));
    let reading = thread::spawn(move || {
        let mut said = String::new();
        stdout.map(|mut stdout| stdout.read_to_string(&mut said));
        said
    });
    let status = wait(&mut child, deadline, &mut tick);
    let _ = writing.join();
    let said = reading.join().unwrap_or_default();
    match (said.lines().last().and_then(|line| serde_json::from_str(line).ok()), status) {
        (Some(outcome), Some(_)) => Ok(outcome),
        (_, None) => Err("the run did not end and was stopped".into()),
        (None, Some(status)) => Err(format!("the process of the run died: {status}")),
    }
}

fn start(job: &Job<'_, impl Serialize>) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(job.command).envs(job.variables.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped());
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
