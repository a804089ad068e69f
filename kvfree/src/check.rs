//! Debug mode: has an object been retired that is retired already?
//!
//! Asked by [`collect`](crate::collect), told by everything that frees. Slab objects have a bit in a [`Plane`] of the whole process, so
//! that retiring one to two domains is noticed, too; boxes are kept in a set. Nothing here is on the path of a `Kvfree` without debug
//! mode but one load per freed object of those that have a destructor, and one per block.

use crate::plane::{self, Plane};
use crate::sync::{
    AtomicBool, AtomicU64,
    Ordering::{AcqRel, Relaxed},
};
use parking_lot::{Mutex, MutexGuard};
use quietus_slab::raw;
use std::collections::HashSet;
use std::sync::OnceLock;

static ACTIVE: AtomicBool = AtomicBool::new(false);
static RETIRED: OnceLock<Plane> = OnceLock::new();
static BOXES: Mutex<Option<HashSet<usize>>> = Mutex::new(None);

/// What is retired, as far as this module is concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Slab,
    Box,
    /// A pointer that means nothing to us.
    Call,
}

/// A `Kvfree` in debug mode has been made.
pub(crate) fn activate() {
    quietus_slab::raw::once(&RETIRED, Plane::new);
    // Relaxed: an object that is freed without being forgotten was retired by a `Kvfree` without debug mode.
    ACTIVE.store(true, Relaxed);
}

/// Notes that an object is retired; false if it is already.
pub(crate) fn first(p: *mut u8, what: What) -> bool {
    match what {
        What::Slab => match word(p) {
            // AcqRel: of two that retire the object one is first.
            Some((word, bit)) => word.fetch_or(bit, AcqRel) & bit == 0,
            None => true,
        },
        // Only tried: a signal handler may have interrupted somebody who is at it. What is not noted is not noticed.
        What::Box => {
            let tries = std::iter::repeat_with(|| BOXES.try_lock()).take(1000);
            tries.flatten().next().is_none_or(|mut boxes| {
                let boxes = boxes.get_or_insert_default();
                boxes.try_reserve(1).is_err() || boxes.insert(p.addr())
            })
        }
        What::Call => true,
    }
}

/// Notes that a slab object is about to be freed, its grace period being over.
#[inline]
pub(crate) fn freed(p: *mut u8) {
    // Relaxed: see `activate`.
    if ACTIVE.load(Relaxed) {
        if let Some((word, bit)) = word(p) {
            // AcqRel: before the object can be retired again.
            word.fetch_and(!bit, AcqRel);
        }
    }
}

/// Is there anything to be told about a block's objects?
pub(crate) fn is_active() -> bool {
    // Relaxed: see `activate`.
    ACTIVE.load(Relaxed)
}

/// The set, without sleeping on its lock: a fork child finds nobody asleep there.
fn boxes() -> MutexGuard<'static, Option<HashSet<usize>>> {
    loop {
        match BOXES.try_lock() {
            Some(boxes) => return boxes,
            None => std::thread::yield_now(),
        }
    }
}

/// Nobody is in the middle of anything here until the answer is dropped.
pub(crate) fn freeze() -> impl Sized + 'static {
    boxes()
}

/// Notes that a box is about to be freed.
pub(crate) fn freed_box(p: *mut u8) {
    // Relaxed: see `activate`.
    if ACTIVE.load(Relaxed) {
        if let Some(boxes) = boxes().as_mut() {
            boxes.remove(&p.addr());
        }
    }
}

fn word(p: *mut u8) -> Option<(&'static AtomicU64, u64)> {
    // SAFETY: whoever retires or frees `p` as a slab object says that it is one.
    let (segment, _, offset) = unsafe { raw::place(p) };
    let (word, bit) = plane::at(offset);
    Some((&RETIRED.get()?.words(segment)?[word], bit))
}

/// What debug mode says about a second retire, which is ignored.
#[cold]
pub(crate) fn report(p: *mut u8) {
    let trace = std::backtrace::Backtrace::capture();
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("without a name");
    eprintln!("quietus: object {p:p} was retired twice; the second retire, by thread {name}, is ignored");
    match trace.status() {
        std::backtrace::BacktraceStatus::Captured => eprintln!("{trace}"),
        _ => eprintln!("(RUST_BACKTRACE=1 shows where)"),
    }
}
