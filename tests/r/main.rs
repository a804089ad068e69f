//! What docs/DESIGN.md promises of grace periods beyond the guarantee itself (which is `contract` and `torture`): how one waits, what is
//! said when one takes too long, what becomes of threads and of a forked process, and what bounds memory.
#![cfg(not(quietus_loom))]

mod bounded;
mod fork;
mod litmus;
mod pressure;
mod scoped;
mod seen;
mod stable;
mod stalls;
mod support;
mod threads;
mod waiting;
mod workers;
