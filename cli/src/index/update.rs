//! The writers' side: a word gets a list with one file more or one less, and the old list is retired.
//!
//! Uses `map` to get to the word, `posting` to write the new list; hands what it replaced to the reclaimer.
//!
//! # Ordering
//! A list is published with Release in the exchange that replaces the old one. The exchange cannot succeed on a stale
//! look: the old list was read inside the same section, so its memory cannot have become another list since.

use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;

use super::Fault;
use super::map::{Map, Place};
use super::node::{Node, dead};
use super::posting::{Draft, Header, layout};
use super::work::Work;
use crate::reclaimer::Reclaimer;

impl<R: Reclaimer> Map<'_, R> {
    /// Puts `file` into the list of `word`. No other thread may be at the same pair.
    pub(crate) fn put(&self, word: u32, file: u32, work: &mut Work) -> Result<(), Fault> {
        let key = self.vocabulary.key(word);
        let section = &self.reclaimer.pin();
        loop {
            let Place { link, next, node } = self.seek(section, key, work)?;
            let Some(node) = node else {
                let born = self.reclaimer.new_node(Node::born(key, next));
                // Release: with the Acquire of whoever follows the link; hands on the new node. Acquire: with the
                // Release that took out an earlier node of this word, so that its burial is seen below. Relaxed on
                // failure: the value is not used.
                if link.compare_exchange(next, born.as_ptr(), Ordering::AcqRel, Ordering::Relaxed).is_err() {
                    // SAFETY: the exchange failed, so nobody else has seen the node.
                    unsafe { self.reclaimer.free_node(born) };
                }
                continue;
            };
            // Acquire: with the Release of the exchange below that published the list.
            let old = node.list.load(Ordering::Acquire);
            if old == dead() {
                node.mark();
                continue;
            }
            let list = self.open(old, word)?;
            let generation = match list {
                Some(list) => list.generation() + 1,
                // Acquire: with the Release in `take`. The node stands in the chain, so the last one was taken out before
                // and buried before that; nobody buries again before this word has another list.
                None => self.buried[word as usize].load(Ordering::Acquire) + 1,
            };
            let entries = list.map_or(&[][..], |list| list.entries());
            let draft = Draft::with(entries, file).ok_or(Fault::Lost { word, file })?;
            if self.replace(section, node, old, &draft, word, generation, work) {
                return Ok(());
            }
        }
    }

    /// Takes `file` out of the list of `word`. No other thread may be at the same pair.
    pub(crate) fn take(&self, word: u32, file: u32, work: &mut Work) -> Result<(), Fault> {
        let key = self.vocabulary.key(word);
        let section = &self.reclaimer.pin();
        loop {
            let node = self.seek(section, key, work)?.node.ok_or(Fault::Lost { word, file })?;
            // Acquire: as in `put`.
            let old = node.list.load(Ordering::Acquire);
            let list = self.open(old, word)?.ok_or(Fault::Lost { word, file })?;
            let draft = Draft::without(list.entries(), file).ok_or(Fault::Lost { word, file })?;
            if draft.len() > 0 {
                if self.replace(section, node, old, &draft, word, list.generation() + 1, work) {
                    return Ok(());
                }
                continue;
            }
            // Release: with the Acquire in `put`, by way of the exchanges below and in `seek`. Before the node dies, so
            // that nobody finds it dead and not buried; too early does no harm, a generation may be left out.
            self.buried[word as usize].fetch_max(list.generation(), Ordering::AcqRel);
            // Release: with the Acquire loads of `list`; hands on the burial. Relaxed on failure: not used.
            if node.list.compare_exchange(old, dead(), Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                self.retire(section, old, layout(list.entries().len()), work);
                node.mark();
                // Takes the node out, unless somebody else has.
                self.seek(section, key, work)?;
                return Ok(());
            }
        }
    }

    /// Publishes the draft in place of `old` and retires that; false if somebody else has replaced it.
    #[expect(clippy::too_many_arguments, reason = "they are one step of the two loops above")]
    fn replace(
        &self,
        section: &R::Guard<'_>,
        node: &Node,
        old: *mut Header,
        draft: &Draft<'_>,
        word: u32,
        generation: u32,
        work: &mut Work,
    ) -> bool {
        let new = self.new_list(draft, word, generation);
        // Release: with the Acquire loads of `list`; hands on what the new list holds. Relaxed on failure: not used.
        if node.list.compare_exchange(old, new.as_ptr(), Ordering::AcqRel, Ordering::Relaxed).is_err() {
            // SAFETY: the exchange failed, so nobody else has seen the list.
            unsafe { self.reclaimer.free_list(new.cast(), layout(draft.len())) };
            return false;
        }
        if old.is_null() {
            work.count_update();
        } else {
            let replaced = if draft.added.is_some() { draft.len() - 1 } else { draft.len() + 1 };
            self.retire(section, old, layout(replaced), work);
        }
        true
    }

    /// Retires a list that an exchange by this thread has just replaced, and counts the update.
    fn retire(&self, section: &R::Guard<'_>, old: *mut Header, layout: std::alloc::Layout, work: &mut Work) {
        debug_assert!(old != dead() && !ptr::eq(old, ptr::null()));
        let Some(old) = NonNull::new(old) else { return };
        // SAFETY: the caller's exchange took the list off its node, and only one exchange can; later sections cannot
        // reach it. The layout is the one it was allocated with: its length is what the caller read from it.
        work.retire_list(layout.size(), || unsafe { self.reclaimer.retire_list(section, old.cast(), layout) });
        work.count_update();
    }
}
