//! The thread that pushes a collector's epochs on, so that those who retire need not: `quietus-epoch`, one for each domain with
//! workers. Asleep for good while nothing is wanted.
//!
//! Handed to by `source`, through `Progress::wanted` and a wake-up; hands to [`step`].

use crate::epoch::source::{Progress, step};
use crate::wait::wait;
use crossbeam_epoch::Collector;
use std::sync::Arc;

/// Starts the driver. It ends by itself when the source is gone.
pub(super) fn start(progress: &Arc<Progress>, collector: &Collector) {
    let (mine, collector) = (Arc::clone(progress), collector.clone());
    let run = move || run(&mine, &collector);
    let handle = std::thread::Builder::new().name("quietus-epoch".into()).spawn(run);
    let handle = handle.expect("quietus: cannot start the thread that drives epochs");
    let _ = progress.driver.set(handle.thread().clone());
}

fn run(progress: &Arc<Progress>, collector: &Collector) {
    // For our functions alone: see `Progress::defer`.
    let own = collector.register();
    while !progress.stopping() {
        match progress.wanted() {
            Some(wanted) => {
                wait(
                    None,
                    || {
                        step(progress, wanted, || &own, || own.pin());
                        progress.stopping() || progress.wanted().is_none_or(|now| now != wanted)
                    },
                    || {},
                );
            }
            // Whoever wants more says so before it leaves the token that this takes.
            None => std::thread::park(),
        }
    }
}
