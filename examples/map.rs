//! A lock-free map from borrowed words to values: sorted lists (Michael's) behind a table, nodes from a `Cache`, and a domain for values
//! that borrow.
//!
//! `cargo run --release --example map` has two threads read while two insert and remove, and shows that no reader met a value that was
//! gone, and that every node and every value went, once.

use quietus::slab::{Cache, SlabBox};
use quietus::{Atomic, DomainGuard, ScopedDomain, Shared};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

/// A bit of `next`: the node that it stands in is being removed.
const GONE: usize = 1;

struct Node<'a, V> {
    key: &'a str,
    value: V,
    next: Atomic<Node<'a, V>>,
}

/// A map that any thread may read and change.
pub struct Map<'a, V: Send + Sync> {
    buckets: Box<[Atomic<Node<'a, V>>]>,
    hasher: RandomState,
    nodes: Cache<Node<'a, V>>,
    /// Last: dropping it drops what is still retired, values and all.
    domain: ScopedDomain<'a>,
}

/// Where a key is, or would be: the link that leads there, and what it leads to.
struct Place<'g, 'a, V> {
    link: &'g Atomic<Node<'a, V>>,
    at: Shared<'g, Node<'a, V>>,
    found: Option<&'g Node<'a, V>>,
}

impl<'a, V: Send + Sync + 'a> Map<'a, V> {
    fn new(buckets: usize) -> Self {
        Map {
            buckets: (0..buckets).map(|_| Atomic::null()).collect(),
            hasher: RandomState::new(),
            nodes: Cache::new("map"),
            domain: ScopedDomain::new(),
        }
    }

    /// Runs `f` on the value, if there is one.
    fn get<R>(&self, key: &str, f: impl FnOnce(&V) -> R) -> Option<R> {
        let guard = self.domain.pin();
        self.find(key, &guard).found.map(|node| f(&node.value))
    }

    /// False: there is one already.
    fn insert(&self, key: &'a str, value: V) -> bool {
        let guard = self.domain.pin();
        let mut fresh = self.nodes.alloc(Node { key, value, next: Atomic::null() });
        loop {
            let place = self.find(key, &guard);
            if place.found.is_some() {
                return false;
            }
            fresh.next.store(place.at, Relaxed);
            let raw = SlabBox::into_raw(fresh);
            // SAFETY: (1) ours until it is published; freed only after it was unlinked.
            let node = unsafe { Shared::from_raw(raw) };
            match place.link.compare_exchange(place.at, node, Release, Relaxed, &guard) {
                Ok(_) => return true,
                // SAFETY: from `into_raw`, not published.
                Err(_) => fresh = unsafe { SlabBox::from_raw(raw) },
            }
        }
    }

    /// False: there is none.
    fn remove(&self, key: &str) -> bool {
        let guard = self.domain.pin();
        let place = self.find(key, &guard);
        let Some(node) = place.found else { return false };
        let next = node.next.fetch_or(GONE, AcqRel, &guard);
        if next.tag() == GONE {
            return false; // somebody else was first
        }
        if place.link.compare_exchange(place.at, next, AcqRel, Relaxed, &guard).is_ok() {
            self.retire(place.at);
        } else {
            self.find(key, &guard); // unlinks it
        }
        true
    }

    /// Unlinks what is being removed on the way.
    fn find<'g>(&'g self, key: &str, guard: &'g DomainGuard<'_>) -> Place<'g, 'a, V> {
        let bucket = &self.buckets[self.hasher.hash_one(key) as usize % self.buckets.len()];
        'again: loop {
            let mut link = bucket;
            let mut at = link.load(Acquire, guard);
            loop {
                // SAFETY: (1) loaded with Acquire in this section, and retired to this domain when it is out of reach.
                let Some(node) = (unsafe { at.as_ref() }) else { return Place { link, at, found: None } };
                let next = node.next.load(Acquire, guard);
                if next.tag() == GONE {
                    let next = next.with_tag(0);
                    if link.compare_exchange(at, next, AcqRel, Relaxed, guard).is_err() {
                        continue 'again;
                    }
                    self.retire(at);
                    at = next;
                } else if node.key < key {
                    (link, at) = (&node.next, next);
                } else {
                    return Place { link, at, found: (node.key == key).then_some(node) };
                }
            }
        }
    }

    /// Of a node that the caller has unlinked.
    fn retire(&self, node: Shared<'_, Node<'a, V>>) {
        let node = node.as_non_null().expect("it was found");
        // SAFETY: (1) one exchange unlinks it, and only who has made it comes here. (2) All nodes are of this cache.
        unsafe { self.domain.retire_in(&self.nodes, node) };
    }
}

impl<V: Send + Sync> Drop for Map<'_, V> {
    fn drop(&mut self) {
        for bucket in &mut self.buckets {
            let mut at = bucket.take();
            while let Some(node) = at {
                // SAFETY: ours alone by now: `&mut self`. What was unlinked is not reachable from here.
                let mut node = unsafe { SlabBox::from_raw(node) };
                at = node.next.take();
            }
        }
    }
}

const ALIVE: u64 = 0x11fe;

/// A value that says so when it is read after its end, and counts its end.
struct Value<'a> {
    state: AtomicU64,
    word: &'a str,
    drops: &'a AtomicU64,
}

impl Drop for Value<'_> {
    fn drop(&mut self) {
        assert_eq!(self.state.swap(0xdead, Relaxed), ALIVE, "dropped twice");
        self.drops.fetch_add(1, Relaxed);
    }
}

fn main() {
    const TURNS: usize = 200;
    let text: String = (0..500).map(|i| format!("word{i} ")).collect();
    let words: Vec<&str> = text.split_whitespace().collect();
    let (made, drops, reads, hits) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let done = AtomicBool::new(false);
    let map = Map::new(64);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    for word in &words {
                        let seen = map.get(word, |value: &Value<'_>| (value.state.load(Relaxed), value.word));
                        assert!(seen.is_none_or(|seen| seen == (ALIVE, word)), "{word} leads to {seen:?}");
                        reads.fetch_add(1, Relaxed);
                        hits.fetch_add(u64::from(seen.is_some()), Relaxed);
                    }
                }
            });
        }
        let writers: Vec<_> = (0..2)
            .map(|first| {
                let (map, words, made, drops) = (&map, &words, &made, &drops);
                scope.spawn(move || {
                    for turn in 0..TURNS {
                        for word in words.iter().skip((turn + first) % 2).step_by(2) {
                            made.fetch_add(1, Relaxed);
                            if !map.insert(word, Value { state: AtomicU64::new(ALIVE), word, drops }) {
                                map.remove(word);
                            }
                        }
                        map.domain.tick(); // nobody else drops values
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().expect("no panic"));
        done.store(true, Relaxed);
    });
    for word in &words {
        map.remove(word);
    }
    map.domain.drain();
    let (stats, live) = (map.domain.stats(), map.nodes.stats().live);
    println!(
        "{} values made, {} reads, {} of them found something",
        made.load(Relaxed),
        reads.load(Relaxed),
        hits.load(Relaxed)
    );
    println!("{} nodes retired, {} grace periods", stats.kvfree.queued_objects, stats.grace_periods);
    println!("{} values dropped, pending {}, live nodes {live}", drops.load(Relaxed), stats.kvfree.pending_objects);
    assert_eq!((drops.load(Relaxed), stats.kvfree.pending_objects, live), (made.load(Relaxed), 0, 0));
    // And one that goes with values in it.
    for word in &words {
        made.fetch_add(1, Relaxed);
        assert!(map.insert(word, Value { state: AtomicU64::new(ALIVE), word, drops: &drops }));
    }
    words.iter().step_by(2).for_each(|word| assert!(map.remove(word)));
    drop(map);
    assert_eq!(drops.load(Relaxed), made.load(Relaxed));
    println!("a map that goes drops what is in it, and what was: {} of {}", drops.load(Relaxed), made.load(Relaxed));
}
