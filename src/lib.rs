//! Userspace RCU: a deferred free for a few nanoseconds, with the allocator that takes the memory back.
//!
//! Readers open a section ([`pin`]) and follow pointers that others may unlink at any time; what was unlinked is freed
//! after a grace period, when every section that might still see it has ended. Retired memory goes in batches through
//! [`kvfree`] back to the caches of [`slab`] that it came from.
//!
//! | for | there is |
//! | --- | --- |
//! | one value that readers load and writers replace | [`Rcu`], all safe |
//! | lists, maps, trees | [`Atomic`], [`Shared`], [`Domain::retire`], [`slab::Cache`] |
//! | waiting for readers | [`synchronize`], [`Domain::cookie`], [`Domain::defer`], [`Domain::barrier`] |
//! | readers and garbage of one's own | a private [`Domain`]; for values that borrow a [`ScopedDomain`] |
//! | reading that costs nothing, in threads that say when they hold nothing | [`qsbr`] |
//! | code that uses crossbeam-epoch already | the feature `epoch` |
//!
//! ```
//! let limit = quietus::Rcu::new(10);
//! let guard = quietus::pin();
//! let before = limit.load(&guard);
//! drop(limit.replace(20)); // freed after a grace period, in a batch
//! assert_eq!((*before, *limit.load(&guard)), (10, 20));
//! ```
//!
//! docs/DESIGN.md and docs/ORDERING.md in the repository say how it works and why it is right.

// Under loom only the engine is used.
#![cfg_attr(quietus_loom, allow(dead_code, unreachable_pub))]

// In path order: each module uses only those above it.
mod sync;
pub mod membarrier;
#[cfg(not(quietus_loom))]
mod fork;
mod registry;
mod sequence;
mod latency;
mod engine;
mod wait;
mod flavour;
mod section;
mod atomic;

#[cfg(not(quietus_loom))]
mod stall;
#[cfg(not(quietus_loom))]
mod watch;
#[cfg(not(quietus_loom))]
mod source;
#[cfg(not(quietus_loom))]
mod local;
#[cfg(not(quietus_loom))]
mod engine_ref;
#[cfg(not(quietus_loom))]
pub mod memb;

#[cfg(not(quietus_loom))]
mod stats;
#[cfg(not(quietus_loom))]
mod cookie;
#[cfg(not(quietus_loom))]
mod builder;
#[cfg(not(quietus_loom))]
mod domain;
#[cfg(not(quietus_loom))]
mod scoped;
#[cfg(not(quietus_loom))]
mod future;
#[cfg(not(quietus_loom))]
pub mod qsbr;
#[cfg(not(quietus_loom))]
#[doc(hidden)]
pub mod embed;
#[cfg(all(feature = "epoch", not(quietus_loom)))]
pub mod epoch;
#[cfg(not(quietus_loom))]
mod cell;
#[cfg(not(quietus_loom))]
mod kvfree_rcu;

#[cfg(quietus_loom)]
#[doc(hidden)]
pub mod model;

pub use atomic::{Atomic, Shared};
#[cfg(not(quietus_loom))]
pub use builder::Builder;
#[cfg(not(quietus_loom))]
pub use cell::{Rcu, Retired};
#[cfg(not(quietus_loom))]
pub use cookie::Cookie;
#[cfg(not(quietus_loom))]
pub use domain::{Domain, Flavour, GlobalInUse, synchronize};
#[cfg(feature = "epoch")]
pub use flavour::Epoch;
pub use flavour::{Memb, Qsbr};
#[cfg(not(quietus_loom))]
pub use future::Elapse;
#[cfg(not(quietus_loom))]
pub use kvfree_rcu::kvfree_rcu;
#[cfg(not(quietus_loom))]
pub use latency::Bucket;
#[cfg(not(quietus_loom))]
pub use memb::{DomainGuard, Guard, pin};
pub use quietus_kvfree as kvfree;
pub use quietus_kvfree::{MayNotWait, OnOverflow, Pressure, rcu_head};
pub use quietus_slab as slab;
#[cfg(not(quietus_loom))]
pub use registry::Holdout;
#[cfg(not(quietus_loom))]
pub use scoped::ScopedDomain;
pub use section::Section;
#[cfg(not(quietus_loom))]
pub use stall::Stall;
#[cfg(not(quietus_loom))]
pub use stats::Stats;
pub use wait::InsideSection;

#[cfg(all(test, not(quietus_loom)))]
mod tests;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
