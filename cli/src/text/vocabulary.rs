//! Files and words by number, and which words stand in which file, both ways round.
//!
//! Never changes once built. `postings` is the single-threaded index that the concurrent one must equal at the end.
//!
//! # Layout
//! Two rows of rows, each flattened: `words_of(file)` and `postings(word)` are slices of one array, cut at `starts`.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;

use super::words;

/// A word, as the index is asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// The hash of its bytes; comes first, so that keys are ordered by it.
    pub(crate) hash: u64,
    /// Its number, which tells words of one hash apart.
    pub(crate) word: u32,
}

/// Rows of numbers in one array.
#[derive(Debug, Default)]
struct Rows {
    starts: Vec<usize>,
    numbers: Vec<u32>,
}

impl Rows {
    fn row(&self, n: u32) -> &[u32] {
        &self.numbers[self.span(n)]
    }

    fn span(&self, n: u32) -> Range<usize> {
        self.starts[n as usize]..self.starts[n as usize + 1]
    }

    fn len(&self) -> usize {
        self.starts.len() - 1
    }
}

/// The text by numbers.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    words: Vec<Box<str>>,
    keys: Vec<Key>,
    words_of: Rows,
    postings: Rows,
}

impl Vocabulary {
    /// Reads the files and numbers their words. A file that has become unreadable since they were chosen is left out.
    pub(crate) fn read(files: &[String]) -> Vocabulary {
        let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
        Vocabulary::of(texts.filter(|text| words::words(text).next().is_some()))
    }

    /// Numbers the words of these texts; each text is a file.
    pub(crate) fn of(texts: impl IntoIterator<Item = String>) -> Vocabulary {
        let mut numbers: HashMap<Box<str>, u32> = HashMap::new();
        let mut words_of = Rows { starts: vec![0], numbers: Vec::new() };
        let mut row: Vec<u32> = Vec::new();
        for text in texts {
            row.clear();
            for word in words::words(&text) {
                let number = match numbers.get(word) {
                    Some(&number) => number,
                    None => {
                        let number = u32::try_from(numbers.len()).expect("fewer than 2^32 words");
                        numbers.insert(word.into(), number);
                        number
                    }
                };
                row.push(number);
            }
            row.sort_unstable();
            row.dedup();
            words_of.numbers.extend_from_slice(&row);
            words_of.starts.push(words_of.numbers.len());
        }
        let mut words: Vec<Box<str>> = vec![Box::default(); numbers.len()];
        for (word, number) in numbers {
            words[number as usize] = word;
        }
        let keys = (0..).zip(&words).map(|(word, text)| Key { hash: words::hash(text), word }).collect();
        let postings = turned(&words_of, words.len());
        Vocabulary { words, keys, words_of, postings }
    }

    /// How many different words there are.
    pub(crate) fn words(&self) -> u32 {
        self.words.len() as u32
    }

    /// How many files there are.
    pub(crate) fn files(&self) -> u32 {
        self.words_of.len() as u32
    }

    /// How many pairs of a file and a word in it: the entries of all posting lists.
    pub(crate) fn entries(&self) -> usize {
        self.postings.numbers.len()
    }

    /// The word itself.
    pub(crate) fn text(&self, word: u32) -> &str {
        &self.words[word as usize]
    }

    /// What the index is asked for to find this word.
    pub(crate) fn key(&self, word: u32) -> Key {
        self.keys[word as usize]
    }

    /// The different words of a file, in the order of their numbers.
    pub(crate) fn words_of(&self, file: u32) -> &[u32] {
        self.words_of.row(file)
    }

    /// The files that hold a word, in order: what a single-threaded index answers.
    pub(crate) fn postings(&self, word: u32) -> &[u32] {
        self.postings.row(word)
    }
}

/// The same pairs the other way round: a counting sort, so each row comes out in order.
fn turned(rows: &Rows, count: usize) -> Rows {
    let mut starts = vec![0_usize; count + 1];
    for &number in &rows.numbers {
        starts[number as usize + 1] += 1;
    }
    for n in 0..count {
        starts[n + 1] += starts[n];
    }
    let mut next = starts.clone();
    let mut numbers = vec![0_u32; rows.numbers.len()];
    for from in 0..rows.len() as u32 {
        for &to in rows.row(from) {
            numbers[next[to as usize]] = from;
            next[to as usize] += 1;
        }
    }
    Rows { starts, numbers }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_round() {
        let it = Vocabulary::of(["fn one two fn".into(), String::new(), "two fn three".into()]);
        assert_eq!((it.files(), it.words(), it.entries()), (3, 4, 6));
        let number = |text| (0..it.words()).find(|&word| it.text(word) == text).expect("known word");
        assert_eq!(it.postings(number("fn")), [0, 2]);
        assert_eq!(it.postings(number("one")), [0]);
        assert_eq!(it.postings(number("three")), [2]);
        assert_eq!(it.words_of(1), [0_u32; 0]);
        assert_eq!(it.words_of(2), [number("fn"), number("two"), number("three")]);
        assert_eq!(it.key(number("two")).hash, words::hash("two"));
    }
}
