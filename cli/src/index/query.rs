//! The readers' side: one query is one section that walks two lists, checks both, and counts the files they share.
//!
//! Beside the list's own checks, a reader knows the generations it has seen ([`Seen`]) and the file its words came from:
//! if that file stood still all the while ([`Stirred`]), it must be in the answer.

use std::sync::atomic::{AtomicU32, Ordering, fence};

use super::Fault;
use super::map::Map;
use super::posting::{List, count_common};
use crate::reclaimer::Reclaimer;

/// The newest generation of each word that this reader has met.
#[derive(Debug)]
pub(crate) struct Seen(Box<[u32]>);

impl Seen {
    /// Nothing seen yet.
    pub(crate) fn new(words: u32) -> Seen {
        Seen(vec![0; words as usize].into())
    }

    fn meet(&mut self, word: u32, generation: u32) -> Result<(), Fault> {
        let seen = &mut self.0[word as usize];
        if generation < *seen {
            return Err(Fault::Generation { word, seen: *seen, found: generation });
        }
        *seen = generation;
        Ok(())
    }
}

/// Per file, how often it began to move or came to rest: odd while its writer has it out.
#[derive(Debug)]
pub(crate) struct Stirred(Box<[AtomicU32]>);

impl Stirred {
    /// All at rest.
    pub(crate) fn new(files: u32) -> Stirred {
        Stirred((0..files).map(|_| AtomicU32::new(0)).collect())
    }

    /// The file is about to be taken out. Its writer calls this, and nobody else.
    pub(crate) fn begin(&self, file: u32) {
        // Relaxed: the fence below orders it.
        self.0[file as usize].fetch_add(1, Ordering::Relaxed);
        // Release: with the fence in `rested`: whoever sees a list without the file also sees the odd count.
        fence(Ordering::Release);
    }

    /// All of it has been put back.
    pub(crate) fn end(&self, file: u32) {
        // Release: with the Acquire in `at_rest`: whoever sees the even count also sees the lists with the file.
        self.0[file as usize].fetch_add(1, Ordering::Release);
    }

    /// The count now, if the file is at rest.
    fn at_rest(&self, file: u32) -> Option<u32> {
        // Acquire: with the Release in `end`.
        let count = self.0[file as usize].load(Ordering::Acquire);
        count.is_multiple_of(2).then_some(count)
    }

    /// Whether it has been at rest since.
    fn rested(&self, file: u32, since: u32) -> bool {
        // Acquire: with the fence in `begin`, by way of the lists read before this.
        fence(Ordering::Acquire);
        // Relaxed: the fence above orders it.
        self.0[file as usize].load(Ordering::Relaxed) == since
    }
}

/// A query: two words of one file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query {
    /// Where the words came from.
    pub(crate) file: u32,
    /// The words.
    pub(crate) words: [u32; 2],
}

impl<R: Reclaimer> Map<'_, R> {
    /// How many files hold both words. `pause` is called inside the section, between finding the lists and walking them.
    #[inline]
    pub(crate) fn ask(
        &self,
        query: Query,
        stirred: &Stirred,
        seen: &mut Seen,
        pause: impl FnOnce(),
    ) -> Result<usize, Fault> {
        let rest = stirred.at_rest(query.file);
        let section = &self.reclaimer.pin();
        let [first, second] = query.words;
        let lists = [self.find(section, self.vocabulary.key(first))?, self.find(section, self.vocabulary.key(second))?];
        pause();
        for (word, list) in query.words.into_iter().zip(&lists) {
            if let Some(list) = list {
                list.check()?;
                seen.meet(word, list.generation())?;
            }
        }
        if let Some(rest) = rest {
            let absent =
                |list: &Option<List<'_>>| list.is_none_or(|list| list.entries().binary_search(&query.file).is_err());
            if let Some(at) = lists.iter().position(absent) {
                if stirred.rested(query.file, rest) {
                    return Err(Fault::Missing { word: query.words[at], file: query.file });
                }
            }
        }
        Ok(match lists {
            [Some(first), Some(second)] => count_common(first.entries(), second.entries()),
            _ => 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_that_goes_back_is_seen() {
        let mut seen = Seen::new(2);
        assert_eq!(seen.meet(1, 5), Ok(()));
        assert_eq!(seen.meet(1, 5), Ok(()));
        assert_eq!(seen.meet(0, 1), Ok(()));
        assert_eq!(seen.meet(1, 4), Err(Fault::Generation { word: 1, seen: 5, found: 4 }));
    }

    #[test]
    fn a_file_that_moved_is_excused() {
        let stirred = Stirred::new(1);
        let rest = stirred.at_rest(0).expect("at rest");
        assert!(stirred.rested(0, rest));
        stirred.begin(0);
        assert!(stirred.at_rest(0).is_none() && !stirred.rested(0, rest));
        stirred.end(0);
        assert!(stirred.at_rest(0).is_some() && !stirred.rested(0, rest));
    }
}
