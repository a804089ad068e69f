//! R1 and R6, domains for values that borrow: all is dropped before the end of what it borrows, on whichever way that end comes; and what
//! is leaked is never dropped.

use quietus::slab::{Cache, SlabBox};
use quietus::{Atomic, Domain, ScopedDomain, Shared};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, SeqCst},
};
use std::time::Duration;

/// Borrows a counter, and looks at it when it is dropped.
struct Noted<'a>(&'a AtomicU64);

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// By every door; four values a turn, of which each counts.
fn retire<'a>(domain: &ScopedDomain<'a>, cache: &Cache<Noted<'a>>, drops: &'a AtomicU64, turns: usize) {
    for _ in 0..turns {
        // SAFETY: fresh, known to nobody else.
        unsafe {
            domain.retire(SlabBox::into_raw(SlabBox::new(Noted(drops))));
            domain.retire_in(cache, SlabBox::into_raw(cache.alloc(Noted(drops))));
            domain.retire_box(NonNull::from(Box::leak(Box::new(Noted(drops)))));
        }
        domain.defer(|| drop(Noted(drops)));
    }
}

/// A list of what it borrows, newest first: what a map's buckets are.
struct List<'a> {
    head: Atomic<Node<'a>>,
    domain: ScopedDomain<'a>,
}

struct Node<'a> {
    word: &'a str,
    drops: &'a AtomicU64,
    next: Atomic<Node<'a>>,
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        // Reads what is borrowed.
        self.drops.fetch_add(self.word.len() as u64, SeqCst);
    }
}

impl<'a> List<'a> {
    fn push(&self, word: &'a str, drops: &'a AtomicU64) {
        let guard = self.domain.pin();
        let node = SlabBox::into_raw(SlabBox::new(Node { word, drops, next: Atomic::null() }));
        let mut head = self.head.load(Acquire, &guard);
        // SAFETY: fresh, ours until it is published.
        let (new, next) = unsafe { (Shared::from_raw(node), &node.as_ref().next) };
        loop {
            next.store(head, SeqCst);
            match self.head.compare_exchange(head, new, AcqRel, Acquire, &guard) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
    fn pop(&self) -> Option<&'a str> {
        let guard = self.domain.pin();
        loop {
            let head = self.head.load(Acquire, &guard);
            // SAFETY: the section protects it.
            let node = unsafe { head.as_ref() }?;
            let next = node.next.load(Acquire, &guard);
            if self.head.compare_exchange(head, next, AcqRel, Acquire, &guard).is_ok() {
                let word = node.word;
                // SAFETY: unlinked, by us alone.
                unsafe { self.domain.retire(head.as_non_null().unwrap()) };
                return Some(word);
            }
        }
    }
}

impl Drop for List<'_> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
        // The domain goes after this, and drains.
    }
}

#[test]
fn r_1_a_map_of_what_it_borrows_drops_it_in_time() {
    let text = "a lock-free list of words that are borrowed from a text ".repeat(50);
    let drops = AtomicU64::new(0);
    let letters = text.split_whitespace().map(str::len).sum::<usize>() as u64;
    {
        let list = List { head: Atomic::null(), domain: ScopedDomain::new() };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| text.split_whitespace().for_each(|word| list.push(word, &drops)));
            }
            scope.spawn(|| {
                for _ in 0..100 {
                    list.pop();
                    list.domain.tick();
                }
            });
        });
        list.pop();
        std::mem::forget(list.domain.pin());
    }
    assert_eq!(drops.load(SeqCst), 2 * letters, "each once, whatever was leaked");
}

#[test]
fn r_1_what_borrows_is_dropped_with_the_domain() {
    let drops = AtomicU64::new(0);
    for (ends, how) in ["drop", "drain", "scope", "panic"].into_iter().enumerate() {
        let cache = Cache::new("scoped");
        match how {
            "drop" => retire(&ScopedDomain::new(), &cache, &drops, 500),
            "drain" => {
                let domain = Domain::builder().help_with_destructors(true).build_scoped();
                retire(&domain, &cache, &drops, 500);
                domain.drain();
                assert_eq!(drops.load(SeqCst), 4000);
            }
            "scope" => Domain::scoped(|domain| retire(domain, &cache, &drops, 500)),
            _ => {
                let scope = || -> () {
                    Domain::scoped(|domain| {
                        retire(domain, &cache, &drops, 500);
                        panic!("on purpose")
                    })
                };
                catch_unwind(AssertUnwindSafe(scope)).unwrap_err();
            }
        }
        assert_eq!(drops.load(SeqCst), 2000 * (ends as u64 + 1), "after {how}");
        assert_eq!(cache.stats().live, 0);
    }
}

/// Whoever else there is — a cache that goes, other domains' barriers and floods, an allocator that runs dry — leaves it alone.
#[test]
fn r_6_what_is_leaked_with_its_domain_is_never_dropped() {
    let drops = AtomicU64::new(0);
    {
        let cache: Cache<Noted<'_>> = Cache::new("leaked");
        let domain = Domain::builder().age_limit(Duration::from_millis(1)).workers(true).build_scoped();
        retire(&domain, &cache, &drops, 500);
        domain.flush();
        std::mem::forget(domain);
        drop(cache.destroy().unwrap_err());
        let other = Domain::new();
        let numbers: Cache<[u64; 8]> = Cache::new("others");
        for _ in 0..100_000 {
            // SAFETY: fresh, known to nobody else.
            unsafe { other.retire(SlabBox::into_raw(numbers.alloc([1; 8]))) };
        }
        other.barrier();
        other.relieve();
        numbers.destroy().unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(drops.load(SeqCst), 0);
}

/// The same while it lives: nothing runs but in the owner's calls.
#[test]
fn r_1_only_the_owner_runs_what_borrows() {
    let (drops, here) = (AtomicU64::new(0), std::thread::current().id());
    let domain = Domain::builder().age_limit(Duration::from_millis(1)).build_scoped();
    let cache = Cache::new("owned");
    retire(&domain, &cache, &drops, 500);
    domain.flush();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(drops.load(SeqCst), 0, "there is no worker");
    assert_eq!(cache.destroy().unwrap_err().live, 500, "the objects stay until the domain is drained");
    assert_eq!(drops.load(SeqCst), 0);
    for _ in 0..100 {
        domain.defer(move || assert_eq!(std::thread::current().id(), here));
    }
    domain.drain();
    assert_eq!((drops.load(SeqCst), domain.stats().kvfree.panics), (2000, 0));
}

/// A guard of one domain protects nothing of another's: neither this one's objects nor its grace periods know of it.
#[test]
fn r_1_a_guard_protects_nothing_of_another_domain() {
    let drops = AtomicU64::new(0);
    let (mine, other, global) = (ScopedDomain::new(), Domain::new(), quietus::pin());
    let guards = (other.pin(), quietus::qsbr::reader());
    // SAFETY: fresh, known to nobody else.
    unsafe { mine.retire(SlabBox::into_raw(SlabBox::new(Noted(&drops)))) };
    let cookie = mine.cookie();
    mine.drain();
    assert!(cookie.is_elapsed());
    assert_eq!(drops.load(SeqCst), 1);
    let own = mine.pin();
    // SAFETY: as above.
    unsafe { mine.retire(SlabBox::into_raw(SlabBox::new(Noted(&drops)))) };
    (0..10).for_each(|_| _ = mine.tick());
    assert_eq!(drops.load(SeqCst), 1, "its own guard does");
    drop((own, guards, global));
}
