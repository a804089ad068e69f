//! What else goes wrong while the crowd works: a thread for each fault, started by [`start`].
//!
//! `signals` arms the crowd's own threads. `norseq` and `nomembarrier` are no threads, but legs of their own (`leg`).

#[cfg(target_os = "linux")]
mod affinity;
#[cfg(target_os = "linux")]
mod fork;
mod pages;
#[cfg(target_os = "linux")]
pub(super) mod signals;
#[cfg(not(target_os = "linux"))]
#[path = "no_signals.rs"]
pub(super) mod signals;

use std::thread::Scope;

use super::crowd;
use super::flavours::Flavour;
use super::random::Random;
use super::tally::{self, Count};
use super::watch::Beat;
use super::world::World;
use crate::args::Fault;
use crate::crew;

/// Steps of a thread that comes and goes.
const BRIEF: u64 = 30;

/// What cannot be done to this system.
pub(super) fn refused(faults: &[Fault]) -> Option<String> {
    let linux = [Fault::Affinity, Fault::Signals, Fault::Norseq, Fault::Nomembarrier, Fault::Fork];
    let wanting = faults.iter().find(|fault| cfg!(not(target_os = "linux")) && linux.contains(fault));
    wanting
        .map(|fault| format!("--faults '{}' needs Linux; allowed: churn, oversubscription, pages, none", fault.name()))
}

/// Starts what was asked for.
pub(super) fn start<'scope, F: Flavour>(world: &'scope World<'scope, F>, scope: &'scope Scope<'scope, '_>) {
    if world.has(Fault::Churn) {
        world.start(scope, "churn", churn);
    }
    if world.has(Fault::Pages) {
        world.start(scope, "pages", pages::run);
    }
    #[cfg(target_os = "linux")]
    {
        if world.has(Fault::Affinity) {
            world.start(scope, "affinity", affinity::run);
        }
        if world.has(Fault::Fork) {
            world.start(scope, "fork", fork::run);
        }
    }
}

/// Threads that come and go: two at a time.
fn churn<F: Flavour>(world: &World<'_, F>, beat: &Beat, _: Random) {
    loop {
        beat.begin("two brief threads");
        std::thread::scope(|brief| {
            crew::start(brief, "brief reader", || crowd::read(world, beat, world.random(), BRIEF));
            crew::start(brief, "brief writer", || crowd::write(world, beat, world.random(), BRIEF));
        });
        tally::add(Count::Threads, 2);
        if world.stopped() {
            return;
        }
    }
}
