//! What a check can find wrong. Any of these ends the run: exit code 1 and one line.

use std::fmt;

/// One thing that must never be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A map node whose seal does not fit its word: freed memory, or memory of something else.
    Node,
    /// A chain that does not end: its links have been overwritten.
    Chain,
    /// A list of another word than the one whose node it hangs on.
    Word { asked: u32, found: u32 },
    /// A list longer than there are files, or an empty one.
    Length { word: u32, len: u32 },
    /// A list whose contents do not fit its checksum.
    Checksum { word: u32, generation: u32 },
    /// An older list than one this reader has already seen.
    Generation { word: u32, seen: u32, found: u32 },
    /// A file that stood still, with the word in it, and was not in the answer.
    Missing { word: u32, file: u32 },
    /// A writer did not find its own file in the list of one of the file's words.
    Lost { word: u32, file: u32 },
    /// At the end, a word's list is not the single-threaded one.
    Differs { word: u32, found: usize, right: usize },
    /// At the end, a word is in the map twice.
    Twice { word: u32 },
    /// At the end, not every node of the map belongs to a word of the text.
    Nodes { found: usize, right: usize },
}

impl Fault {
    /// The word concerned, if it is one.
    pub(crate) fn word(&self) -> Option<u32> {
        match *self {
            Fault::Node | Fault::Chain | Fault::Nodes { .. } => None,
            Fault::Word { asked: word, .. }
            | Fault::Length { word, .. }
            | Fault::Checksum { word, .. }
            | Fault::Generation { word, .. }
            | Fault::Missing { word, .. }
            | Fault::Lost { word, .. }
            | Fault::Differs { word, .. }
            | Fault::Twice { word } => Some(word),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Fault::Node => write!(f, "a map node was read whose seal is broken (freed memory)"),
            Fault::Chain => write!(f, "a chain of the map does not end (its links were overwritten)"),
            Fault::Word { asked, found } => write!(f, "the list of word {asked} says it belongs to word {found}"),
            Fault::Length { word, len } => write!(f, "the list of word {word} says it has {len} entries"),
            Fault::Checksum { word, generation } => {
                write!(f, "the list of word {word}, generation {generation}, does not fit its checksum")
            }
            Fault::Generation { word, seen, found } => {
                write!(f, "the list of word {word} went back from generation {seen} to {found}")
            }
            Fault::Missing { word, file } => write!(f, "file {file} was not found by its word {word}"),
            Fault::Lost { word, file } => write!(f, "the list of word {word} has lost file {file}"),
            Fault::Differs { word, found, right } => write!(
                f,
                "at the end the list of word {word} is not the single-threaded one ({found} entries, that one has {right})"
            ),
            Fault::Twice { word } => write!(f, "at the end word {word} is in the map twice"),
            Fault::Nodes { found, right } => write!(f, "at the end the map has {found} nodes for {right} words"),
        }
    }
}

impl std::error::Error for Fault {}
