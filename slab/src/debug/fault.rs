//! [`Corruption`]: what a check has found, its text, and the hook that it is handed to.
//!
//! Made by [`check`](super::check), outside every lock.
//!
//! # Ordering
//! The hook: Release to set, Acquire to call.

use super::owner::Owner;
use std::fmt;
use std::mem::transmute;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicPtr,
    Ordering::{Acquire, Release},
};

/// Which side of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Before its first byte.
    Left,
    /// Behind its last byte.
    Right,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Somebody wrote outside an object. The slab is frozen.
    RedZone {
        /// On which side.
        side: Side,
        /// The first such byte, relative to the object.
        offset: isize,
        /// What it should be.
        expected: u8,
        /// What it is.
        found: u8,
    },
    /// Somebody wrote to an object that was free. The slab is frozen.
    UseAfterFree {
        /// The first such byte, relative to the object.
        offset: isize,
        /// What it should be.
        expected: u8,
        /// What it is.
        found: u8,
    },
    /// A slab's bitmap has so many bits, its count says otherwise. The slab is frozen.
    Count {
        /// Free objects by the bitmap.
        expected: u32,
        /// Free objects by the count.
        found: u32,
    },
    /// The object is free. Nothing was done.
    DoubleFree,
    /// The object belongs to another cache. It is leaked.
    WrongCache {
        /// The name of that cache.
        owner: &'static str,
    },
    /// No object of any cache is there. Nothing was done.
    Foreign,
    /// No object begins there. Nothing was done.
    Interior {
        /// The object that the address lies in, or nearest to.
        object: usize,
    },
}

/// What a check has found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Corruption {
    /// The cache's name.
    pub cache: &'static str,
    /// The object, or the address that was to be freed.
    pub address: usize,
    /// Bytes of an object of the cache.
    pub object_bytes: u32,
    /// What is wrong.
    pub fault: Fault,
    /// Who allocated the object last, if the cache [tracks owners](super::DebugFlags::OWNERS).
    pub allocated: Option<Arc<Owner>>,
    /// Who freed it last.
    pub freed: Option<Arc<Owner>>,
    /// Who did what was found just now: the free, or the allocation.
    pub now: Option<Arc<Owner>>,
}

impl Corruption {
    /// Is its slab out of use from now on, and its memory leaked?
    pub fn froze_slab(&self) -> bool {
        matches!(self.fault, Fault::RedZone { .. } | Fault::UseAfterFree { .. } | Fault::Count { .. })
    }
}

impl fmt::Display for Corruption {
    /// Several lines: what, where, what was expected and found, who it was, what was done about it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Corruption { cache, address, object_bytes, .. } = *self;
        let byte = |f: &mut fmt::Formatter<'_>, offset: isize, expected: u8, found: u8| {
            write!(f, "\n  byte {offset:+} is {found:#04x}, expected {expected:#04x}")
        };
        write!(f, "quietus-slab: cache {cache}: ")?;
        match self.fault {
            Fault::Foreign | Fault::WrongCache { .. } | Fault::Interior { .. } => write!(f, "address {address:#x}: ")?,
            _ => write!(f, "object {address:#x} of {object_bytes} bytes: ")?,
        }
        let done = match self.fault {
            Fault::RedZone { side, offset, expected, found } => {
                let side = if side == Side::Left { "before" } else { "behind" };
                write!(f, "bytes {side} it were written to")?;
                byte(f, offset, expected, found)?;
                "the slab is frozen and its memory leaked"
            }
            Fault::UseAfterFree { offset, expected, found } => {
                f.write_str("written to after it was freed")?;
                byte(f, offset, expected, found)?;
                "the slab is frozen and its memory leaked"
            }
            Fault::Count { expected, found } => {
                f.write_str("its slab's descriptor was written to")?;
                write!(f, "\n  the slab counts {found} free objects, expected {expected}")?;
                "the slab is frozen and its memory leaked"
            }
            Fault::DoubleFree => {
                f.write_str("freed twice\n  expected an object in use, found a free one")?;
                "nothing was freed"
            }
            Fault::WrongCache { owner } => {
                f.write_str("freed to the wrong cache")?;
                write!(f, "\n  expected an object of cache {cache}, found one of cache {owner}")?;
                "the object is leaked"
            }
            Fault::Foreign => {
                f.write_str("freed, but not allocated here\n  expected an object of a cache, found none")?;
                "nothing was freed"
            }
            Fault::Interior { object } => {
                f.write_str("freed, but lies inside an object")?;
                let offset = address.wrapping_sub(object) as isize;
                write!(f, "\n  expected the first byte of an object, found {object:#x} {offset:+}")?;
                "nothing was freed"
            }
        };
        for (what, owner) in [("allocated", &self.allocated), ("freed", &self.freed), ("found", &self.now)] {
            if let Some(owner) = owner {
                write!(f, "\n  {what} by {owner}")?;
            }
        }
        write!(f, "\n  {done}")
    }
}

/// Who is told; null: standard error.
static HOOK: AtomicPtr<()> = AtomicPtr::new(null_mut());

/// Who is told of what the checks of debugging and hardened caches find, from now on, in any thread. `None`, as at first: standard error.
/// The hook runs in the middle of an allocation or a free, outside the allocator's locks; it may use other caches. A panic in it ends there.
/// (Whether the program is then aborted is the cache's: [`abort_on_corruption`](crate::CacheBuilder::abort_on_corruption).)
pub fn on_corruption(hook: Option<fn(&Corruption)>) {
    // Release: pairs with the load in `report`.
    HOOK.store(hook.map_or(null_mut(), |f| f as *mut ()), Release);
}

/// Says it, and aborts if that is wanted.
pub(super) fn report(corruption: &Corruption, abort: bool) {
    // Acquire: pairs with the store in `on_corruption`.
    let hook = HOOK.load(Acquire);
    let told = catch_unwind(AssertUnwindSafe(|| {
        if hook.is_null() {
            eprintln!("{corruption}");
        } else {
            // SAFETY: stored from such a function; both have the size of a pointer.
            unsafe { transmute::<*mut (), fn(&Corruption)>(hook)(corruption) }
        }
    }));
    if abort {
        std::process::abort();
    }
    if let Err(payload) = told {
        std::mem::forget(payload); // its destructor might panic, too
    }
}
