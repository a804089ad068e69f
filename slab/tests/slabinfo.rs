//! What caches say about themselves.

mod support;

use quietus_slab::{Cache, Machine, Topology, slabinfo};
use support::{alone, stay};

type Big = [u64; 1024];

/// The kernel's header, its columns in its order, and the numbers in them.
#[test]
fn slabinfo_reads_like_the_kernels() {
    let _alone = alone();
    stay();
    let cache: Cache<Big> = Cache::builder("with a blank").block_capacity(4).build().unwrap();
    let held: Vec<_> = (0..20).map(|i| cache.alloc([i; 1024])).collect();
    let text = slabinfo().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "slabinfo - version: 2.1");
    assert_eq!(
        lines[1],
        "# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> \
         <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>"
    );
    let line = lines.iter().find(|line| line.starts_with("with_a_blank ")).unwrap();
    assert_eq!(
        line.split_whitespace().collect::<Vec<_>>(),
        "with_a_blank 20 24 8192 8 16 : tunables 4 4 128 : slabdata 3 3 0".split(' ').collect::<Vec<_>>()
    );
    // Every line but comments has as many columns.
    assert!(lines[2..].iter().filter(|l| !l.starts_with('#')).all(|l| l.split_whitespace().count() == 16), "{text}");
    drop(held);
    let parent: Cache<Big> = Cache::new("the-parent");
    let object = cache.alloc([0; 1024]);
    cache.destroy_into(&parent).unwrap();
    let text = slabinfo().to_string();
    assert!(!text.contains("with_a_blank") && text.contains("the-parent"), "a chained cache is hidden");
    drop(object);
}

/// Merged caches are named behind the one that they share.
#[test]
fn slabinfo_names_aliases() {
    let _alone = alone();
    let make = |name| Cache::<[u64; 77]>::builder(name).merge(true).build().unwrap();
    let _caches = (make("first"), make("second one"), make("third"));
    let text = slabinfo().to_string();
    assert!(text.contains("\n# first is also second_one third\n"), "{text}");
    assert!(!text.lines().any(|line| line.starts_with("third")));
}

/// Objects are found wherever they are: in use, in a CPU's block, in a barn, on their way home, in slabs; node by node.
#[test]
fn every_object_is_somewhere() {
    let _alone = alone();
    let m = Machine::simulated(Topology::grid(2, 1)).unwrap();
    let cache: Cache<Big> = Cache::builder("somewhere").machine(m).block_capacity(4).build().unwrap();
    m.run_on(0);
    let mut held: Vec<_> = (0..40).map(|i| cache.alloc([i; 1024])).collect();
    let foreign = held.split_off(37);
    held.truncate(20);
    m.run_on(1);
    drop(foreign);
    let s = cache.stats();
    assert_eq!(s.live, 20);
    assert!(s.in_cpu_blocks > 0 && s.in_barns > 0 && s.in_alien_blocks == 3, "{s:?}");
    assert_eq!(s.live + s.in_cpu_blocks + s.in_barns + s.in_alien_blocks + s.free_in_slabs, s.objects);
    let row = slabinfo().caches.into_iter().find(|row| row.stats.name == "somewhere").unwrap();
    assert_eq!(row.nodes.iter().map(|n| (n.slabs, n.in_alien_blocks)).collect::<Vec<_>>(), [(5, 0), (0, 3)]);
    assert_eq!(row.nodes.iter().map(|n| n.in_barn).sum::<u64>(), s.in_barns);
    // Events, by SLUB's names.
    let before: Vec<_> = cache.stats().events().into();
    cache.flush();
    assert!(cache.alloc_for_node([0; 1024], 9).is_err());
    let after = cache.stats().events();
    let grown: Vec<_> = after.iter().zip(&before).filter(|(a, b)| a.1 > b.1).map(|(a, _)| a.0).collect();
    assert_eq!(
        grown,
        ["free_slab", "alloc_node_mismatch", "free_add_partial", "free_remove_partial", "cpuslab_flush", "sheaf_flush"]
    );
}

/// A cache that cannot be destroyed says how many objects are out, and where.
#[test]
fn destroy_reports_leaks() {
    let _alone = alone();
    let cache: Cache<Big> = Cache::new("leaky");
    let mut held: Vec<_> = (0..30).map(|i| cache.alloc([i; 1024])).collect();
    let error = cache.destroy().unwrap_err();
    assert_eq!((error.live, error.objects.len()), (30, 16), "the first sixteen");
    held.truncate(2);
    let error = error.cache.destroy().unwrap_err();
    let mut at: Vec<usize> = held.iter().map(|b| std::ptr::from_ref::<Big>(b).addr()).collect();
    at.sort_unstable();
    let mut objects = error.objects.clone();
    objects.sort_unstable();
    assert_eq!(objects, at);
    assert!(error.to_string().contains(&format!("{:#x}", error.objects[0])), "{error}");
    drop(held);
    error.cache.destroy().unwrap();
}

/// A slab that a cache keeps although it is free is no active one.
#[test]
fn slabinfo_tells_free_slabs() {
    let _alone = alone();
    stay();
    let cache: Cache<[u64; 1024]> = Cache::new("kept for the next");
    let held: Vec<_> = (0..16).map(|n| cache.alloc([n; 1024])).collect();
    let row = || slabinfo().caches.into_iter().find(|row| row.stats.name == "kept for the next").unwrap();
    let full = row();
    assert_eq!((full.objects_per_slab(), full.pages_per_slab()), (8, 16));
    // Two, or one more for an object that was taken past the CPU's block, which somebody was looking at.
    assert!((2..=3).contains(&full.stats.slabs) && full.active_slabs() == full.stats.slabs, "{full:?}");
    drop(held);
    cache.flush();
    let row = row();
    assert!(row.stats.slabs > 0 && row.active_slabs() == 0, "{row:?}");
}
