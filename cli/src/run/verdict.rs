//! The first violation ends the process: memory that has been seen wrong is not walked any further.

use std::process;
use std::sync::Mutex;

use super::spec::Outcome;
use crate::index::Fault;
use crate::reclaimer::Kind;
use crate::text::Vocabulary;

/// Where violations are reported.
pub(crate) struct Verdict {
    said: Mutex<()>,
    reclaimer: Kind,
    /// The words, to name the one concerned.
    words: Box<[Box<str>]>,
}

impl Verdict {
    /// No violation yet.
    pub(crate) fn new(reclaimer: Kind, vocabulary: &Vocabulary) -> Verdict {
        let words = (0..vocabulary.words()).map(|word| vocabulary.text(word).into()).collect();
        Verdict { said: Mutex::new(()), reclaimer, words }
    }

    /// This must never be seen.
    pub(crate) fn guilty(&self, fault: &Fault) -> ! {
        let word = fault.word().and_then(|word| self.words.get(word as usize));
        self.say(&word.map_or_else(|| fault.to_string(), |word| format!("{fault} (it is `{word}`)")))
    }

    /// Nor this. Tells the program that started this process, and ends it.
    pub(crate) fn say(&self, what: &str) -> ! {
        // Whoever comes second waits here until the process is gone. A poisoned lock is as good.
        let _first = self.said.lock();
        Outcome::violated(format!("{}: {what}", self.reclaimer.name())).print();
        process::exit(1);
    }
}
