//! The default collector, and each thread's registration with it.
//!
//! A thread-local word without a destructor is what [`pin`] loads; another one, with a destructor, owns the handle. A thread that pins while
//! its thread-locals are destroyed registers for the length of that guard.

use crate::collector::{Collector, LocalHandle};
use crate::guard::Guard;
use crate::local::Local;
use std::cell::Cell;
use std::ptr;
use std::sync::OnceLock;

thread_local! {
    static CURRENT: Cell<*const Local> = const { Cell::new(ptr::null()) };
    static HOME: Home = Home(default_collector().register());
}

/// The owner of what `CURRENT` points to.
struct Home(LocalHandle);

impl Drop for Home {
    fn drop(&mut self) {
        CURRENT.set(ptr::null());
    }
}

/// The collector behind [`pin`]. Made at first use; it never goes, and what is still deferred when the process exits is not called.
pub fn default_collector() -> &'static Collector {
    static COLLECTOR: OnceLock<Collector> = OnceLock::new();
    COLLECTOR.get_or_init(Collector::new)
}

/// Opens a section of the default collector. The outermost is a full fence, and one in a hundred or so first calls some of what has been
/// deferred, here. A thread's first call registers it.
#[inline]
pub fn pin() -> Guard {
    let local = CURRENT.get();
    if local.is_null() {
        return pin_slow();
    }
    // SAFETY: `HOME` holds it, and clears the word before it lets go.
    unsafe { Guard::enter(local) }
}

#[cold]
#[inline(never)]
fn pin_slow() -> Guard {
    let home = HOME.try_with(|home| {
        CURRENT.set(home.0.as_local());
        home.0.pin()
    });
    home.unwrap_or_else(|_| default_collector().register_as(None).pin())
}

/// Whether the calling thread has a guard of the default collector.
#[inline]
pub fn is_pinned() -> bool {
    // SAFETY: as in `pin`.
    unsafe { CURRENT.get().as_ref() }.is_some_and(Local::is_pinned)
}
