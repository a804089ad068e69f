//! The hash map itself: a row of buckets, each a chain of nodes sorted by key. Michael's list, one lock-free
//! implementation for every reclaimer.
//!
//! `seek` is the writers' way along a chain: it takes marked nodes out as it passes and retires them. `find` is the
//! readers': it writes nothing and walks past marked nodes, which stay readable for as long as its section lasts.
//!
//! # Ordering
//! A link is stored with Release by whoever made what it points to, and loaded with Acquire by whoever follows it: with the
//! reclaimer's `FOLLOW`, which is Acquire or more, so that its sections hold what is read.

use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::Fault;
use super::node::{Node, dead, is_marked, unmarked};
use super::posting::{Draft, Header, List, layout};
use super::work::Work;
use crate::reclaimer::Reclaimer;
use crate::text::Vocabulary;
use crate::text::vocabulary::Key;

/// No chain has as many nodes as this; one that does has been overwritten.
const LONGEST_CHAIN: usize = 1 << 20;

/// The map of one index.
pub(crate) struct Map<'v, R: Reclaimer> {
    pub(super) vocabulary: &'v Vocabulary,
    pub(super) reclaimer: R,
    buckets: Box<[AtomicPtr<Node>]>,
    /// Per word, the generation of the last list of its last dead node, or more.
    pub(super) buried: Box<[AtomicU32]>,
}

/// Where a word stands in its chain, or would stand.
pub(super) struct Place<'g> {
    /// The link that leads there.
    pub(super) link: &'g AtomicPtr<Node>,
    /// What it leads to: never marked.
    pub(super) next: *mut Node,
    /// The word's own node, if `next` is that.
    pub(super) node: Option<&'g Node>,
}

impl<'v, R: Reclaimer> Map<'v, R> {
    /// A map with room for the words, and none in it.
    pub(crate) fn empty(vocabulary: &'v Vocabulary, reclaimer: R) -> Map<'v, R> {
        let words = vocabulary.words() as usize;
        Map {
            vocabulary,
            reclaimer,
            buckets: (0..words.next_power_of_two()).map(|_| AtomicPtr::new(ptr::null_mut())).collect(),
            buried: (0..words).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// A map that holds the whole text, built by one thread.
    pub(crate) fn build(vocabulary: &'v Vocabulary, reclaimer: R) -> Map<'v, R> {
        let mut map = Map::empty(vocabulary, reclaimer);
        let mut words: Vec<Key> = (0..vocabulary.words()).map(|word| vocabulary.key(word)).collect();
        // From the last key to the first, each in front of its chain: so the chains come out sorted.
        words.sort_unstable_by(|a, b| b.cmp(a));
        for key in words {
            let draft = Draft::of(vocabulary.postings(key.word));
            let list = map.new_list(&draft, key.word, 1);
            let at = map.bucket_of(key);
            let head = map.buckets[at].get_mut();
            let mut node = Node::born(key, *head);
            *node.list.get_mut() = list.as_ptr();
            *head = map.reclaimer.new_node(node).as_ptr();
        }
        map
    }

    /// What frees its memory.
    pub(crate) fn reclaimer(&self) -> &R {
        &self.reclaimer
    }

    /// The readers' way to a word: its list, if it has one now.
    #[inline]
    pub(super) fn find<'g>(&'g self, _section: &'g R::Guard<'_>, key: Key) -> Result<Option<List<'g>>, Fault> {
        // Acquire (`FOLLOW`): with the Release that put the first node in, in `update` or `seek`.
        let mut here = self.buckets[self.bucket_of(key)].load(R::FOLLOW);
        for _ in 0..LONGEST_CHAIN {
            // SAFETY: the node is not freed before this section ends, because it stood in its chain at some time since the
            // section began, and is retired only once it has been taken out. The first stood there when the bucket was
            // read; the next did when `next` was read, if that is unmarked, for then this node still stands there. If it is
            // marked, it does not change any more and leads to what takes this node's place in the chain: a node taken out
            // leads only to what is taken out later.
            let Some(node) = (unsafe { unmarked(here).as_ref() }) else { return Ok(None) };
            // Acquire (`FOLLOW`): with the Release that put the next node in.
            let next = node.next.load(R::FOLLOW);
            // Acquire (`FOLLOW`): with the Release that published the list, in `update`.
            let list = node.list.load(R::FOLLOW);
            // After both loads: what they gave is believed only if the node was whole until then.
            node.check()?;
            if node.key() >= key {
                if node.key() != key {
                    return Ok(None);
                }
                return self.open(list, key.word);
            }
            here = next;
        }
        Err(Fault::Chain)
    }

    /// Looks at what stands in a node's `list`: a list, or none.
    #[inline]
    pub(super) fn open(&self, list: *mut Header, word: u32) -> Result<Option<List<'_>>, Fault> {
        match NonNull::new(list) {
            None => Ok(None),
            Some(list) if list.as_ptr() == dead() => Ok(None),
            // SAFETY: 1. The caller read it from a node, so it was published. 2. Inside its section, so it is not freed
            // before that ends; or with the map to itself.
            Some(list) => unsafe { List::open(list, word, self.vocabulary.files()) }.map(Some),
        }
    }

    /// The writers' way to a word; on the way, marked nodes are taken out and retired.
    pub(super) fn seek<'g>(&'g self, section: &'g R::Guard<'_>, key: Key, work: &mut Work) -> Result<Place<'g>, Fault> {
        'again: loop {
            let mut link = &self.buckets[self.bucket_of(key)];
            // Acquire (`FOLLOW`): as in `find`. A bucket is never marked.
            let mut here = link.load(R::FOLLOW);
            for _ in 0..LONGEST_CHAIN {
                // SAFETY: as in `find`.
                let Some(node) = (unsafe { here.as_ref() }) else {
                    return Ok(Place { link, next: here, node: None });
                };
                // Acquire (`FOLLOW`): as in `find`; of a marked node it is final.
                let next = node.next.load(R::FOLLOW);
                node.check()?;
                if is_marked(next) {
                    // Release: with the Acquire of whoever follows this link; hands on the node behind, and the burial
                    // of this one. No Acquire: what stood in the link was read with it above. Fails if the link's own
                    // node has been marked meanwhile, or something stands in between. Relaxed on failure: the value is
                    // not used.
                    let taken = link.compare_exchange(here, unmarked(next), Ordering::Release, Ordering::Relaxed);
                    if taken.is_err() {
                        continue 'again;
                    }
                    // SAFETY: 1. It is the map's, and this exchange took it out; only one can: a marked node's link does
                    // not change, and nothing puts a node back. 2. What leads to it now was taken out before it, so only
                    // sections open already reach it.
                    work.retire_node(|| unsafe { self.reclaimer.retire_node(section, NonNull::from(node)) });
                    here = unmarked(next);
                    continue;
                }
                if node.key() >= key {
                    return Ok(Place { link, next: here, node: (node.key() == key).then_some(node) });
                }
                (link, here) = (&node.next, next);
            }
            return Err(Fault::Chain);
        }
    }

    /// A list in memory of the reclaimer's, not yet published.
    pub(super) fn new_list(&self, draft: &Draft<'_>, word: u32, generation: u32) -> NonNull<Header> {
        let memory = self.reclaimer.alloc_list(layout(draft.len()));
        // SAFETY: 1. Just allocated with that layout. 2. Fresh memory overlaps nothing.
        unsafe { draft.write(memory, word, generation) }
    }

    /// Every node of the map, for a caller with the map to itself.
    pub(super) fn nodes(&mut self) -> impl Iterator<Item = NonNull<Node>> {
        self.buckets.iter_mut().flat_map(|bucket| {
            let mut next = *bucket.get_mut();
            std::iter::from_fn(move || {
                let node = NonNull::new(unmarked(next))?;
                // SAFETY: nobody else uses the map, so what it links is allocated and unchanging. The caller may free
                // the node once it has it: this has read the link by then.
                // Relaxed: nobody else uses the map.
                next = unsafe { node.as_ref() }.next.load(Ordering::Relaxed);
                Some(node)
            })
        })
    }

    fn bucket_of(&self, key: Key) -> usize {
        key.hash as usize & (self.buckets.len() - 1)
    }
}

impl<R: Reclaimer> Drop for Map<'_, R> {
    fn drop(&mut self) {
        let nodes: Vec<NonNull<Node>> = self.nodes().collect();
        for node in nodes {
            // Relaxed: nobody else uses the map any more.
            // SAFETY: as in `nodes`; it is freed only below.
            let list = unsafe { node.as_ref() }.list.load(Ordering::Relaxed);
            if let Some(list) = NonNull::new(list).filter(|list| list.as_ptr() != dead()) {
                // SAFETY: a list that hangs on a node is whole and can be read. 1. It has not been retired, and its length
                // is what it was allocated by. 2. This is the only use of it left.
                unsafe {
                    let len = list.as_ref().len as usize;
                    self.reclaimer.free_list(list.cast(), layout(len));
                }
            }
            // SAFETY: 1. A node that stands in its chain has not been retired. 2. Nobody else uses it.
            unsafe { self.reclaimer.free_node(node) };
        }
    }
}
