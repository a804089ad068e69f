//! The concurrency primitives this crate is built from: the standard library's and the allocator's lock, behind one set of names, so
//! that models can put others in their place.
//!
//! Nobody hands anything to this module; atomics that are no statistics, locks, waiting and clocks come from here. The models of
//! quietus's tests/kvfree_loom include some of the modules as they are, beside a `sync` of their own.
//!
//! # Ordering
//! None of its own.

pub(crate) use parking_lot::Mutex;
pub(crate) use quietus_slab::raw::{Held, Lock};
pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
pub(crate) use std::time::Instant;
pub(crate) use std::{thread, thread_local};
