//! The interface of crossbeam-epoch 0.9 on [quietus]: a drop-in for `[patch.crates-io]`.
//!
//! A structure that is written for crossbeam-epoch compiles against this package unchanged. What it hands to a guard goes through
//! quietus instead: into a page-sized block of its CPU, and after its grace period from there to its destructor, many at a time.
//!
//! ```
//! use crossbeam_epoch::{self as epoch, Atomic, Owned};
//! use std::sync::atomic::Ordering::{AcqRel, Acquire};
//!
//! let limit = Atomic::new(10);
//! let guard = epoch::pin();
//! let old = limit.swap(Owned::new(20), AcqRel, &guard);
//! // SAFETY: unlinked by us alone; those who still read it are pinned.
//! unsafe { guard.defer_destroy(old) };
//! // SAFETY: never null, and not destroyed while we are pinned.
//! assert_eq!(unsafe { limit.load(Acquire, &guard).deref() }, &20);
//! // SAFETY: the last one, and nobody else has `limit`.
//! drop(unsafe { limit.into_owned() });
//! ```
//!
//! README.md says what differs. In short: no thread is started, deferred functions run where somebody pins or flushes, as they do
//! there; a panic in one of them is caught, and counted; garbage is bounded by bytes, and half-full blocks are emptied by age.
//!
//! | for | there is |
//! | --- | --- |
//! | being inside | [`pin`], [`Guard`], [`LocalHandle`] |
//! | pointers | [`Atomic`], [`Owned`], [`Shared`] |
//! | garbage of one's own | [`Collector`] |
//! | nobody else there | [`unprotected`] |
//!
//! The way of what is deferred, file by file: `guard` → `deferred` (a word and a function) → `global` → quietus, which calls it in a
//! turn that `local` takes before a section, or in a flush.

// In path order: each module uses only those above it (but a local knows its collector, and a guard its local).
mod pointable;
mod pointer;
mod shared;
mod owned;
mod atomic;
mod exchange;
mod deferred;
mod global;
mod local;
mod guard;
mod collector;
mod default;

pub use atomic::Atomic;
pub use collector::{Collector, LocalHandle};
pub use default::{default_collector, is_pinned, pin};
pub use exchange::CompareExchangeError;
#[allow(deprecated, reason = "older names, for those who still use them")]
pub use exchange::{CompareAndSetError, CompareAndSetOrdering};
pub use guard::{Guard, unprotected};
pub use owned::Owned;
pub use pointable::Pointable;
pub use pointer::Pointer;
pub use shared::Shared;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
