//! Userspace RCU.
//!
//! Readers open a section ([`pin`]) and follow pointers that others may unlink at any time; what was unlinked is freed
//! after a grace period, when every section that might still see it has ended.
//!
//! The modules in path order; each uses only those above it.

#![warn(missing_docs)]

mod sync;
pub mod membarrier;
mod registry;
mod sequence;
mod latency;
mod engine;
mod wait;
mod section;
mod atomic;

#[cfg(not(quietus_loom))]
mod local;
#[cfg(not(quietus_loom))]
mod engine_ref;
#[cfg(not(quietus_loom))]
pub mod memb;

#[cfg(not(quietus_loom))]
mod stats;
#[cfg(not(quietus_loom))]
mod domain;
#[cfg(not(quietus_loom))]
mod cell;

#[cfg(quietus_loom)]
#[doc(hidden)]
pub mod model;

pub use atomic::{Atomic, Shared};
#[cfg(not(quietus_loom))]
pub use memb::{DomainGuard, Guard, pin, synchronize};
#[cfg(not(quietus_loom))]
pub use cell::{Rcu, Retired};
#[cfg(not(quietus_loom))]
pub use domain::{Builder, Cookie, Domain};
#[cfg(not(quietus_loom))]
pub use registry::Holdout;
#[cfg(not(quietus_loom))]
pub use stats::Stats;
pub use quietus_kvfree as kvfree;
pub use quietus_slab as slab;
pub use section::Section;
pub use wait::InsideSection;

#[cfg(all(test, not(quietus_loom)))]
mod tests;
