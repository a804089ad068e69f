//! The text: which files, what words, which word stands in which file.
//!
//! `corpus` finds files, `words` cuts one into words, `vocabulary` numbers files and words and knows both directions.
//! Hands [`Vocabulary`] to `index`, which is built from it and compared with it.

pub(crate) mod corpus;
pub(crate) mod vocabulary;
pub(crate) mod words;

pub(crate) use corpus::Corpus;
pub(crate) use vocabulary::Vocabulary;
