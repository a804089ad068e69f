//! kvfree's `sync` over loom, with the means to weaken it: while an operation is [planted](plant), it is done as the bug would do it.

pub(crate) use loom::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
pub(crate) use std::time::Instant;

use quietus::model::interrupt;
use std::cell::{Cell, UnsafeCell};
use std::ops::{Deref, DerefMut};

/// A bug in the place of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plant {
    Nothing,
    /// Setting bits, for objects and dirty parts, Relaxed.
    BitsRelaxed,
    /// Taking bits and dirty marks, Relaxed.
    TakeBitsRelaxed,
    /// The exchange that queues an object, Relaxed.
    PushRelaxed,
    /// The exchange that takes a list, Relaxed.
    TakeListRelaxed,
    /// The swap of a flag: a load, then a store.
    SwapTorn,
    /// The look at a flag takes it back at once.
    ClearedFirst,
}

thread_local! {
    // loom runs all threads of a model on the thread of the test.
    static PLANT: Cell<Plant> = const { Cell::new(Plant::Nothing) };
}

/// From now on this test's operations have that bug.
pub(crate) fn plant(bug: Plant) {
    PLANT.set(bug);
}

fn unless(bug: Plant, order: Ordering) -> Ordering {
    interrupt();
    if PLANT.get() == bug { Ordering::Relaxed } else { order }
}

macro_rules! over_loom {
    ($name:ident $(<$t:ident>)?) => {
        #[derive(Default, Debug)]
        pub(crate) struct $name $(<$t>)? (loom::sync::atomic::$name $(<$t>)?);

        impl $(<$t>)? Deref for $name $(<$t>)? {
            type Target = loom::sync::atomic::$name $(<$t>)?;
            fn deref(&self) -> &Self::Target {
                &self.0
            }
        }
    };
}

over_loom!(AtomicU64);
over_loom!(AtomicBool);

impl AtomicU64 {
    pub(crate) fn new(value: u64) -> Self {
        AtomicU64(loom::sync::atomic::AtomicU64::new(value))
    }
    pub(crate) fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        self.0.fetch_or(bits, unless(Plant::BitsRelaxed, order))
    }
    pub(crate) fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.0.swap(value, unless(Plant::TakeBitsRelaxed, order))
    }
}

impl AtomicBool {
    pub(crate) fn new(value: bool) -> Self {
        AtomicBool(loom::sync::atomic::AtomicBool::new(value))
    }
    pub(crate) fn load(&self, order: Ordering) -> bool {
        let value = self.0.load(order);
        if value && PLANT.get() == Plant::ClearedFirst {
            self.0.swap(false, Ordering::AcqRel);
        }
        value
    }
    pub(crate) fn swap(&self, value: bool, order: Ordering) -> bool {
        if PLANT.get() == Plant::SwapTorn {
            let old = self.0.load(Ordering::Acquire);
            self.0.store(value, Ordering::Release);
            return old;
        }
        self.0.swap(value, order)
    }
    /// As an exchange: loom does not see that a store cannot come between another thread's exchange and what that has read.
    pub(crate) fn store(&self, value: bool, order: Ordering) {
        if !value {
            crate::world::world().filling.set(false);
        }
        self.0.swap(value, order);
    }
}

#[derive(Debug)]
pub(crate) struct AtomicPtr<T>(loom::sync::atomic::AtomicPtr<T>);

impl<T> Default for AtomicPtr<T> {
    fn default() -> Self {
        AtomicPtr::new(std::ptr::null_mut())
    }
}

impl<T> AtomicPtr<T> {
    pub(crate) fn new(value: *mut T) -> Self {
        AtomicPtr(loom::sync::atomic::AtomicPtr::new(value))
    }
    pub(crate) fn load(&self, order: Ordering) -> *mut T {
        self.0.load(order)
    }
    pub(crate) fn store(&self, value: *mut T, order: Ordering) {
        self.0.store(value, order);
    }
    pub(crate) fn swap(&self, value: *mut T, order: Ordering) -> *mut T {
        self.0.swap(value, unless(Plant::TakeListRelaxed, order))
    }
    pub(crate) fn compare_exchange_weak(
        &self,
        old: *mut T,
        new: *mut T,
        order: Ordering,
        failed: Ordering,
    ) -> Result<*mut T, *mut T> {
        self.0.compare_exchange_weak(old, new, unless(Plant::PushRelaxed, order), failed)
    }
}

/// parking_lot's mutex. Not loom's own: that one makes a thread in `try_lock` wait for the holder.
pub(crate) struct Mutex<T> {
    locked: loom::sync::atomic::AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is accessed by whoever holds the lock, one thread at a time.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Mutex { locked: loom::sync::atomic::AtomicBool::new(false), value: UnsafeCell::new(value) }
    }
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        // Acquire: pairs with the unlock below.
        self.locked.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(Guard(self))
    }
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            interrupt();
            loom::thread::yield_now();
        }
    }
}

pub(crate) fn hold_mutex<T>(mutex: &Mutex<T>) -> Guard<'_, T> {
    mutex.lock()
}

pub(crate) struct Guard<'m, T>(&'m Mutex<T>);

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the lock is held.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held, and the guard is borrowed exclusively.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // Release: pairs with the exchange in try_lock.
        self.0.locked.store(false, Ordering::Release);
    }
}
