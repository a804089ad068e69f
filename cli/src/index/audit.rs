//! At the end, with the map to itself: is it, word for word, what a single thread would have built?

use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use super::Fault;
use super::map::Map;
use crate::reclaimer::Reclaimer;

impl<R: Reclaimer> Map<'_, R> {
    /// Compares every word's list with the single-threaded one, and that there is nothing else.
    pub(crate) fn audit(&mut self) -> Result<(), Fault> {
        let words = self.vocabulary.words();
        let mut met = vec![false; words as usize];
        let nodes: Vec<NonNull<_>> = self.nodes().collect();
        for node in &nodes {
            // SAFETY: the map is this caller's alone, and its nodes are whole until it is dropped.
            let node = unsafe { node.as_ref() };
            node.check()?;
            let word = node.key().word;
            // Relaxed: nobody else uses the map.
            let list = self.open(node.list.load(Ordering::Relaxed), word)?;
            let entries = list.map_or(&[][..], |list| list.entries());
            let right = self.vocabulary.postings(word);
            if entries != right {
                return Err(Fault::Differs { word, found: entries.len(), right: right.len() });
            }
            if let Some(list) = list {
                list.check()?;
            }
            if std::mem::replace(&mut met[word as usize], true) {
                return Err(Fault::Twice { word });
            }
        }
        if nodes.len() != words as usize {
            return Err(Fault::Nodes { found: nodes.len(), right: words as usize });
        }
        Ok(())
    }
}
