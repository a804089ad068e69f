//! The primitives as scheduling points of shuttle, which runs all threads of a schedule as coroutines of one, under `--cfg quietus_shuttle`.
//!
//! Atomics are the standard library's, each operation behind a scheduling point (so zeroed memory is valid, as planes need it);
//! schedules are sequentially consistent. Time goes on by looking at it. What is not from here (the allocator's locks and per-CPU
//! sections, statistics) runs between two scheduling points.

use std::cell::Cell;
use std::ops::{Add, Deref, DerefMut, Sub};
use std::sync::atomic::{AtomicU64 as Plain, Ordering::Relaxed};
use std::time::Duration;

pub(crate) use shuttle::thread_local;

fn point() {
    shuttle::thread::sleep(Duration::ZERO);
}

macro_rules! atomic {
    ($($name:ident $(<$t:ident>)?: $value:ty = $zero:expr;)*) => {$(
        #[repr(transparent)]
        #[derive(Debug)]
        pub(crate) struct $name $(<$t>)? (std::sync::atomic::$name $(<$t>)?);

        impl $(<$t>)? $name $(<$t>)? {
            pub(crate) const fn new(value: $value) -> Self {
                $name(std::sync::atomic::$name::new(value))
            }
        }

        impl $(<$t>)? Default for $name $(<$t>)? {
            fn default() -> Self {
                Self::new($zero)
            }
        }

        impl $(<$t>)? Deref for $name $(<$t>)? {
            type Target = std::sync::atomic::$name $(<$t>)?;
            fn deref(&self) -> &Self::Target {
                point();
                &self.0
            }
        }
    )*};
}

atomic! {
    AtomicBool: bool = false;
    AtomicPtr<T>: *mut T = std::ptr::null_mut();
    AtomicU32: u32 = 0;
    AtomicU64: u64 = 0;
    AtomicUsize: usize = 0;
}

/// Both the crate's mutex and the allocator's: no signal handler is ever in the way.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

pub(crate) type Lock<T> = Mutex<T>;
pub(crate) type Held<'a, T> = Guard<'a, T>;

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Mutex(shuttle::sync::Mutex::new(value))
    }
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        Guard(self.0.lock().expect("not poisoned"))
    }
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.0.try_lock().ok().map(Guard)
    }
}

pub(crate) fn hold_mutex<T>(mutex: &Mutex<T>) -> Guard<'_, T> {
    mutex.lock()
}

pub(crate) struct Guard<'a, T>(shuttle::sync::MutexGuard<'a, T>);

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// A clock that goes on by a millisecond each time somebody looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Instant {
        static NOW: Plain = Plain::new(0);
        // Relaxed: a number.
        Instant(Duration::from_millis(NOW.fetch_add(1, Relaxed)))
    }
    pub(crate) fn elapsed(&self) -> Duration {
        Instant::now().0.saturating_sub(self.0)
    }
}

impl Instant {
    pub(crate) fn checked_add(self, span: Duration) -> Option<Instant> {
        self.0.checked_add(span).map(Instant)
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Instant) -> Duration {
        self.0 - earlier.0
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, span: Duration) -> Instant {
        Instant(self.0 + span)
    }
}

std::thread_local! {
    static DEAF: Cell<bool> = const { Cell::new(false) };
}

/// A bug to be found: from now on, in this test, nobody can be woken.
#[doc(hidden)]
pub fn deafen() {
    DEAF.set(true);
}

/// Threads, with a parking place that is left only when woken, or when its time is over: at any moment.
pub(crate) mod thread {
    use super::DEAF;
    pub(crate) use shuttle::thread::{sleep, yield_now};
    use std::sync::Arc;
    use std::time::Duration;

    #[derive(Clone, Default)]
    pub(crate) struct Thread(Arc<Place>);

    #[derive(Default)]
    struct Place {
        token: shuttle::sync::Mutex<bool>,
        woken: shuttle::sync::Condvar,
    }

    shuttle::thread_local! {
        static ME: Thread = Thread::default();
    }

    impl Thread {
        pub(crate) fn unpark(&self) {
            if !DEAF.get() {
                *self.0.token.lock().expect("not poisoned") = true;
                self.0.woken.notify_one();
            }
        }
    }

    pub(crate) fn current() -> Thread {
        ME.with(Clone::clone)
    }

    pub(crate) fn park() {
        let Thread(place) = ME.with(Clone::clone);
        let mut token = place.token.lock().expect("not poisoned");
        while !*token {
            token = place.woken.wait(token).expect("not poisoned");
        }
        *token = false;
    }

    pub(crate) fn park_timeout(_: Duration) {
        *ME.with(Clone::clone).0.token.lock().expect("not poisoned") = false;
        yield_now();
    }

    pub(crate) struct JoinHandle<T>(shuttle::thread::JoinHandle<T>, Thread);

    impl<T> JoinHandle<T> {
        pub(crate) fn thread(&self) -> &Thread {
            &self.1
        }
        pub(crate) fn join(self) -> std::thread::Result<T> {
            self.0.join()
        }
    }

    pub(crate) struct Builder(shuttle::thread::Builder);

    impl Builder {
        pub(crate) fn new() -> Self {
            Builder(shuttle::thread::Builder::new())
        }
        pub(crate) fn name(self, name: String) -> Self {
            Builder(self.0.name(name))
        }
        pub(crate) fn spawn<T: Send + 'static>(
            self,
            f: impl FnOnce() -> T + Send + 'static,
        ) -> std::io::Result<JoinHandle<T>> {
            let (tell, told) = shuttle::sync::mpsc::channel();
            let handle = self.0.spawn(move || {
                tell.send(ME.with(Clone::clone)).expect("waited for");
                f()
            })?;
            Ok(JoinHandle(handle, told.recv().expect("sent first")))
        }
    }
}
