//! What a cache can be built to be: alignment, merging, node policy, constructed and type-stable objects.

mod support;

use quietus_slab::{
    BuildError, Cache, Call, Grace, Machine, NodePolicy, SlabBox, Stable, StableCache, Topology, Unchainable, all_stats,
};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use support::alone;

#[repr(align(4096))]
struct Page(#[allow(dead_code)] [u8; 4096]);

/// Every layout that a type can have is served, or refused in so many words.
#[test]
fn layouts_of_all_kinds() {
    let _alone = alone();
    let zero: Cache<()> = Cache::new("zero");
    let held: Vec<_> = (0..1000).map(|_| zero.alloc(())).collect();
    assert_eq!((zero.stats().live, zero.stats().object_bytes), (1000, 16), "a place for each");
    drop(held);
    let pages: Cache<Page> = Cache::new("pages");
    let held: Vec<_> = (0..40).map(|_| pages.alloc(Page([1; 4096]))).collect();
    assert!(held.iter().all(|p| std::ptr::from_ref::<Page>(p).addr().is_multiple_of(4096)));
    let lines: Cache<[u8; 40]> = Cache::builder("lines").align(64).build().unwrap();
    let held: Vec<_> = (0..100).map(|_| lines.alloc([1; 40])).collect();
    assert!(held.iter().all(|p| std::ptr::from_ref::<[u8; 40]>(p).addr().is_multiple_of(64)));
    assert_eq!(lines.stats().object_bytes, 64);
    for n in [0, 3, 1 << 16] {
        let refused = Cache::<u8>::builder("odd").align(n).build();
        assert_eq!(refused.err(), Some(BuildError::Align(n)));
        assert!(BuildError::Align(n).to_string().contains("power of two"));
    }
    assert!(matches!(Cache::<[u64; 5000]>::builder("huge").build(), Err(BuildError::TooLarge { .. })));
    // One that was made longer is no parent for one that was not.
    let plain: Cache<[u8; 40]> = Cache::new("plain");
    assert!(matches!(plain.destroy_into(&lines).unwrap_err().reason, Unchainable::Layout { .. }));
}

/// Caches that ask for it are one: the same slabs and counts, under the first one's name, with the others' as aliases.
#[test]
fn merged_caches_are_one() {
    let _alone = alone();
    let make = |name| Cache::<[u64; 9]>::builder(name).merge(true).build().unwrap();
    let shown = |name: &str| all_stats().into_iter().find(|s| s.name == name);
    let apart: Cache<[u64; 9]> = Cache::new("merged-not");
    let (a, b) = (make("merged-a"), make("merged-b"));
    let object = b.alloc([3; 9]);
    assert_eq!((a.stats().live, b.stats().live, apart.stats().live), (1, 1, 0), "statistics are shared");
    assert_eq!(shown("merged-a").unwrap().aliases, ["merged-b"]);
    assert!(shown("merged-b").is_none() && shown("merged-not").unwrap().aliases.is_empty());
    // Another type of the same length, but not another length, or one with a destructor, or with blocks of its own.
    let c = Cache::<[i64; 9]>::builder("merged-c").merge(true).build().unwrap();
    assert_eq!(c.stats().live, 1);
    let _others = (
        Cache::<[u64; 10]>::builder("longer").merge(true).build().unwrap(),
        Cache::<(String, [u64; 6])>::builder("with drop").merge(true).build().unwrap(),
        Cache::<[u64; 9]>::builder("own blocks").merge(true).block_capacity(7).build().unwrap(),
        Cache::<[u64; 9]>::builder("array").merge(true).array(7).build().unwrap(),
    );
    assert_eq!(shown("merged-a").unwrap().aliases, ["merged-b", "merged-c"]);
    // It goes with the last of them, and its name with the first.
    let refused = c.destroy_into(&apart).unwrap_err();
    assert_eq!(refused.reason, Unchainable::Shared);
    refused.cache.destroy().unwrap();
    a.destroy().unwrap();
    assert!(shown("merged-a").is_none());
    assert_eq!((shown("merged-b").unwrap().live, object[8]), (1, 3));
    let b = b.destroy().unwrap_err();
    assert_eq!(b.live, 1, "the last one looks");
    // A cache that is chained takes nobody in.
    b.cache.destroy_into(&apart).unwrap();
    let late = make("merged-late");
    assert_eq!((late.stats().slabs, shown("merged-late").unwrap().aliases.len()), (0, 0));
    drop((object, late.alloc([1; 9])));
}

/// Local, bound, and in turns.
#[test]
fn node_policies() {
    let _alone = alone();
    let m = Machine::simulated(Topology::grid(4, 1).without_memory(3)).unwrap();
    let build = |policy| {
        Cache::<[u64; 1024]>::builder("policy").machine(m).block_capacity(4).node_policy(policy).build().unwrap()
    };
    let slabs = |cache: &Cache<[u64; 1024]>| cache.node_stats().iter().map(|n| n.slabs).collect::<Vec<_>>();
    let fill = |cache: &Cache<[u64; 1024]>, cpu| {
        m.run_on(cpu);
        (0..96).map(|i| cache.alloc([i; 1024])).collect::<Vec<_>>()
    };
    let (local, bound, turns) = (build(NodePolicy::Local), build(NodePolicy::Bound(2)), build(NodePolicy::Interleave));
    let held = [fill(&local, 1), fill(&bound, 1), fill(&turns, 1)];
    assert_eq!(slabs(&local), [0, 12, 0, 0]);
    assert_eq!(slabs(&bound), [0, 0, 12, 0]);
    let in_turns = slabs(&turns);
    assert!(in_turns[..3].iter().all(|&n| n >= 4) && in_turns[3] == 0, "{in_turns:?}");
    m.run_on(0);
    drop(held);
    let real: Cache<[u64; 1024]> = Cache::new("real");
    assert_eq!(real.destroy_into(&local).unwrap_err().reason, Unchainable::Machine, "nodes do not fit nodes");
    for cache in [local, bound, turns] {
        cache.flush();
        assert_eq!(cache.stats().live, 0);
        cache.destroy().unwrap();
    }
}

static MADE: AtomicU64 = AtomicU64::new(0);
static UNMADE: AtomicU64 = AtomicU64::new(0);

struct Kept {
    number: u64,
    uses: AtomicU64,
    _filler: [u64; 1022],
}
impl Kept {
    fn make() -> Kept {
        Kept { number: MADE.fetch_add(1, SeqCst), uses: AtomicU64::new(0), _filler: [0; 1022] }
    }
}
impl Drop for Kept {
    fn drop(&mut self) {
        UNMADE.fetch_add(1, SeqCst);
    }
}

/// Values are made with their slab, stay as they are while free, and go with it.
#[test]
fn constructed_once() {
    let _alone = alone();
    support::stay();
    let (made, unmade) = (MADE.load(SeqCst), UNMADE.load(SeqCst));
    let cache = StableCache::new("kept", Kept::make);
    assert_eq!(MADE.load(SeqCst), made, "nothing is made before it is needed");
    let held: Vec<Stable<Kept>> = (0..20).map(|_| cache.alloc()).collect();
    assert_eq!(MADE.load(SeqCst) - made, 24, "three slabs of eight");
    for kept in &held {
        kept.uses.fetch_add(1, SeqCst);
    }
    drop(held);
    let held: Vec<Stable<Kept>> = (0..24).map(|_| cache.alloc()).collect();
    assert_eq!(held.iter().map(|kept| kept.uses.load(SeqCst)).sum::<u64>(), 20, "they are as they were left");
    assert!(held.iter().all(|kept| kept.number >= made));
    assert_eq!((MADE.load(SeqCst) - made, UNMADE.load(SeqCst) - unmade), (24, 0));
    let last = held.into_iter().next().unwrap();
    cache.shrink();
    assert_eq!(UNMADE.load(SeqCst) - unmade, 16, "two slabs went");
    drop(cache);
    assert_eq!(UNMADE.load(SeqCst) - unmade, 16, "an object outlives the handle, and its neighbours with it");
    drop(last);
    assert_eq!(UNMADE.load(SeqCst) - unmade, 24);
    let poisoned = Cache::<Kept>::builder("both").poison(true).constructed(Kept::make).build();
    assert_eq!(poisoned.err(), Some(BuildError::Poisoned));
}

static TRIES: AtomicUsize = AtomicUsize::new(0);
static DROPS: AtomicUsize = AtomicUsize::new(0);

struct Fragile(#[allow(dead_code)] [u64; 1024]);
impl Drop for Fragile {
    fn drop(&mut self) {
        if DROPS.fetch_add(1, SeqCst) == 5 {
            panic!("a destructor");
        }
    }
}

/// A constructor that panics takes what it has made along, and no memory; a destructor that does keeps no other from its end.
#[test]
fn constructors_and_destructors_that_panic() {
    let _alone = alone();
    support::stay();
    let cache = StableCache::new("fragile", || {
        assert!(TRIES.fetch_add(1, SeqCst) != 3, "a constructor");
        Fragile([0; 1024])
    });
    let blocks = || quietus_slab::page_stats().blocks - quietus_slab::page_stats().spare;
    let before = blocks();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cache.alloc())).is_err());
    assert_eq!(blocks(), before, "nor a block");
    assert_eq!((DROPS.load(SeqCst), cache.stats().slabs), (3, 0));
    drop(cache.alloc());
    assert_eq!(TRIES.load(SeqCst), 4 + 8);
    cache.shrink();
    assert_eq!((DROPS.load(SeqCst), cache.stats().slabs, cache.stats().panics), (3 + 8, 0, 1));
}

/// Keeps what it is given.
struct Later(Mutex<Vec<Call>>);
// SAFETY: 1: the test runs the calls when nobody looks any more.
unsafe impl Grace for Later {
    fn after(&self, call: Call) {
        self.0.lock().unwrap().push(call);
    }
}

/// The memory of a type-stable cache stays what it was until after a grace period, whatever becomes of the object, its slab and its cache.
#[test]
fn type_stable_memory_waits_for_a_grace_period() {
    let _alone = alone();
    support::stay();
    static LATER: Later = Later(Mutex::new(Vec::new()));
    let unmade = UNMADE.load(SeqCst);
    let cache = Cache::<Kept>::builder("stable").constructed(Kept::make).type_stable(&LATER).build().unwrap();
    let held: Vec<Stable<Kept>> = (0..16).map(|_| cache.alloc()).collect();
    let (found, number) = (Stable::as_ptr(&held[9]), held[9].number);
    drop(held);
    cache.shrink();
    let s = cache.stats();
    assert_eq!((s.slabs, s.slabs_deferred, s.slabs_given), (0, 2, 0));
    drop(cache);
    // SAFETY: type-stable: the calls have not been run.
    assert_eq!(unsafe { (*found).number }, number, "a reader that found it before");
    assert_eq!(UNMADE.load(SeqCst), unmade);
    let calls: Vec<Call> = LATER.0.lock().unwrap().drain(..).collect();
    assert_eq!(calls.len(), 2);
    calls.into_iter().for_each(Call::run);
    assert_eq!(UNMADE.load(SeqCst) - unmade, 16);
}

/// A value that finds no memory comes back, from every door.
#[test]
fn values_come_back() {
    let _alone = alone();
    static NOTHING: quietus_slab::FailingSource = quietus_slab::FailingSource::new(0);
    let cache: Cache<String> = Cache::builder("nothing").pages(&NOTHING).build().unwrap();
    let back = |result: Result<SlabBox<String>, (String, _)>| result.map_err(|(value, _)| value).unwrap_err();
    assert_eq!(back(cache.try_alloc("one".into())), "one");
    assert_eq!(back(cache.alloc_for_node("two".into(), 0)), "two");
    let mut out = Vec::new();
    assert_eq!(cache.alloc_bulk(["three".to_string()], &mut out).unwrap_err().0, "three");
    let constructed = Cache::<String>::builder("nothing").pages(&NOTHING).constructed(String::new).build().unwrap();
    assert!(constructed.try_alloc().is_err());
}
