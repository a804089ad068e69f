//! The concurrency primitives everything else is built from: the standard library's, or loom's under
//! `--cfg quietus_loom`, behind one set of names.
//!
//! Nobody hands anything to this module; every module below takes its atomics, its one mutex, its cells and the number
//! of the calling thread from here. Statistics are the exception: [`stat`] is never instrumented, because a counter
//! that orders nothing should not multiply the executions that a model has to look at.
//!
//! # Ordering
//!
//! None of its own. [`Mutex`] orders as a mutex does: an unlock happens before the next successful lock.

#[cfg(quietus_loom)]
mod imp {
    pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};

    /// A try-lock with parking_lot's signatures. Not loom's own: that one makes a thread in `try_lock` wait for the
    /// holder, which may in turn wait for that thread to answer its heavy fence.
    pub(crate) struct Mutex<T> {
        locked: AtomicU64,
        value: UnsafeCell<T>,
    }

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex { locked: AtomicU64::new(0), value: UnsafeCell::new(value) }
        }

        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            // Acquire: pairs with the unlock below.
            self.locked.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).ok()?;
            Some(MutexGuard { lock: self, value: Some(self.value.get_mut()) })
        }
    }

    pub(crate) struct MutexGuard<'m, T> {
        lock: &'m Mutex<T>,
        value: Option<loom::cell::MutPtr<T>>,
    }

    impl<T> std::ops::Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            // SAFETY: the lock is held, and the guard is borrowed.
            unsafe { self.value.as_ref().expect("locked").deref() }
        }
    }

    impl<T> std::ops::DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            // SAFETY: the lock is held, and the guard is borrowed exclusively.
            unsafe { self.value.as_ref().expect("locked").deref() }
        }
    }

    impl<T> Drop for MutexGuard<'_, T> {
        fn drop(&mut self) {
            self.value = None;
            // Release: pairs with the exchange in try_lock.
            self.lock.locked.store(0, Ordering::Release);
        }
    }

    // SAFETY: the value is accessed by whoever holds the lock, one thread at a time.
    unsafe impl<T: Send> Sync for Mutex<T> {}
    // SAFETY: as above.
    unsafe impl<T: Send> Send for Mutex<T> {}

    loom::thread_local! {
        static NUMBER: u64 = super::next_number();
    }

    /// The calling model thread's number: never 0, never used twice.
    pub(crate) fn thread_number() -> u64 {
        NUMBER.with(|number| *number)
    }

    pub(crate) use loom::cell::UnsafeCell;
}

#[cfg(not(quietus_loom))]
mod imp {
    pub(crate) use parking_lot::Mutex;
    pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering, compiler_fence, fence};

    use std::cell::Cell;

    thread_local! {
        static NUMBER: Cell<u64> = const { Cell::new(0) };
    }

    /// The calling thread's number: never 0, never used twice in the life of the process.
    #[inline]
    pub(crate) fn thread_number() -> u64 {
        match NUMBER.try_with(Cell::get) {
            Ok(number) if number != 0 => number,
            _ => thread_number_slow(),
        }
    }

    #[cold]
    fn thread_number_slow() -> u64 {
        let number = super::next_number();
        // Where thread-locals are destroyed, a late caller gets a new number each time: what it claims under that
        // number is still its own, it merely cannot be recognised as such later.
        let _ = NUMBER.try_with(|cell| cell.set(number));
        number
    }

    /// The standard cell with loom's two accessors, which is all that is used here.
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(value: T) -> Self {
            UnsafeCell(std::cell::UnsafeCell::new(value))
        }

        #[inline]
        pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        #[inline]
        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

pub(crate) use imp::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Waits for a lock that is held for a moment only, without sleeping on it: nobody is ever registered as waiting, so that a fork
/// child need not clear that up.
pub(crate) fn hold<T>(lock: &parking_lot::Mutex<T>) -> parking_lot::MutexGuard<'_, T> {
    loop {
        match lock.try_lock() {
            Some(guard) => return guard,
            None => std::thread::yield_now(),
        }
    }
}

/// Runs somebody else's code. A panic ends that code, and nothing else; a panic of its payload's destructor not even that.
pub(crate) fn contain(f: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(f)) {
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(again);
        }
    }
}

/// Counters and hints: always the standard library's atomics, always `Relaxed`, never part of a proof.
pub(crate) mod stat {
    pub(crate) use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
}

fn next_number() -> u64 {
    static NEXT: stat::AtomicU64 = stat::AtomicU64::new(1);
    // Relaxed: a number of one's own.
    NEXT.fetch_add(1, stat::Relaxed)
}

/// A value that shares its cache line, and the one the hardware fetches with it, with nothing else.
#[repr(align(128))]
pub(crate) struct Line<T>(pub(crate) T);

/// Declares a constructor that is `const`, except under loom, whose atomics have no `const` constructors.
macro_rules! const_unless_loom {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty $body:block) => {
        #[cfg(not(quietus_loom))]
        $(#[$meta])*
        $vis const fn $name($($arg: $ty),*) -> $out $body

        #[cfg(quietus_loom)]
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) -> $out $body
    };
}
pub(crate) use const_unless_loom;
