//! `Atomic` and `Shared` on one thread: tags, null, exchanges.

use crate::atomic::{Atomic, Shared};
use crate::memb::pin;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

#[test]
fn tags_travel_with_the_pointer() {
    let value = 7_u64;
    // SAFETY: (1), (2) a local that lives to the end.
    let object = unsafe { Shared::from_raw(NonNull::from(&value)) };
    let (atomic, guard) = (Atomic::null(), pin());
    assert!(atomic.load(Acquire, &guard).is_null());
    atomic.store(object.with_tag(5), Release);
    let loaded = atomic.load(Acquire, &guard);
    assert_eq!((loaded.tag(), loaded.as_raw().cast_const()), (5, &raw const value));
    assert_ne!(loaded, object);
    assert_eq!(loaded.with_tag(0), object);
    // SAFETY: a local that lives to the end, and nobody writes to it.
    assert_eq!(unsafe { (*loaded.deref(), loaded.as_ref().copied()) }, (7, Some(7)));
    // An u64 leaves three bits free; the others are ignored.
    assert_eq!(object.with_tag(0xff).tag(), 7);
    assert_eq!(object.with_tag(0xff).as_raw(), object.as_raw());
}

#[test]
fn null_may_be_tagged() {
    let (atomic, guard) = (Atomic::<u64>::null(), pin());
    assert_eq!(atomic.fetch_or(0xf1, AcqRel, &guard).tag(), 0);
    let loaded = atomic.load(Acquire, &guard);
    assert!(loaded.is_null());
    assert_eq!(loaded.tag(), 1);
    // SAFETY: it is null.
    assert!(unsafe { loaded.as_ref() }.is_none());
}

#[test]
fn exchanges_compare_pointer_and_tag() {
    let values = [1_u64, 2];
    // SAFETY: (1), (2) locals that live to the end.
    let [first, second] = [0, 1].map(|index: usize| unsafe { Shared::from_raw(NonNull::from(&values[index])) });
    let guard = pin();
    let mut atomic = Atomic::new(first);
    assert_eq!(atomic.compare_exchange(first.with_tag(1), second, AcqRel, Acquire, &guard), Err(first));
    assert_eq!(atomic.compare_exchange(first, second, AcqRel, Acquire, &guard), Ok(first));
    assert_eq!(atomic.fetch_or(1, AcqRel, &guard), second);
    assert_eq!(atomic.compare_exchange(second, first, AcqRel, Acquire, &guard), Err(second.with_tag(1)));
    while atomic.compare_exchange_weak(second.with_tag(1), first, AcqRel, Acquire, &guard).is_err() {}
    assert_eq!(atomic.swap(second.with_tag(3), AcqRel, &guard), first);
    assert_eq!(atomic.take().map(NonNull::as_ptr), Some(second.as_raw()));
    assert_eq!(atomic.take(), None);
}

#[test]
fn a_byte_has_no_room_for_a_tag() {
    let value = 1_u8;
    // SAFETY: (1), (2) a local that lives to the end.
    let object = unsafe { Shared::from_raw(NonNull::from(&value)) };
    assert_eq!(object.with_tag(1), object);
    assert_eq!(Atomic::new(object).fetch_or(1, AcqRel, &pin()), object);
}
