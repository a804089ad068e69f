//! What is retired without a block, and the refill flag, under loom: kvfree's own modules `deferred` (pair Q), `linked` (pair U),
//! `sweep` and `reserve`, included as they are.
//!
//! ```text
//! RUSTFLAGS="--cfg quietus_loom" cargo test --release -p quietus --test kvfree_loom
//! ```
//!
//! Those modules ask this crate for `sync`, `plane`, `head`, `shared` and, under the name `quietus_slab`, for the allocator: each a
//! few lines here, over loom. Grace periods are those of the engine's own code. A twin plants a bug and loom must find it: by an ordering that
//! `sync` weakens, by a cookie that is taken too early, or, where steps change places, in `planted`, the same steps written down once
//! more.
#![cfg(quietus_loom)]

extern crate self as quietus_slab;

#[path = "../../kvfree/src/deferred.rs"]
#[allow(dead_code)]
mod deferred;
#[path = "../../kvfree/src/event.rs"]
mod event;
#[path = "../../kvfree/src/grace.rs"]
#[allow(dead_code, unreachable_pub)]
mod grace;
#[path = "../../kvfree/src/linked.rs"]
#[allow(dead_code)]
mod linked;
#[path = "../../kvfree/src/reserve.rs"]
#[allow(dead_code)]
mod reserve;
#[path = "../../kvfree/src/stats.rs"]
#[allow(dead_code, unreachable_pub)]
mod stats;
#[path = "../../kvfree/src/sweep.rs"]
#[allow(dead_code)]
mod sweep;

mod planted;
mod refill;
mod shims;
mod sweeps;
mod sync;
mod world;

pub(crate) use raw::topology;
pub(crate) use shims::free_bulk;
use shims::{check, head, plane, raw, reclaim, shared};
