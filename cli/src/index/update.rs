//! The writers' side: a word gets a list with one file more or one less, and the old list is retired.
//!
//! Uses `map` to get to the word, `posting` to write the new list; hands what it replaced to the reclaimer.
//!
//! # Ordering
//! A list is published with Release in the exchange that replaces the old one. The exchange cannot succeed on a stale
//! look: the old list was read inside the same section, so its memory cannot have become another list since.

use std::ptr::NonNull;
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
        let section = self.reclaimer.pin();
        loop {
            let Place { link, next, node } = self.seek(&section, key, work)?;
            let Some(node) = node else {
                let born = self.reclaimer.new_node(Node::born(key, next));
                // Release: with the Acquire of whoever follows the link; hands on the new node. Acquire: with the
                // Release that took out an earlier node of this word, so that its burial is seen below. Relaxed on
                // failure: the value is not used.
                if link.compare_exchange(next, born.as_ptr(), Ordering::AcqRel, Ordering::Relaxed).is_err() {
                    // SAFETY: 1. Just made. 2. The exchange failed, so nobody else has seen the node.
                    unsafe { self.reclaimer.free_node(born) };
                }
                continue;
            };
            // Acquire (`FOLLOW`): with the Release of the exchange in `publish` that published the list.
            let old = node.list.load(R::FOLLOW);
            if old == dead() {
                node.mark();
                continue;
            }
            let list = self.open(old, word)?;
            let generation = match list {
                Some(list) => list.generation() + 1,
                // Acquire: with the Release in `take`. The node stands in the chain, so the last one was taken out
                // before and buried before that; nobody buries again before this word has another list.
                None => self.buried[word as usize].load(Ordering::Acquire) + 1,
            };
            let entries = list.map_or(&[][..], |list| list.entries());
            let draft = Draft::with(entries, file).ok_or(Fault::Lost { word, file })?;
            if self.publish(node, old, &draft, word, generation) {
                self.finish(section, old, entries.len(), work);
                return Ok(());
            }
        }
    }

    /// Takes `file` out of the list of `word`. No other thread may be at the same pair.
    pub(crate) fn take(&self, word: u32, file: u32, work: &mut Work) -> Result<(), Fault> {
        let key = self.vocabulary.key(word);
        let section = self.reclaimer.pin();
        loop {
            let node = self.seek(&section, key, work)?.node.ok_or(Fault::Lost { word, file })?;
            // Acquire (`FOLLOW`): as in `put`.
            let old = node.list.load(R::FOLLOW);
            let list = self.open(old, word)?.ok_or(Fault::Lost { word, file })?;
            let draft = Draft::without(list.entries(), file).ok_or(Fault::Lost { word, file })?;
            if draft.len() > 0 {
                if self.publish(node, old, &draft, word, list.generation() + 1) {
                    self.finish(section, old, draft.len() + 1, work);
                    return Ok(());
                }
                continue;
            }
            // Release: with the Acquire in `put`, by way of the exchanges below and in `seek`. Before the node dies, so
            // that nobody finds it dead and not buried; too early does no harm, a generation may be left out. No Acquire:
            // what was buried before is not looked at.
            self.buried[word as usize].fetch_max(list.generation(), Ordering::Release);
            // Release: with the Acquire loads of `list`; hands on the burial. No Acquire: `old` was loaded with it above, and
            // cannot have come back since. Relaxed on failure: not used.
            if node.list.compare_exchange(old, dead(), Ordering::Release, Ordering::Relaxed).is_ok() {
                node.mark();
                // Takes the node out, unless somebody else has.
                self.seek(&section, key, work)?;
                self.finish(section, old, 1, work);
                return Ok(());
            }
        }
    }

    /// Publishes the draft in place of `old`; false if somebody else has replaced that.
    fn publish(&self, node: &Node, old: *mut Header, draft: &Draft<'_>, word: u32, generation: u32) -> bool {
        let new = self.new_list(draft, word, generation);
        // Release: with the Acquire loads of `list`; hands on what the new list holds. No Acquire: `old` was loaded with it by
        // the caller, and cannot have come back since. Relaxed on failure: not used.
        let done = node.list.compare_exchange(old, new.as_ptr(), Ordering::Release, Ordering::Relaxed).is_ok();
        if !done {
            // SAFETY: 1. Just allocated with this layout. 2. The exchange failed, so nobody else has seen the list.
            unsafe { self.reclaimer.free_list(new.cast(), layout(draft.len())) };
        }
        done
    }

    /// Ends the section of an update and retires the list it replaced, of `len` entries, if there was one.
    #[inline]
    fn finish(&self, section: R::Guard<'_>, old: *mut Header, len: usize, work: &mut Work) {
        work.count_update();
        let Some(old) = NonNull::new(old) else { return };
        let layout = layout(len);
        // SAFETY: 1. An exchange of this section took the list off its node, and only one exchange can; its length is what was
        // read from it, so the layout is the one it was allocated with. 2. No other node has it, so later sections cannot
        // reach it.
        work.retire_list(layout.size(), || unsafe { self.reclaimer.retire_list(section, old.cast(), layout) });
    }
}
