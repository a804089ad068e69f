//! A reader: asks for two words of a file drawn at random, again and again. Words are asked for as often as they stand in
//! files, so the common ones of the language are the common ones here.

use std::hint;
use std::thread;
use std::time::Instant;

use super::Stage;
use crate::index::query::{Query, Seen};
use crate::reclaimer::Reclaimer;
use crate::text::Vocabulary;

/// In the verify run, one query in this many gives its processor away while it holds both lists.
const PAUSED: u64 = 16;
/// How often it looks whether the run is over.
const GLANCE: u64 = 64;

/// Asks until the run ends. Returns how often, and how long that took, in seconds.
pub(super) fn read<R: Reclaimer>(stage: &Stage<'_, R>, number: usize) -> (u64, f64) {
    let mut dice = Dice(number as u64);
    let mut seen = Seen::new(stage.vocabulary.words());
    let mut queries = 0;
    stage.ready();
    let start = Instant::now();
    while queries % GLANCE != 0 || !stage.is_over() {
        let query = draw(stage.vocabulary, &mut dice);
        let pauses = stage.verify && queries % PAUSED == 0;
        let pause = || {
            if pauses {
                thread::yield_now();
            }
        };
        match stage.map.ask(query, &stage.stirred, &mut seen, pause) {
            Ok(files) => hint::black_box(files),
            Err(fault) => stage.verdict.guilty(&fault),
        };
        queries += 1;
    }
    (queries, start.elapsed().as_secs_f64())
}

/// A file that has words, and two of them.
fn draw(vocabulary: &Vocabulary, dice: &mut Dice) -> Query {
    let file = dice.below(vocabulary.files());
    let words = vocabulary.words_of(file);
    let mut word = || words[dice.below(words.len() as u32) as usize];
    Query { file, words: [word(), word()] }
}

/// Random numbers: SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u32) -> u32 {
        (((self.roll() >> 32) * u64::from(bound)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_asks_for_words_of_its_file() {
        let vocabulary = Vocabulary::of(["one two".into(), "three".into()]);
        let mut dice = Dice(1);
        let mut met = [false; 2];
        for _ in 0..100 {
            let query = draw(&vocabulary, &mut dice);
            met[query.file as usize] = true;
            for word in query.words {
                assert!(vocabulary.words_of(query.file).contains(&word));
            }
        }
        assert_eq!(met, [true; 2]);
    }
}
