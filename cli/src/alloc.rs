//! The allocator under everything that is not ours: mimalloc, or the system's, chosen per process.
//!
//! Memory must go back to the allocator it came from, so the choice is made at the very first allocation, which is before
//! `main`, and never changes: the environment variable [`VARIABLE`], set by the program when it starts a run.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU8, Ordering};

use clap::ValueEnum;
use mimalloc::MiMalloc;

/// Says which allocator a process is to use. Only looked at when the process starts.
pub(crate) const VARIABLE: &str = "QUIETUS_ALLOC";

/// Which allocator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Allocator {
    /// The one built in
    Mimalloc,
    /// malloc, as the system has it
    System,
}

impl Allocator {
    /// Its name on the command line and in the variable.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Allocator::Mimalloc => "mimalloc",
            Allocator::System => "system",
        }
    }
}

const UNDECIDED: u8 = 0;
const MIMALLOC: u8 = 1;
const SYSTEM: u8 = 2;

/// The choice, once made.
static CHOICE: AtomicU8 = AtomicU8::new(UNDECIDED);

/// Passes every call on to the allocator chosen.
struct Chosen;

#[global_allocator]
static GLOBAL: Chosen = Chosen;

impl Chosen {
    #[inline]
    fn is_system(&self) -> bool {
        // Relaxed: threads that find it undecided decide the same.
        match CHOICE.load(Ordering::Relaxed) {
            UNDECIDED => decide() == SYSTEM,
            choice => choice == SYSTEM,
        }
    }
}

/// Looks at the variable, without allocating: `std::env` would.
#[cold]
fn decide() -> u8 {
    // SAFETY: a constant string that ends in a zero. Nothing in this program changes the environment.
    let value = unsafe { libc::getenv(c"QUIETUS_ALLOC".as_ptr()) };
    let system = !value.is_null() && {
        // SAFETY: a variable's value is a string that ends in a zero, and stays.
        let value = unsafe { std::ffi::CStr::from_ptr(value) };
        value == c"system"
    };
    let choice = if system { SYSTEM } else { MIMALLOC };
    // Relaxed: as in `is_system`.
    CHOICE.store(choice, Ordering::Relaxed);
    choice
}

// SAFETY: both are allocators, and the choice between them is the same for every call in the life of the process: it
// depends only on a variable of the environment that nothing here changes.
unsafe impl GlobalAlloc for Chosen {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe { if self.is_system() { System.alloc(layout) } else { MiMalloc.alloc(layout) } }
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's; the same allocator as in `alloc`.
        unsafe { if self.is_system() { System.dealloc(memory, layout) } else { MiMalloc.dealloc(memory, layout) } }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe { if self.is_system() { System.alloc_zeroed(layout) } else { MiMalloc.alloc_zeroed(layout) } }
    }

    #[inline]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's; the same allocator as in `alloc`.
        unsafe {
            if self.is_system() { System.realloc(memory, layout, size) } else { MiMalloc.realloc(memory, layout, size) }
        }
    }
}
