//! The global allocator of a test binary: counts what a thread asks of it, and refuses when the thread has said so.
//!
//! Only binaries that have line 1 or the end of line 2 of S4 to show use it, by `mod memory` beside `mod support`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static FAILS: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: null, or what `System` does.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
        if FAILS.try_with(Cell::get).unwrap_or(false) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
        // SAFETY: the caller's.
        unsafe { System.dealloc(p, layout) }
    }
}

/// Calls of the allocator made by this thread.
#[allow(dead_code)] // each test binary uses its part
pub(crate) fn calls() -> u64 {
    CALLS.get()
}

/// Runs `f`; meanwhile this thread gets no memory from the global allocator.
#[allow(dead_code)] // each test binary uses its part
pub(crate) fn failing<R>(f: impl FnOnce() -> R) -> R {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            FAILS.set(false);
        }
    }
    let _reset = Reset;
    FAILS.set(true);
    f()
}
