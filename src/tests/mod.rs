//! What the engine promises, on real threads. The orderings themselves are tests/ordering_loom.rs's.
//!
//! Tests whose subject is the process (its mode, its filters, a fork, a stall of the global engine) run in a child: the
//! same test binary, asked for one test.

mod guards;
mod pointers;
mod process;
mod registry;
mod threads;
mod torture;

use crate::engine_ref::EngineRef;

/// Whether a grace period that starts now completes without anybody leaving.
fn completes(engine: &EngineRef) -> bool {
    engine.advance(engine.start())
}
