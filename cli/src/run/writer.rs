//! A writer: takes its files out of the index and puts them back, one after another, without pause.
//!
//! Every file has one writer; words are shared, so writers meet at the lists of common words.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Stage;
use crate::index::{Fault, Work};
use crate::reclaimer::Reclaimer;

/// Writes until the run ends, always to the end of a pass over its files unless it is told to halt. Returns what it did
/// and how long that took, in seconds.
pub(super) fn write<R: Reclaimer>(stage: &Stage<'_, R>, number: usize, writers: usize) -> (Work, f64) {
    let mut work = Work::new();
    let ceiling = R::CEILING_BYTES.map(|bytes| bytes / writers as u64);
    stage.ready();
    let start = Instant::now();
    'passes: loop {
        for file in (0..stage.vocabulary.files()).skip(number).step_by(writers) {
            if let Err(fault) = reindex(stage, file, &mut work) {
                stage.verdict.guilty(&fault);
            }
            if ceiling.is_some_and(|ceiling| work.retired.bytes >= ceiling) {
                // Relaxed, as with `Stage::is_over`.
                stage.halt.store(true, Ordering::Relaxed);
            }
            // Relaxed, as with `Stage::is_over`.
            if stage.halt.load(Ordering::Relaxed) {
                break 'passes;
            }
        }
        // Relaxed, as with `Stage::is_over`.
        if stage.last_pass.load(Ordering::Relaxed) {
            break;
        }
    }
    (work, start.elapsed().as_secs_f64())
}

/// Takes a file out, word by word, and puts it back.
fn reindex<R: Reclaimer>(stage: &Stage<'_, R>, file: u32, work: &mut Work) -> Result<(), Fault> {
    let words = stage.vocabulary.words_of(file);
    stage.stirred.begin(file);
    for &word in words {
        stage.map.take(word, file, work)?;
    }
    for &word in words {
        stage.map.put(word, file, work)?;
    }
    stage.stirred.end(file);
    Ok(())
}
