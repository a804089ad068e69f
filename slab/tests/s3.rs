//! Seed 3: chained caches. The numbers are the requirement's lines.

mod support;

use quietus_slab::{
    Account, Cache, FailingSource, SLAB_BYTES, SlabBox, Unchainable, all_stats, raw, work_stats, workers,
};
use std::alloc::Layout;
use std::sync::atomic::{
    AtomicI64, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::mpsc;
use std::time::Instant;
use support::{Random, alone, storm_length};

/// 8 KiB: eight in a slab.
type Big = [u64; 1024];

/// Threads are on again when a test that switches them off is over.
struct On;
impl Drop for On {
    fn drop(&mut self) {
        workers(true);
    }
}

fn slab_of<T>(b: &SlabBox<T>) -> usize {
    std::ptr::from_ref::<T>(b).addr() / SLAB_BYTES
}

/// A cache of big objects, with so many of them.
fn filled(name: &'static str, n: u64) -> (Cache<Big>, Vec<SlabBox<Big>>) {
    support::stay();
    let cache = Cache::new(name);
    let held: Vec<_> = (0..n).map(|i| cache.alloc([i; 1024])).collect();
    assert_eq!(cache.stats().slabs as u64, n.div_ceil(8));
    (cache, held)
}

fn whole(held: &[SlabBox<Big>], first: u64) -> bool {
    (first..).zip(held).all(|(i, b)| b.iter().all(|&w| w == i))
}

/// Caches that are not over, once the ends that are queued are done.
fn caches() -> usize {
    raw::settle();
    raw::cores_in_use()
}

#[test]
fn s3_1_partial_slabs_move_and_serve_the_parent() {
    let _alone = alone();
    static NOTHING: FailingSource = FailingSource::new(0);
    let parent: Cache<Big> = Cache::builder("parent").pages(&NOTHING).build().unwrap();
    let (child, mut held) = filled("child", 32);
    // Two of eight stay in each slab.
    let mut n = 0;
    held.retain(|_| {
        n += 1;
        n % 4 == 0
    });
    child.destroy_into(&parent).unwrap();
    let s = parent.stats();
    assert_eq!((s.slabs, s.objects, s.live, s.free_in_slabs), (4, 32, 8, 24), "partial slabs and their counts");
    // Their room is the parent's, which has no other.
    for i in 0..24 {
        held.push(parent.try_alloc([100 + i; 1024]).expect("memory of the child's slabs"));
    }
    assert!(parent.try_alloc([0; 1024]).is_err());
    assert!(whole(&held[8..], 100) && (0..8).all(|i| held[i][7] == 4 * i as u64 + 3), "nothing was overwritten");
    drop(held);
    parent.flush();
    let s = parent.stats();
    assert_eq!((s.live, s.slabs, s.refused), (0, 0, 0));
}

#[test]
fn s3_1_the_parents_own_slabs_are_used_first() {
    let _alone = alone();
    let (parent, mut own) = filled("parent", 8);
    let own_slab = slab_of(&own[0]);
    own.truncate(4); // as many free as a block holds
    parent.flush();
    let (child, mut held) = filled("child", 8);
    held.truncate(4); // as full as the parent's own
    child.destroy_into(&parent).unwrap();
    for i in 0..4 {
        own.push(parent.alloc([i; 1024]));
        assert_eq!(slab_of(&own[own.len() - 1]), own_slab, "the child's slab did not go to the end");
    }
    assert_eq!(slab_of(&parent.alloc([0; 1024])), slab_of(&held[0]));
}

#[test]
fn s3_1_full_slabs_move_with_their_first_free() {
    let _alone = alone();
    let parent: Cache<Big> = Cache::new("parent");
    let (child, mut held) = filled("child", 16);
    child.destroy_into(&parent).unwrap();
    assert_eq!(parent.stats().slabs, 0, "full slabs are on no list");
    let last = slab_of(&held[15]);
    held.pop();
    let s = parent.stats();
    assert_eq!((s.slabs, s.live, s.cpu_chained_free), (1, 7, 1));
    assert_eq!((s.free_in_slabs, s.in_cpu_blocks), (1, 0), "nothing is parked on a CPU");
    let at = held.iter().position(|b| slab_of(b) == last).unwrap();
    held.swap_remove(at);
    assert_eq!(parent.stats().cpu_chained_free, 1, "the second is an ordinary free");
    let at = held.iter().position(|b| slab_of(b) != last).unwrap();
    held.swap_remove(at);
    let s = parent.stats();
    assert_eq!((s.slabs, s.live, s.cpu_chained_free), (2, 13, 2));
    parent.free_bulk(held);
    parent.flush();
    let s = parent.stats();
    assert_eq!((s.live, s.slabs), (0, 0));
}

static LIVE: AtomicI64 = AtomicI64::new(0);

/// An object that knows whose it is, and is counted.
struct Counted([u64; 6]);
impl Counted {
    fn new(n: u64) -> Self {
        LIVE.fetch_add(1, Relaxed);
        Counted([n; 6])
    }
}
impl Drop for Counted {
    fn drop(&mut self) {
        assert!(self.0.iter().all(|&w| w == self.0[0]), "an object is in two hands");
        LIVE.fetch_sub(1, Relaxed);
    }
}

/// Objects are freed, singly and in bulk, and allocated from the parent, while caches are chained to one another: none is lost, none is
/// in two hands, and nothing is left of the caches.
#[test]
fn s3_2_frees_beside_chaining() {
    let _alone = alone();
    let before = caches();
    let (send, receive): (Vec<_>, Vec<_>) = (0..2).map(|_| mpsc::sync_channel::<Vec<SlabBox<Counted>>>(4)).unzip();
    std::thread::scope(|scope| {
        for (me, inbox) in (1..).zip(receive) {
            scope.spawn(move || {
                let helper: Cache<Counted> = Cache::new("helper");
                let mut random = Random(me * 7919);
                let mut held = Vec::new();
                for more in inbox {
                    held.extend(more);
                    while !held.is_empty() && random.below(3) != 0 {
                        let n = random.next() as usize % (held.len() + 1);
                        if random.below(2) == 0 {
                            helper.free_bulk(held.drain(n..));
                        } else {
                            drop(held.swap_remove(random.next() as usize % held.len()));
                        }
                    }
                }
            });
        }
        let mut random = Random(99);
        let end = Instant::now() + storm_length(700);
        let mut rounds = 0;
        while Instant::now() < end || rounds <= 3 {
            rounds += 1;
            let grand: Cache<Counted> = Cache::builder("grand").block_capacity(8).build().unwrap();
            let parent: Cache<Counted> = Cache::builder("parent").block_capacity(8).build().unwrap();
            let child: Cache<Counted> = Cache::builder("child").block_capacity(8).build().unwrap();
            for cache in [&child, &parent, &child] {
                for to in &send {
                    let n = random.below(2500);
                    to.send((0..n).map(|i| cache.alloc(Counted::new(i))).collect()).unwrap();
                }
            }
            child.destroy_into(&parent).unwrap();
            let more = (0..random.below(500)).map(|i| parent.alloc(Counted::new(i))).collect();
            send[0].send(more).unwrap();
            parent.destroy_into(&grand).unwrap();
            send[1].send((0..random.below(500)).map(|i| grand.alloc(Counted::new(i))).collect()).unwrap();
        }
        drop(send);
    });
    assert_eq!(LIVE.load(SeqCst), 0);
    assert_eq!(caches(), before);
}

/// A slab that came from a chained cache is given back when it is empty; a node keeps one of its own.
#[test]
fn s3_3_emptied_slabs_are_released_at_once() {
    let _alone = alone();
    let (parent, own) = filled("parent", 8);
    let (child, mut held) = filled("child", 16);
    held.truncate(9);
    child.destroy_into(&parent).unwrap();
    drop(held);
    parent.flush();
    assert_eq!(parent.stats().slabs, 1, "min_partial is for the parent's own");
    drop(own);
    parent.flush();
    assert_eq!((parent.stats().slabs, parent.stats().live), (1, 0));
}

struct Bytes {
    held: AtomicI64,
    charged: AtomicUsize,
    uncharged: AtomicUsize,
}
impl Account for Bytes {
    fn charge(&self, bytes: usize) {
        self.held.fetch_add(bytes as i64, SeqCst);
        self.charged.fetch_add(bytes, SeqCst);
    }
    fn uncharge(&self, bytes: usize) {
        assert!(self.held.fetch_sub(bytes as i64, SeqCst) >= bytes as i64, "more is given back than was charged");
        self.uncharged.fetch_add(bytes, SeqCst);
    }
}
impl Bytes {
    const fn new() -> Self {
        Bytes { held: AtomicI64::new(0), charged: AtomicUsize::new(0), uncharged: AtomicUsize::new(0) }
    }
    fn slabs(&self) -> i64 {
        self.held.load(SeqCst) / SLAB_BYTES as i64
    }
}

#[test]
fn s3_3_bytes_move_to_the_parents_account_once() {
    let _alone = alone();
    static OF_CHILD: Bytes = Bytes::new();
    static OF_PARENT: Bytes = Bytes::new();
    let (of_child, of_parent) = (&OF_CHILD, &OF_PARENT);
    let parent: Cache<Big> = Cache::builder("parent").account(of_parent).build().unwrap();
    support::stay();
    let child: Cache<Big> = Cache::builder("child").account(of_child).build().unwrap();
    let mut held: Vec<_> = (0..32).map(|i| child.alloc([i; 1024])).collect();
    assert_eq!((of_child.slabs(), of_parent.slabs()), (4, 0));
    // One slab empty, one partial, two full.
    held.truncate(20);
    child.destroy_into(&parent).unwrap();
    assert_eq!((of_child.slabs(), of_parent.slabs()), (2, 1), "the empty one is given back, the partial one moves");
    let full = slab_of(&held[0]);
    held.remove(0);
    assert_eq!((of_child.slabs(), of_parent.slabs()), (1, 2));
    held.retain(|b| slab_of(b) != full);
    parent.flush();
    assert_eq!((of_child.slabs(), of_parent.slabs()), (1, 1));
    drop(held);
    parent.flush();
    assert_eq!((of_child.slabs(), of_parent.slabs()), (0, 0));
    for account in [of_child, of_parent] {
        assert_eq!(account.charged.load(SeqCst), account.uncharged.load(SeqCst));
    }
    assert_eq!(of_child.charged.load(SeqCst), 4 * SLAB_BYTES, "charged for its own four");
    assert_eq!(of_parent.charged.load(SeqCst), 3 * SLAB_BYTES, "and for three of them");
}

#[test]
fn s3_4_a_chained_cache_is_hidden_and_a_parent_may_be_chained() {
    let _alone = alone();
    let listed = |name| all_stats().iter().any(|s| s.name == name);
    let before = caches();
    let grand: Cache<Big> = Cache::new("grand");
    let (parent, mut of_parent) = filled("middle", 12);
    let (child, mut of_child) = filled("hidden", 20);
    assert!(listed("hidden") && listed("middle"));
    child.destroy_into(&parent).unwrap();
    assert!(!listed("hidden") && listed("middle"));
    assert_eq!(parent.stats().live, 12 + 4);
    parent.destroy_into(&grand).unwrap();
    assert!(!listed("middle"));
    assert_eq!((grand.stats().slabs, grand.stats().live), (2, 8), "partial slabs of both, twice moved and once");
    // Full slabs of either go straight to whoever is last.
    of_child.remove(0);
    of_parent.remove(0);
    let s = grand.stats();
    assert_eq!((s.slabs, s.live, s.cpu_chained_free), (4, 22, 2));
    // By pointer, and by a handle.
    drop(of_child);
    grand.free_bulk(of_parent);
    grand.flush();
    assert_eq!((grand.stats().live, grand.stats().slabs, grand.stats().refused), (0, 0, 0));
    drop(grand);
    assert_eq!(caches(), before);
}

/// The end of a cache is work: a free never does it.
#[test]
fn s3_5_the_last_slab_schedules_the_end() {
    let _alone = alone();
    let _on = On;
    let parent: Cache<Big> = Cache::new("parent");
    let (child, mut held) = filled("ending", 9);
    let last = held.pop().unwrap();
    let count = caches();
    child.destroy_into(&parent).unwrap();
    drop(held);
    parent.flush();
    assert_eq!(raw::cores_in_use(), count, "a slab is left");
    workers(false);
    let before = work_stats();
    drop(last);
    parent.flush();
    let after = work_stats();
    assert_eq!((after.queued, after.inline), (before.queued + 1, before.inline), "queued, and not done by the free");
    assert_eq!(raw::cores_in_use(), count - 1, "no slab, no object");
    drop(all_stats());
    assert_eq!(work_stats().inline, before.inline + 1, "done by the next call that lists caches");

    // The same with threads.
    workers(true);
    let (child, held) = filled("ending", 8);
    child.destroy_into(&parent).unwrap();
    let before = work_stats();
    drop(held);
    parent.flush();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while work_stats().by_threads < before.by_threads + 2 && std::time::Instant::now() < end {
        std::thread::yield_now();
    }
    workers(false);
    let after = work_stats();
    // The flush is one more.
    assert_eq!(
        (after.by_threads - before.by_threads, after.inline),
        (2, before.inline),
        "a worker has ended the cache"
    );
}

#[test]
fn s3_5_without_slabs_the_end_is_now() {
    let _alone = alone();
    let parent: Cache<Big> = Cache::new("parent");
    let count = caches();
    let (child, held) = filled("over", 20);
    drop(held);
    let before = work_stats();
    child.destroy_into(&parent).unwrap();
    assert_eq!(raw::cores_in_use(), count);
    assert_eq!(work_stats(), before, "no work");
}

/// More caches than there are numbers, and words: nothing of a chained cache stays.
#[test]
fn s3_5_nothing_is_left_behind() {
    let _alone = alone();
    let parent: Cache<Big> = Cache::new("parent");
    let (before, blocks) = (caches(), quietus_slab::page_stats());
    for i in 0..9_000 {
        let child: Cache<Big> = Cache::builder("brief").build().expect("a cache that is over leaves nothing behind");
        let b = child.alloc([i; 1024]);
        child.destroy_into(&parent).unwrap();
        assert_eq!(b[1023], i);
        drop(b);
        parent.flush();
    }
    assert_eq!(caches(), before);
    assert_eq!((parent.stats().slabs, parent.stats().live), (0, 0));
    let now = quietus_slab::page_stats();
    assert!(now.blocks - now.spare <= blocks.blocks - blocks.spare + 8, "blocks are left behind");
    #[cfg(target_os = "linux")]
    {
        workers(false);
        assert_eq!(support::worker_threads(), 0);
        workers(true);
    }
}

#[test]
fn s3_6_what_cannot_be_chained_says_why() {
    let _alone = alone();
    let child: Cache<[u64; 8]> = Cache::new("child");
    let b = child.alloc([5; 8]);
    let larger: Cache<[u64; 9]> = Cache::new("larger");
    let e = child.destroy_into(&larger).unwrap_err();
    let (own, parent) = (Layout::new::<[u64; 8]>(), Layout::new::<[u64; 9]>());
    assert_eq!(e.reason, Unchainable::Layout { own, parent });
    let text = e.to_string();
    assert!(text.contains("child") && text.contains("64 bytes") && text.contains("72 bytes"), "{text}");

    #[repr(align(16))]
    struct Aligned(#[allow(dead_code)] [u64; 8]);
    let aligned: Cache<Aligned> = Cache::new("aligned");
    let e = e.cache.destroy_into(&aligned).unwrap_err();
    assert!(matches!(e.reason, Unchainable::Layout { .. }) && e.to_string().contains("aligned to 16"), "{e}");

    let poisoned: Cache<[u64; 8]> = Cache::builder("poisoned").poison(true).build().unwrap();
    let e = e.cache.destroy_into(&poisoned).unwrap_err();
    assert_eq!(e.reason, Unchainable::Poisoned);
    assert!(e.to_string().contains("poisoned"), "{e}");
    let child = e.cache;
    assert_eq!(poisoned.destroy_into(&child).unwrap_err().reason, Unchainable::Poisoned);

    // It is as it was.
    let c = child.alloc([6; 8]);
    assert_eq!((b[0], c[0], child.stats().live), (5, 6, 2));
    let equal: Cache<[u64; 8]> = Cache::new("equal");
    child.destroy_into(&equal).unwrap();
}

#[test]
fn s3_7_without_a_parent() {
    let _alone = alone();
    let before = caches();
    let (cache, held) = filled("orphaned", 20);
    let e = cache.destroy().unwrap_err();
    assert_eq!(e.live, 20);
    assert!(e.to_string().contains("orphaned") && e.to_string().contains("in use: 20"), "{e}");
    drop(e.cache);
    assert_eq!(raw::cores_in_use(), before + 1, "its objects keep it");
    assert!(whole(&held, 0));
    drop(held);
    assert_eq!(raw::cores_in_use(), before);
    let (cache, held) = filled("over", 20);
    drop(held);
    cache.destroy().unwrap();

    // Objects of chained caches count, wherever they are.
    let parent: Cache<Big> = Cache::new("parent");
    let (child, mut held) = filled("child", 20);
    child.destroy_into(&parent).unwrap();
    let e = parent.destroy().unwrap_err();
    assert_eq!(e.live, 20, "4 in a slab that has moved, 16 in two that have not");
    held.clear();
    e.cache.destroy().unwrap();
    assert_eq!(caches(), before);
}

static DROPPED: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
struct First(Big);
struct Second(Big);
impl Drop for First {
    fn drop(&mut self) {
        assert!(self.0.iter().all(|&w| w == 1));
        DROPPED[0].fetch_add(1, SeqCst);
    }
}
impl Drop for Second {
    fn drop(&mut self) {
        assert!(self.0.iter().all(|&w| w == 2));
        DROPPED[1].fetch_add(1, SeqCst);
    }
}

/// Types that are dropped by different functions do not share a slab.
#[test]
fn s3_1_guests_are_not_allocated_from() {
    let _alone = alone();
    let before = caches();
    support::stay();
    let parent: Cache<Second> = Cache::new("second");
    let child: Cache<First> = Cache::new("first");
    let mut held: Vec<_> = (0..20).map(|_| child.alloc(First([1; 1024]))).collect();
    let slabs: Vec<usize> = held.iter().map(slab_of).collect();
    child.destroy_into(&parent).unwrap();
    let s = parent.stats();
    assert_eq!((s.slabs, s.live, s.free_in_slabs), (1, 4, 4));
    held.remove(0); // the slab was full
    let others: Vec<_> = (0..30).map(|_| parent.alloc(Second([2; 1024]))).collect();
    assert!(others.iter().all(|b| !slabs.contains(&slab_of(b))), "two types share a slab");
    // Freed one by one and in bulk: they are not parked either.
    while held.len() > 10 {
        held.pop();
    }
    assert_eq!(parent.stats().in_cpu_blocks + parent.stats().in_barns, 2, "what the parent's own refill left");
    // SAFETY: each is freed once, its value leaks.
    unsafe {
        let rest: Vec<*mut u8> = held.drain(..).map(|b| SlabBox::into_raw(b).as_ptr().cast()).collect();
        let mut all = rest;
        all.extend((0..300).map(|_| SlabBox::into_raw(parent.alloc(Second([2; 1024]))).as_ptr().cast::<u8>()));
        quietus_slab::free_bulk(&all);
    }
    let again: Vec<_> = (0..300).map(|_| parent.alloc(Second([2; 1024]))).collect();
    assert_eq!(parent.stats().live, 330, "the guests are gone");
    assert_eq!(caches(), before + 1);
    drop((again, others));
    assert_eq!((DROPPED[0].load(SeqCst), DROPPED[1].load(SeqCst)), (10, 330));
}
