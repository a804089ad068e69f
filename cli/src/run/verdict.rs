//! The first violation ends the process: memory that has been seen wrong is not walked any further.

use std::process;
use std::sync::Mutex;

use super::spec::Outcome;
use crate::index::Fault;
use crate::reclaimer::Kind;
use crate::text::Vocabulary;

/// Where violations are reported.
pub(crate) struct Verdict<'v> {
    said: Mutex<()>,
    reclaimer: Kind,
    /// To name the word concerned.
    vocabulary: &'v Vocabulary,
}

impl<'v> Verdict<'v> {
    /// No violation yet.
    pub(crate) fn new(reclaimer: Kind, vocabulary: &'v Vocabulary) -> Verdict<'v> {
        Verdict { said: Mutex::new(()), reclaimer, vocabulary }
    }

    /// This must never be seen.
    pub(crate) fn guilty(&self, fault: &Fault) -> ! {
        match fault.word().filter(|&word| word < self.vocabulary.words()) {
            Some(word) => self.say(&format!("{fault} (it is `{}`)", self.vocabulary.text(word))),
            None => self.say(&fault.to_string()),
        }
    }

    /// Nor this. Tells the program that started this process, and ends it.
    pub(crate) fn say(&self, what: &str) -> ! {
        // Whoever comes second waits here until the process is gone. A poisoned lock is as good.
        let _first = self.said.lock();
        Outcome::violated(format!("{}: {what}", self.reclaimer.name())).print();
        process::exit(1);
    }
}
