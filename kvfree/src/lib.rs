//! `kvfree_rcu` for user space: retired pointers are batched, lock-free, into page-sized blocks, and freed many at a time when
//! their grace period is over.
//!
//! Memory without a destructor goes back to its cache block by block, untouched; values with one are dropped by the worker first.
//!
//! ```
//! # use quietus_kvfree::{Config, Cookie, GracePeriods, Kvfree};
//! # use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
//! # struct Nobody(AtomicU64);
//! # // SAFETY: there are no readers, so every grace period is over at once.
//! # unsafe impl GracePeriods for Nobody {
//! #     fn start(&self) -> Cookie { Cookie(self.0.fetch_add(1, SeqCst)) }
//! #     fn poll(&self, _: Cookie) -> bool { true }
//! #     fn synchronize(&self, _: Cookie) {}
//! # }
//! # let source = Nobody(AtomicU64::new(1));
//! use quietus_slab::{Cache, SlabBox};
//! let cache: Cache<u64> = Cache::new("numbers");
//! let kvfree = Kvfree::new(source, Config::default());
//! let object = SlabBox::into_raw(cache.alloc(7));
//! // SAFETY: nobody else knows the object.
//! unsafe { kvfree.retire(object) };
//! kvfree.barrier();
//! assert_eq!(kvfree.stats().pending_objects, 0);
//! ```

#![cfg_attr(quietus_shuttle, allow(dead_code, reason = "there are no forks in schedules"))]

// The modules in path order; each uses only those above it (but the stages are verbs on one `Shared`, and call each other):
//
// `sync` (primitives) → `event` (tracing), `period` (a clock), `gauge` (the system's memory), `live` (all of them) → `grace` (what is asked of RCU), `head` (two words in an object) →
// `lane` (which open block) → `reserve` (empty blocks) → `ages`, `queue` (batches and cookies) → `plane`, `deferred`, `linked` (what has no block),
// `check` (retired twice?) → `sweep` → `shared` → `collect` (1: into the open block; full ones are closed) → `resort` (no block at hand) →
// `drain` (3: blocks taken back by age) → `reclaim` (4: elapsed → free) → `throttle` (room) → `crew`, `worker` → `barrier` → `pressure` → `fork` →
// `kvfree`, `turn`, `constrained`, `stable` (the doors).
mod sync;
mod event;
mod period;
mod gauge;
mod live;
mod grace;
mod head;
mod stats;
mod lane;
mod reserve;
mod ages;
mod queue;
mod plane;
mod deferred;
mod linked;
mod check;
mod sweep;
mod shared;
mod collect;
mod resort;
mod drain;
mod reclaim;
mod throttle;
mod crew;
mod worker;
mod barrier;
mod pressure;
#[cfg(not(quietus_shuttle))]
mod fork;
mod kvfree;
mod turn;
mod constrained;
#[cfg(not(quietus_shuttle))]
mod stable;

pub use constrained::Constrained;
pub use gauge::{Pressure, Reading};
pub use grace::{Cookie, GracePeriods};
#[doc(hidden)]
pub use head::check_field;
pub use head::{Callback, Linked, RcuHead};
pub use kvfree::Kvfree;
pub use pressure::Reclaimable;
pub use shared::Config;
pub use stats::{LaneName, LaneStats, Stats};
#[cfg(quietus_shuttle)]
#[doc(hidden)]
pub use sync::imp::deafen;
pub use throttle::{MayNotWait, OnOverflow};
