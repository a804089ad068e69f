//! Being told of forks, for the engines that may be read through before there is a domain: the two global ones.
//!
//! In the child one thread is left. Every slot of another one is cleared, since it reads no more, and a grace period that somebody was
//! looking after begins anew. Domains are told through [`GracePeriods::after_fork`](quietus_kvfree::GracePeriods::after_fork). Why
//! handlers, and how to switch them off: `kvfree/src/fork.rs`.
//!
//! Handed to by `local` and `qsbr`; hands to their engines' `forked`.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Has `child` called in fork children, if this is the first call with `done`. (Not a `Once`, which a child might wait for.)
pub(crate) fn install(done: &AtomicBool, child: extern "C" fn()) {
    // Relaxed: nothing is handed on.
    if done.load(Relaxed) || done.swap(true, Relaxed) {
        return;
    }
    if std::env::var_os("QUIETUS_ATFORK").is_none_or(|setting| setting != "off") {
        #[cfg(all(target_os = "linux", not(miri)))]
        // SAFETY: the handler is a function of this crate, which is not unloaded while it has readers.
        unsafe {
            libc::pthread_atfork(None, None, Some(child));
        }
        #[cfg(not(all(target_os = "linux", not(miri))))]
        let _ = child;
    }
}
