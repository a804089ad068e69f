//! [`Rcu`]: a cell that readers follow without a lock and writers replace, all safe; and [`Retired`], what was in it.
//!
//! Users hand values in; replaced ones go to the global [`Domain`](crate::Domain) of the cell's flavour. Values live in slab memory
//! ([`SlabBox`]).
//!
//! # Ordering
//! T: publishing is AcqRel, following Acquire. The cookie of a [`Retired`] is taken after the exchange that unlinked it (F).

use crate::cookie::Cookie;
use crate::domain::Flavour;
use crate::flavour::Memb;
use quietus_slab::SlabBox;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicPtr,
    Ordering::{AcqRel, Acquire},
};

/// A value that readers load inside a section and writers replace: never null, `'static`, of the global domain of its flavour. The value lives in
/// slab memory ([`SlabBox`]); replaced ones are freed in batches, and dropped by the domain's worker if they have a destructor.
///
/// A static cell goes into a `LazyLock`: `static CONFIG: LazyLock<Rcu<Config>> = LazyLock::new(|| Rcu::new(Config::read()));`
///
/// ```
/// let config = quietus::Rcu::new(String::from("a"));
/// let guard = quietus::pin();
/// assert_eq!(config.load(&guard), "a");
/// drop(config.replace(String::from("b")));      // readers keep what they have
/// assert_eq!(config.load(&guard), "b");
/// ```
///
/// A reference does not outlive its guard, nor the cell:
///
/// ```compile_fail,E0505
/// let config = quietus::Rcu::new(String::from("a"));
/// let guard = quietus::pin();
/// let value = config.load(&guard);
/// drop(guard);
/// println!("{value}");
/// ```
///
/// ```compile_fail,E0502
/// let mut config = quietus::Rcu::new(String::from("a"));
/// let guard = quietus::pin();
/// let value = config.load(&guard);
/// config.get_mut().push('b');
/// println!("{value}");
/// ```
///
/// ```compile_fail,E0505
/// let config = quietus::Rcu::new(String::from("a"));
/// let guard = quietus::pin();
/// let value = config.load(&guard);
/// drop(config);
/// println!("{value}");
/// ```
///
/// (With the guard and the cell in force, all three are fine:)
///
/// ```
/// let mut config = quietus::Rcu::new(String::from("a"));
/// let guard = quietus::pin();
/// println!("{}", config.load(&guard));
/// drop(guard);
/// config.get_mut().push('b');
/// drop(config);
/// ```
///
/// The value goes from thread to thread:
///
/// ```compile_fail,E0277
/// quietus::Rcu::new(std::rc::Rc::new(1));
/// ```
///
/// A guard of a private domain does not open it:
///
/// ```compile_fail,E0308
/// let config = quietus::Rcu::new(String::from("a"));
/// let domain = quietus::Domain::new();
/// config.load(&domain.pin());
/// ```
///
/// Zero-sized values are refused, because two of them cannot be told apart by address:
///
/// ```compile_fail,E0080
/// quietus::Rcu::new(());
/// ```
///
/// Cells of another flavour say so in their type, and are opened by its sections only:
///
/// ```
/// use quietus::{Qsbr, Rcu, qsbr};
/// let limit: Rcu<u64, Qsbr> = Rcu::in_flavour(10);
/// assert_eq!(limit.load(&qsbr::reader()), &10);
/// ```
///
/// ```compile_fail,E0308
/// use quietus::{Qsbr, Rcu};
/// let limit: Rcu<u64, Qsbr> = Rcu::in_flavour(10);
/// assert_eq!(limit.load(&quietus::pin()), &10);
/// ```
pub struct Rcu<T: Send + Sync + 'static, F: Flavour = Memb> {
    value: AtomicPtr<T>,
    /// Owns a T, and hands it to other threads when it is replaced.
    _owns: PhantomData<SlabBox<T>>,
    _flavour: PhantomData<fn() -> F>,
}

impl<T: Send + Sync + 'static> Rcu<T> {
    /// A cell with a value, of the default flavour.
    pub fn new(value: T) -> Self {
        Self::from_box(SlabBox::new(value))
    }

    /// A cell with a value that is in slab memory already, of a typed cache for example.
    pub fn from_box(value: SlabBox<T>) -> Self {
        Self::in_flavour_box(value)
    }
}

impl<T: Send + Sync + 'static, F: Flavour> Rcu<T, F> {
    const SIZED: () = assert!(size_of::<T>() != 0, "zero-sized values cannot be told apart by address");

    /// A cell with a value, of any flavour.
    pub fn in_flavour(value: T) -> Self {
        Self::in_flavour_box(SlabBox::new(value))
    }

    /// [`in_flavour`](Self::in_flavour) with a value that is in slab memory already.
    pub fn in_flavour_box(value: SlabBox<T>) -> Self {
        const { Self::SIZED };
        Rcu { value: AtomicPtr::new(SlabBox::into_raw(value).as_ptr()), _owns: PhantomData, _flavour: PhantomData }
    }

    /// The value, as long as both the section and the cell live. A load.
    #[inline(always)]
    pub fn load<'g>(&'g self, _section: &'g F::Guard) -> &'g T {
        // Acquire: pairs with the exchanges below (T), after the slot's store and the light fence (B).
        let value = self.value.load(Acquire);
        // SAFETY: never null. The value was published live; it is freed by `Retired`, a grace period after it was replaced, which
        // this section holds up, or by the cell's Drop or `get_mut`, which cannot run while `&'g self` lives.
        unsafe { &*value }
    }

    /// Publishes another value; the old one is returned, still seen by sections that are open now.
    pub fn replace(&self, value: T) -> Retired<T, F> {
        self.replace_box(SlabBox::new(value))
    }

    /// [`replace`](Self::replace) with a value that is in slab memory already.
    pub fn replace_box(&self, value: SlabBox<T>) -> Retired<T, F> {
        let _ = F::domain(); // before the old value is out: making the domain may panic
        // AcqRel: publishes the new value to `load`, acquires the old one's contents (T).
        let old = self.value.swap(SlabBox::into_raw(value).as_ptr(), AcqRel);
        // SAFETY: (1) the exchange unlinked it, and only this call got it.
        unsafe { Retired::new(old) }
    }

    /// Publishes another value if `current`, which this section has loaded, is still there; else hands the new one back.
    pub fn compare_replace<'g>(
        &'g self,
        current: &'g T,
        value: SlabBox<T>,
        _section: &'g F::Guard,
    ) -> Result<Retired<T, F>, SlabBox<T>> {
        let _ = F::domain(); // as in `replace_box`
        let new = SlabBox::into_raw(value);
        // AcqRel, Acquire: as in `replace_box` (T). `current` cannot have been freed and come back: the section holds it.
        match self.value.compare_exchange(std::ptr::from_ref(current).cast_mut(), new.as_ptr(), AcqRel, Acquire) {
            // SAFETY: (1) the exchange unlinked it, and only this call got it.
            Ok(old) => Ok(unsafe { Retired::new(old) }),
            // SAFETY: from `into_raw` above, never published.
            Err(_) => Err(unsafe { SlabBox::from_raw(new) }),
        }
    }

    /// The value, for the cell's only user.
    pub fn get_mut(&mut self) -> &mut T {
        // SAFETY: never null; `&mut self` excludes every reference that `load` gave out.
        unsafe { &mut **self.value.get_mut() }
    }

    /// Takes the value out.
    pub fn into_box(self) -> SlabBox<T> {
        let mut this = std::mem::ManuallyDrop::new(self);
        // SAFETY: as in `get_mut`; the cell is not used again.
        unsafe { SlabBox::from_raw(NonNull::new_unchecked(*this.value.get_mut())) }
    }
}

impl<T: Send + Sync + 'static, F: Flavour> Drop for Rcu<T, F> {
    fn drop(&mut self) {
        // SAFETY: never null, ours alone: `load` ties what it gives out to the cell.
        drop(unsafe { SlabBox::from_raw(NonNull::new_unchecked(*self.value.get_mut())) });
    }
}

impl<T: Send + Sync + fmt::Debug + 'static, F: Flavour> fmt::Debug for Rcu<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        F::in_section(|section| f.debug_tuple("Rcu").field(self.load(section)).finish())
    }
}

/// A value that was replaced: sections that were open then may still read it. Dropping it frees it after their grace period,
/// in a batch.
#[must_use = "dropping it frees the value after a grace period; `wait` gives it back"]
pub struct Retired<T: Send + Sync + 'static, F: Flavour = Memb> {
    value: NonNull<T>,
    cookie: Cookie<'static, F>,
}

// SAFETY: whoever has it may read the value, and after the grace period owns it.
unsafe impl<T: Send + Sync, F: Flavour> Send for Retired<T, F> {}
// SAFETY: a shared one only reads.
unsafe impl<T: Send + Sync, F: Flavour> Sync for Retired<T, F> {}

impl<T: Send + Sync + 'static, F: Flavour> Retired<T, F> {
    /// # Safety
    /// 1. `old` was unlinked by the caller alone, and came from `SlabBox::into_raw`.
    unsafe fn new(old: *mut T) -> Self {
        // After the unlink (F).
        let cookie = F::domain().cookie();
        // SAFETY: by (1).
        Retired { value: unsafe { NonNull::new_unchecked(old) }, cookie }
    }

    /// Waits for the grace period and gives the value back.
    ///
    /// # Panics
    /// Inside a section: it would wait for itself. The value is then freed after a grace period all the same.
    #[track_caller]
    pub fn wait(self) -> SlabBox<T> {
        self.cookie.wait();
        self.into_box()
    }

    /// Gives the value back if its grace period is over.
    pub fn try_reclaim(self) -> Result<SlabBox<T>, Self> {
        if self.cookie.is_elapsed() { Ok(self.into_box()) } else { Err(self) }
    }

    /// The grace period after which nobody else sees the value.
    pub fn cookie(&self) -> Cookie<'static, F> {
        self.cookie
    }

    fn into_box(self) -> SlabBox<T> {
        let value = self.value;
        std::mem::forget(self);
        // SAFETY: the grace period is over: nobody else can reach it, and we were its owner.
        unsafe { SlabBox::from_raw(value) }
    }
}

impl<T: Send + Sync + 'static, F: Flavour> Deref for Retired<T, F> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: live until we give it up; others only read.
        unsafe { self.value.as_ref() }
    }
}

impl<T: Send + Sync + 'static, F: Flavour> Drop for Retired<T, F> {
    fn drop(&mut self) {
        // SAFETY: (1) unlinked, ours, in slab memory; (2) T is 'static.
        unsafe { F::domain().retire(self.value) }
    }
}

impl<T: Send + Sync + fmt::Debug + 'static, F: Flavour> fmt::Debug for Retired<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Retired").field(&**self).finish()
    }
}
