//! Debugging and hardening of a cache: what is looked at when an object leaves its slab and when it comes back.
//!
//! | file | what |
//! | --- | --- |
//! | `flags` | [`DebugFlags`], and the settings of one cache |
//! | `env` | the same from `QUIETUS_SLAB_DEBUG` |
//! | `fault` | [`Corruption`], its text, the hook that it is handed to |
//! | `owner` | who allocated or freed: thread and backtrace |
//! | `zones` | red zones and poison: where they lie, how they are filled and read |
//! | `sheet` | what is known about the objects of one slab |
//! | `check` | the checks themselves, called by [`cache`](crate::cache)'s slow paths |
//! | `doors` | what users call |
//!
//! A cache that is checked has blocks of capacity 0, as a poisoned one has: every operation takes the slow path, so no fast path carries
//! a test. Nothing here runs for other caches but one look at a field when objects go back to their slabs.

mod check;
mod doors;
mod env;
mod fault;
mod flags;
mod owner;
mod sheet;
mod zones;

pub use env::{EnvError, environment};
pub use fault::{Corruption, Fault, Side, on_corruption};
pub use flags::DebugFlags;
pub use owner::Owner;
pub use zones::{POISON_END, POISON_FREE, POISON_INUSE, RED_ACTIVE, RED_INACTIVE};

pub(crate) use env::flags_of;
pub(crate) use flags::{Plan, Wish};
