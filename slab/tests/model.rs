//! The allocator against a model that knows what is held: no overlap, alignment, contents kept, counts right. One thread; random
//! sequences of single and bulk operations, flushes and shrinks, over several caches, size classes and large layouts.

use proptest::prelude::*;
use quietus_slab::{Cache, SlabBox};
use std::alloc::Layout;
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// A typed cache, type forgotten.
trait AnyCache {
    fn layout(&self) -> Layout;
    /// Objects of the cache, as many as there is memory for.
    fn alloc(&self, n: usize) -> Vec<NonNull<u8>>;
    /// Takes objects of this cache back, all in one call.
    fn free(&self, objects: Vec<NonNull<u8>>);
    fn flush(&self);
    fn shrink(&self);
    fn live(&self) -> u64;
}

impl<T> AnyCache for Cache<MaybeUninit<T>> {
    fn layout(&self) -> Layout {
        Layout::new::<T>()
    }
    fn alloc(&self, n: usize) -> Vec<NonNull<u8>> {
        let mut boxes = Vec::new();
        if n == 1 {
            boxes.push(self.alloc(MaybeUninit::uninit()));
        } else {
            let added = self.alloc_bulk((0..n).map(|_| MaybeUninit::uninit()), &mut boxes).map_err(|e| e.1);
            assert_eq!(added, Ok(n));
        }
        boxes.into_iter().map(|b| SlabBox::into_raw(b).cast()).collect()
    }
    fn free(&self, objects: Vec<NonNull<u8>>) {
        // SAFETY: each came from `into_raw` in `alloc` of this cache, and the model gives it back once.
        let mut boxes = objects.into_iter().map(|p| unsafe { SlabBox::from_raw(p.cast::<MaybeUninit<T>>()) });
        if boxes.len() == 1 {
            drop(boxes.next());
        } else {
            self.free_bulk(boxes);
        }
    }
    fn flush(&self) {
        Cache::flush(self);
    }
    fn shrink(&self) {
        Cache::shrink(self);
    }
    fn live(&self) -> u64 {
        self.stats().live
    }
}

#[derive(Clone, Copy)]
#[repr(align(256))]
#[allow(dead_code)]
struct Over([u8; 300]);

fn caches() -> Vec<Box<dyn AnyCache>> {
    vec![
        Box::new(Cache::<MaybeUninit<()>>::new("model-zero")),
        Box::new(Cache::<MaybeUninit<[u8; 24]>>::new("model-24")),
        Box::new(Cache::<MaybeUninit<[u64; 8]>>::builder("model-64-cap-1").block_capacity(1).build().unwrap()),
        Box::new(Cache::<MaybeUninit<[u64; 125]>>::builder("model-1000-cap-504").block_capacity(504).build().unwrap()),
        Box::new(Cache::<MaybeUninit<Over>>::new("model-over-aligned")),
        Box::new(Cache::<MaybeUninit<[u64; 4096]>>::new("model-32768")),
        Box::new(Cache::<MaybeUninit<[u64; 16]>>::builder("model-poisoned").poison(true).build().unwrap()),
    ]
}

/// Where an object came from: a cache, or the door by layout.
#[derive(Clone, Copy, PartialEq)]
enum From {
    Cache(usize),
    Layout,
}

struct Held {
    size: usize,
    align: usize,
    byte: u8,
    from: From,
}

#[derive(Default)]
struct Model {
    held: BTreeMap<usize, (NonNull<u8>, Held)>,
    next: u8,
}

impl Model {
    fn add(&mut self, p: NonNull<u8>, layout: Layout, from: From) {
        let (start, size) = (p.as_ptr().addr(), layout.size());
        assert_eq!(start % layout.align(), 0, "{layout:?} at {start:#x}");
        // An object of size 0 has an address of its own all the same.
        let end = start + size.max(1);
        if let Some((&below, (_, h))) = self.held.range(..end).next_back() {
            assert!(below + h.size.max(1) <= start, "{start:#x}+{size} overlaps {below:#x}+{}", h.size);
        }
        // SAFETY: a live object of this allocator.
        let usable = unsafe { quietus_slab::usable_size(p) };
        assert!(usable >= size, "{layout:?}: usable {usable}");
        self.next = self.next.wrapping_add(1);
        // SAFETY: `size` bytes at `p` are ours.
        unsafe { p.write_bytes(self.next, size) };
        self.held.insert(start, (p, Held { size, align: layout.align(), byte: self.next, from }));
    }

    /// Forgets the object at `address` and checks that nobody has written to it.
    fn remove(&mut self, address: usize) -> NonNull<u8> {
        let (p, h) = self.held.remove(&address).unwrap();
        // SAFETY: `size` bytes at `p` are ours and were written by `add`.
        let bytes = unsafe { std::slice::from_raw_parts(p.as_ptr(), h.size) };
        assert!(bytes.iter().all(|&b| b == h.byte), "object at {address:#x} was changed while it was held");
        p
    }

    fn pick(&self, from: From, at: usize, n: usize) -> Vec<usize> {
        let all: Vec<usize> = self.held.iter().filter(|(_, (_, h))| h.from == from).map(|(&a, _)| a).collect();
        let n = n.min(all.len());
        (0..n).map(|i| all[(at + i) % all.len()]).collect()
    }

    fn count(&self, from: From) -> u64 {
        self.held.values().filter(|(_, h)| h.from == from).count() as u64
    }
}

#[derive(Debug, Clone)]
enum Op {
    Alloc { cache: usize, n: usize },
    Free { cache: usize, at: usize, n: usize },
    AllocLayout { size: usize, align: usize, n: usize },
    FreeLayout { at: usize, n: usize, bulk: bool },
    Flush(usize),
    Shrink(usize),
    ShrinkClasses,
    Check,
}

fn op() -> impl Strategy<Value = Op> {
    let cache = 0..7usize;
    let few = prop_oneof![4 => 1..4usize, 2 => 4..80usize, 1 => 80..600usize];
    let size = prop_oneof![6 => 0..2048usize, 3 => 2048..=32768usize, 1 => 32769..300_000usize, 1 => Just(5 << 20)];
    let align = prop_oneof![8 => 0..5u32, 2 => 5..13u32, 1 => 13..21u32].prop_map(|a| 1usize << a);
    prop_oneof![
        6 => (cache.clone(), few.clone()).prop_map(|(cache, n)| Op::Alloc { cache, n }),
        6 => (cache.clone(), any::<usize>(), few.clone())
            .prop_map(|(cache, at, n)| Op::Free { cache, at: at >> 1, n }),
        5 => (size, align, few.clone()).prop_map(|(size, align, n)| Op::AllocLayout { size, align, n }),
        5 => (any::<usize>(), few, any::<bool>()).prop_map(|(at, n, bulk)| Op::FreeLayout { at: at >> 1, n, bulk }),
        1 => cache.clone().prop_map(Op::Flush),
        1 => cache.prop_map(Op::Shrink),
        1 => Just(Op::ShrinkClasses),
        1 => Just(Op::Check),
    ]
}

fn run(ops: Vec<Op>) {
    let caches = caches();
    let mut model = Model::default();
    let check = |model: &Model| {
        // No other test of this process uses size classes.
        let classes = quietus_slab::all_stats().into_iter().filter(|s| s.name.starts_with("kmalloc-"));
        let small = |h: &Held| h.from == From::Layout && h.size <= 32768 && h.align <= 32768;
        let held = model.held.values().filter(|(_, h)| small(h)).count() as u64;
        assert_eq!(classes.map(|s| s.live).sum::<u64>(), held, "objects of size classes");
        for (i, cache) in caches.iter().enumerate() {
            assert_eq!(cache.live(), model.count(From::Cache(i)), "cache {i}");
        }
    };
    for op in ops {
        match op {
            Op::Alloc { cache, n } => {
                let (c, from) = (&caches[cache], From::Cache(cache));
                let n = if c.layout().size() >= 4096 { n.min(20) } else { n };
                c.alloc(n).into_iter().for_each(|p| model.add(p, c.layout(), from));
            }
            Op::Free { cache, at, n } => {
                let picked = model.pick(From::Cache(cache), at, n);
                let objects: Vec<_> = picked.into_iter().map(|a| model.remove(a)).collect();
                caches[cache].free(objects);
            }
            Op::AllocLayout { size, align, n } => {
                let layout = Layout::from_size_align(size, align).unwrap();
                let n = n.min(if size > 32768 { 1 } else { 1 + (1 << 17) / size.max(align) });
                let mut out = vec![MaybeUninit::uninit(); n];
                assert_eq!(quietus_slab::alloc_bulk(layout, &mut out), n, "{layout:?}");
                for p in out {
                    // SAFETY: all `n` were filled in.
                    model.add(unsafe { p.assume_init() }, layout, From::Layout);
                }
            }
            Op::FreeLayout { at, n, bulk } => {
                let picked = model.pick(From::Layout, at, n);
                let mut objects: Vec<*mut u8> = picked.into_iter().map(|a| model.remove(a).as_ptr()).collect();
                if bulk {
                    objects.push(std::ptr::null_mut());
                    // SAFETY: each was held, and is there once.
                    unsafe { quietus_slab::free_bulk(&objects) };
                } else {
                    for p in objects {
                        // SAFETY: it was held, and nobody uses it any more.
                        unsafe { quietus_slab::free(NonNull::new(p).unwrap()) };
                    }
                }
            }
            Op::Flush(cache) => caches[cache].flush(),
            Op::Shrink(cache) => caches[cache].shrink(),
            Op::ShrinkClasses => drop(quietus_slab::shrink()),
            Op::Check => check(&model),
        }
    }
    check(&model);
    caches.iter().for_each(|c| c.flush());
    check(&model);
    for address in model.held.keys().copied().collect::<Vec<_>>() {
        let from = model.held[&address].1.from;
        let p = model.remove(address);
        match from {
            From::Cache(i) => caches[i].free(vec![p]),
            // SAFETY: it was held, and nobody uses it any more.
            From::Layout => unsafe { quietus_slab::free(p) },
        }
    }
    check(&model);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_the_model(ops in prop::collection::vec(op(), 1..150)) {
        run(ops);
    }
}

/// After a flush, everything is in the slabs, and the counts add up.
#[test]
fn counts_add_up_after_a_flush() {
    let cache: Cache<[u64; 8]> = Cache::new("counts");
    let mut held: Vec<SlabBox<[u64; 8]>> = (0..5000).map(|i| cache.alloc([i; 8])).collect();
    held.retain(|b| b[0] % 3 == 0);
    cache.flush();
    let s = cache.stats();
    assert_eq!((s.live, s.in_cpu_blocks, s.in_barns, s.barn_blocks), (held.len() as u64, 0, 0, 0));
    assert_eq!(s.free_in_slabs + s.live, s.objects);
    assert!(held.iter().all(|b| b.iter().all(|&w| w == b[0])));
    held.clear();
    cache.shrink();
    let s = cache.stats();
    assert_eq!((s.live, s.slabs, s.objects), (0, 0, 0), "a cache without objects keeps no slab");
}

/// A poisoned cache fills what is freed.
#[test]
fn freed_objects_of_a_poisoned_cache_are_poison() {
    let cache: Cache<[u64; 8]> = Cache::builder("poison").poison(true).build().unwrap();
    let keep = cache.alloc([1; 8]); // keeps the slab
    let p = SlabBox::into_raw(cache.alloc([7; 8]));
    // SAFETY: from `into_raw` just above.
    drop(unsafe { SlabBox::from_raw(p) });
    // SAFETY: the slab is still mapped, because `keep` lives in it, or in one that was mapped with it, and no other thread uses
    // the cache.
    let bytes = unsafe { std::slice::from_raw_parts(p.as_ptr().cast::<u8>(), 64) };
    assert!(bytes.iter().all(|&b| b == quietus_slab::POISON), "{bytes:?}");
    drop(keep);
}
