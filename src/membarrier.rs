//! The asymmetric fence: almost nothing for the many who read, a system call for the few who wait.
//!
//! Readers call [`light`] when they enter a section, the driver of a grace period calls [`heavy`]. The mode is decided
//! here, once per process, and [`report`] tells which one it is and why.
//!
//! # Semantics
//!
//! Let `R` be a thread that executes `store a; light; load b` and `D` a thread that executes
//! `store b; heavy; load a`. Then **at least one of the two loads sees the other thread's store**. More is promised,
//! and used: for each `heavy` that returned `true` every other thread has one point in its own program order such that
//!
//! 1. whatever it did before that point happens before what `D` does after the `heavy`, and
//! 2. whatever `D` did before the `heavy` happens before what it does after that point,
//!
//! provided that its accesses cannot move across that point, which `light` sees to for a slot's store and the loads
//! that follow it.
//!
//! * **Asymmetric** mode (Linux, `membarrier(2)` with `PRIVATE_EXPEDITED`): the kernel interrupts every running thread
//!   of the process and has it execute a full fence; the point above is that interrupt, or the context switch of a
//!   thread that does not run. `light` is a compiler fence: no instruction.
//! * **Fenced** mode (everything else): both sides are `fence(SeqCst)`, and the two fences' place in the single total
//!   order decides which load sees which store. Promises 1 and 2 then hold for accesses on either side of a `light`
//!   only, which is why a *nested* entry calls `light` too: a signal handler may run between the outer entry's store
//!   and the outer entry's fence.
//!
//! `heavy` returns `false` if the kernel refused. Nothing may be concluded from such a call: no grace period completes
//! on its strength. The mode itself never changes after it was first asked for, because a reader that registered as
//! asymmetric will not start to fence; a `membarrier` that stops working in mid-flight (a late seccomp filter)
//! therefore stops grace periods, visibly, and never readers.
//!
//! # Ordering
//!
//! B: the pair above. Under loom two stand-ins take its place, chosen per model:
//! `Sc`, both sides `fence(SeqCst)`; and `Ipi`, where `light` is nothing and `heavy` is a handshake that each other
//! thread answers at an arbitrary interrupt point. Only the second can see that the sequence load needs its Acquire.

use std::fmt;

#[cfg(not(quietus_loom))]
pub use native::report;
#[cfg(not(quietus_loom))]
pub(crate) use native::{heavy, interrupt, is_asymmetric, latch, light, light_asymmetric};

#[cfg(quietus_loom)]
pub(crate) use crate::model::{heavy, interrupt, latch, light, light as light_asymmetric};

/// How readers and waiters are ordered against each other in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Readers execute no fence; the waiting side has the kernel execute one on every running thread.
    Asymmetric,
    /// Both sides execute a fence.
    Fenced,
}

/// Why the [`Mode`] is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The kernel offers the private expedited membarrier, and it works.
    Available,
    /// `QUIETUS_MEMBARRIER=off`.
    SwitchedOff,
    /// This build knows no membarrier: another operating system, or `--cfg quietus_portable`.
    NotBuilt,
    /// The kernel has the system call but not the private expedited command.
    NotOffered,
    /// The kernel, or a filter in front of it, answered with this error number.
    Refused(i32),
}

/// The mode that was latched, the reason for it, and a setting that was not understood.
#[derive(Clone, Debug)]
pub struct Report {
    mode: Mode,
    reason: Reason,
    unknown: Option<String>,
}

impl Report {
    /// The mode in force, for the life of the process.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Why it is in force.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The value of `QUIETUS_MEMBARRIER` if it was none of `on`, `off` and `auto`; it was then taken for `auto`.
    pub fn unknown_setting(&self) -> Option<&str> {
        self.unknown.as_deref()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Reason::Available => f.write_str("available"),
            Reason::SwitchedOff => f.write_str("switched off by QUIETUS_MEMBARRIER"),
            Reason::NotBuilt => f.write_str("not part of this build"),
            Reason::NotOffered => f.write_str("not offered by this kernel"),
            // The two that are met in practice: a kernel or sandbox without the call, and a filter that denies it.
            Reason::Refused(38) => f.write_str("kernel answered ENOSYS"),
            Reason::Refused(1) => f.write_str("kernel answered EPERM"),
            Reason::Refused(errno) => write!(f, "kernel answered error {errno}"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            Mode::Asymmetric => "asymmetric",
            Mode::Fenced => "fenced",
        };
        write!(f, "{mode}: membarrier {}", self.reason)?;
        match &self.unknown {
            Some(value) => write!(f, " (QUIETUS_MEMBARRIER={value:?} is not understood, taken for auto)"),
            None => Ok(()),
        }
    }
}

#[cfg(not(quietus_loom))]
mod native {
    use super::{Mode, Reason, Report, os};
    use crate::sync::stat::{AtomicU64, Relaxed};
    use crate::sync::{Ordering, compiler_fence, fence};
    use quietus_slab::raw::once;
    use std::sync::OnceLock;

    static REPORT: OnceLock<Report> = OnceLock::new();
    /// 1 once the mode is known to be asymmetric. Before that, and in fenced mode, 0: `light` fences, which is correct
    /// beside either kind of `heavy`.
    static ASYMMETRIC: AtomicU64 = AtomicU64::new(0);

    /// The reader's side, in whichever mode is in force.
    #[inline]
    pub(crate) fn light() {
        if is_asymmetric() {
            light_asymmetric();
        } else {
            // SeqCst: pairs with the SeqCst fence in heavy (B).
            fence(Ordering::SeqCst);
        }
    }

    /// The reader's side where the caller knows that the mode is asymmetric: no instruction at all.
    #[inline(always)]
    pub(crate) fn light_asymmetric() {
        // SeqCst (compiler only): the processor's half of the pair is membarrier's interrupt (B).
        compiler_fence(Ordering::SeqCst);
    }

    /// Whether the latched mode is asymmetric. `false` also means "not latched yet".
    #[inline(always)]
    pub(crate) fn is_asymmetric() -> bool {
        // Relaxed: a reader latches the mode when it registers, so it reads its own thread's past here.
        ASYMMETRIC.load(Relaxed) != 0
    }

    /// The waiting side. `false`: the kernel refused, and nothing may be concluded.
    #[must_use]
    pub(crate) fn heavy() -> bool {
        match latch() {
            Mode::Asymmetric => heavy_asymmetric(),
            Mode::Fenced => {
                // SeqCst: pairs with the SeqCst fence in light (B).
                fence(Ordering::SeqCst);
                true
            }
        }
    }

    fn heavy_asymmetric() -> bool {
        // SeqCst (compiler only): nothing moves across the call; the kernel's fences do the rest (B).
        compiler_fence(Ordering::SeqCst);
        // A forked child may find that the registration did not come along: register again, once, and believe only
        // the second answer.
        let done = os::fence_all().is_ok() || (os::register().is_ok() && os::fence_all().is_ok());
        // SeqCst (compiler only): as above.
        compiler_fence(Ordering::SeqCst);
        done
    }

    /// Decides the mode, if that has not been done yet. Called before the first slot of the process is claimed.
    pub(crate) fn latch() -> Mode {
        report().mode
    }

    /// The mode and why it was chosen. Asking latches it.
    pub fn report() -> &'static Report {
        once(&REPORT, || {
            let report = detect(std::env::var("QUIETUS_MEMBARRIER").ok());
            // Relaxed: whoever latches reads it after this OnceLock; before, 0 means a fence too many.
            ASYMMETRIC.store((report.mode == Mode::Asymmetric) as u64, Relaxed);
            report
        })
    }

    fn detect(setting: Option<String>) -> Report {
        let mut unknown = None;
        match setting.as_deref() {
            Some("off") => return Report { mode: Mode::Fenced, reason: Reason::SwitchedOff, unknown },
            None | Some("" | "on" | "auto") => {}
            Some(_) => unknown = setting,
        }
        match os::probe() {
            Ok(()) => Report { mode: Mode::Asymmetric, reason: Reason::Available, unknown },
            Err(reason) => Report { mode: Mode::Fenced, reason, unknown },
        }
    }

    /// A point at which a loom model delivers the membarrier's interrupt. Elsewhere the hardware needs no help.
    #[inline(always)]
    pub(crate) fn interrupt() {}

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn settings_are_read_as_written() {
            assert_eq!(detect(Some("off".into())).reason(), Reason::SwitchedOff);
            assert_eq!(detect(Some("off".into())).mode(), Mode::Fenced);
            let auto = detect(None);
            for same in ["on", "auto", ""] {
                assert_eq!(detect(Some(same.into())).reason(), auto.reason());
                assert_eq!(detect(Some(same.into())).unknown_setting(), None);
            }
            let odd = detect(Some("offf".into()));
            assert_eq!(odd.reason(), auto.reason());
            assert_eq!(odd.unknown_setting(), Some("offf"));
            assert!(odd.to_string().contains("offf"));
        }

        #[test]
        fn heavy_works_in_the_latched_mode() {
            assert!(heavy());
            assert_eq!(is_asymmetric(), latch() == Mode::Asymmetric);
        }
    }
}

/// The system call, and nothing else.
#[cfg(all(target_os = "linux", not(any(quietus_portable, quietus_loom, miri))))]
mod os {
    use super::Reason;

    const QUERY: libc::c_int = 0;
    const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

    fn membarrier(command: libc::c_int) -> Result<libc::c_long, i32> {
        // SAFETY: membarrier takes two integers beside the command and touches no memory of ours.
        match unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) } {
            -1 => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
            value => Ok(value),
        }
    }

    pub(super) fn probe() -> Result<(), Reason> {
        let offered = membarrier(QUERY).map_err(Reason::Refused)?;
        if offered & libc::c_long::from(PRIVATE_EXPEDITED) == 0 {
            return Err(Reason::NotOffered);
        }
        register().map_err(Reason::Refused)?;
        fence_all().map_err(Reason::Refused)
    }

    pub(super) fn register() -> Result<(), i32> {
        membarrier(REGISTER_PRIVATE_EXPEDITED).map(drop)
    }

    pub(super) fn fence_all() -> Result<(), i32> {
        membarrier(PRIVATE_EXPEDITED).map(drop)
    }
}

#[cfg(all(not(quietus_loom), any(not(target_os = "linux"), quietus_portable, miri)))]
mod os {
    use super::Reason;

    pub(super) fn probe() -> Result<(), Reason> {
        Err(Reason::NotBuilt)
    }

    pub(super) fn register() -> Result<(), i32> {
        Err(0)
    }

    pub(super) fn fence_all() -> Result<(), i32> {
        Err(0)
    }
}
