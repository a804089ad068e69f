//! Seed 5: nodes, and CPUs that come and go. The numbers are the requirement's lines.
//!
//! A simulated machine's CPUs are used under a try-lock, never by restartable sequences: those read the real CPU. What lies behind the
//! CPUs' blocks is the code that real machines run; the real CPU that goes is in `s5_affinity.rs`.

mod support;

use quietus_slab::{Cache, FailingSource, Machine, SlabBox, Topology, page_stats, raw, reap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use support::{Random, alone, storm_length};

type Object = [u64; 8];

/// For leak checkers: machines live for ever.
static MACHINES: Mutex<Vec<&'static Machine>> = Mutex::new(Vec::new());

fn machine(topology: Topology) -> &'static Machine {
    let machine = Machine::simulated(topology).unwrap();
    MACHINES.lock().unwrap().push(machine);
    machine
}

/// A cache whose blocks hold four.
fn small(name: &'static str, machine: &'static Machine) -> Cache<Object> {
    Cache::builder(name).machine(machine).block_capacity(4).build().unwrap()
}

fn some(cache: &Cache<Object>, n: u64) -> Vec<SlabBox<Object>> {
    (0..n).map(|i| cache.alloc([i; 8])).collect()
}

/// Blocks in somebody's hands.
fn blocks_out() -> u32 {
    let s = page_stats();
    s.blocks - s.spare
}

/// What a node has outlives its CPUs: objects, slabs, counts; and it serves those who ask for it.
#[test]
fn s5_1_a_node_outlives_its_cpus() {
    let _alone = alone();
    let m = machine(Topology::grid(2, 2));
    let cache = small("outlives", m);
    m.run_on(2);
    let held = some(&cache, 10);
    m.run_on(0);
    assert_eq!((m.cpu_down(2), m.cpu_down(3)), (1, 0), "one CPU had blocks");
    let nodes = cache.node_stats();
    assert_eq!((nodes[1].slabs, nodes[1].shut, nodes[0].shut), (1, true, false));
    assert_eq!(cache.stats().live, 10);
    let more: Vec<_> = (0..10).map(|i| cache.alloc_for_node([i; 8], 1).unwrap()).collect();
    assert_eq!(cache.node_stats()[1].slabs, 1, "from the slab that the node had");
    assert_eq!(cache.node_stats()[0].slabs, 0, "no other node serves instead");
    assert!(held.iter().chain(&more).zip((0..10).chain(0..10)).all(|(object, i)| object[7] == i));
    drop((held, more));
    cache.flush();
    assert_eq!(cache.stats().live, 0);
    cache.destroy().unwrap();
}

/// A node that never had CPUs serves those who ask for it; one that is not there, or has no memory, hands the value back.
#[test]
fn s5_1_allocation_for_a_node_without_cpus() {
    let _alone = alone();
    let m = machine(Topology::new(4, vec![0, 0, 1, 3]).without_memory(3));
    let cache = small("for a node", m);
    let object = cache.alloc_for_node([7; 8], 2).unwrap();
    assert_eq!(cache.node_stats().iter().map(|n| n.slabs).collect::<Vec<_>>(), [0, 0, 1, 0]);
    assert_eq!(cache.alloc_for_node([1; 8], 3).map_err(|(value, _)| value[0]).err(), Some(1), "it has no memory");
    assert_eq!(cache.alloc_for_node([2; 8], 4).map_err(|(value, _)| value[0]).err(), Some(2), "there is no such node");
    assert_eq!((object[0], cache.stats().live), (7, 1));
}

/// A CPU that goes leaves its blocks to the slabs; the others keep theirs, and the node its barn.
#[test]
fn s5_2_a_cpus_blocks_go_back() {
    let _alone = alone();
    let m = machine(Topology::grid(1, 3));
    let cache = small("goes", m);
    for cpu in 0..3 {
        m.run_on(cpu);
        drop(some(&cache, 6));
    }
    let before = cache.stats();
    assert_eq!(m.cpu_down(1), 1);
    let after = cache.stats();
    assert!(before.in_cpu_blocks > after.in_cpu_blocks && after.in_cpu_blocks > 0, "{before:?} {after:?}");
    assert_eq!(before.in_barns, after.in_barns);
    assert_eq!(before.in_cpu_blocks - after.in_cpu_blocks, after.free_in_slabs - before.free_in_slabs);
    assert_eq!((after.live, after.cpu_flush), (0, 1));
    assert_eq!(m.cpu_down(1), 0, "it is down already");
    // Whoever is still there is served as ever.
    m.run_on(1);
    drop(some(&cache, 6));
    assert_eq!(cache.stats().live, 0);
}

/// With the last CPU go the barn and the table: detached under the lock, freed after it. The table is an object of the very cache that is
/// cleared.
#[test]
fn s5_2_the_last_cpu_takes_barn_and_table_along() {
    let _alone = alone();
    let m = machine(Topology::grid(2, 2));
    let cache: Cache<Object> =
        Cache::builder("its own").machine(m).block_capacity(4).tables_of_its_own().build().unwrap();
    m.run_on(0);
    let foreign = some(&cache, 6);
    m.run_on(2);
    drop(some(&cache, 20));
    drop(foreign);
    let node = &cache.node_stats()[1];
    assert!(node.has_table && node.in_alien_blocks == 2 && node.barn_blocks > 0, "{node:?}");
    assert_eq!(cache.stats().live, 1, "the table");
    let barn = node.in_barn;
    assert_eq!(m.cpu_down(3), 0);
    let node = &cache.node_stats()[1];
    assert!(node.has_table && node.in_barn == barn && !node.shut, "another CPU of the node is up: {node:?}");
    assert_eq!(m.cpu_down(2), 1);
    let node = &cache.node_stats()[1];
    assert_eq!((node.has_table, node.alien_blocks, node.barn_blocks, node.shut), (false, 0, 0, true));
    assert_eq!(node.slabs, 0, "the table's slab went when the table had gone");
    let s = cache.stats();
    assert_eq!((s.live, s.in_alien_blocks, s.refused), (0, 0, 0));
    // Without barn and table: objects go straight to slabs, wherever they are from.
    m.run_on(0);
    let foreign = some(&cache, 6);
    m.run_on(2);
    drop(foreign);
    drop(some(&cache, 20));
    let node = &cache.node_stats()[1];
    assert_eq!((node.has_table, node.in_barn), (false, 0));
    assert_eq!(cache.stats().live, 0);
    cache.destroy().unwrap();
}

/// What a CPU that comes up needs is allocated first, and installed only where it is missing; the rest is freed.
#[test]
fn s5_3_a_cpu_that_comes_finds_what_it_needs() {
    let _alone = alone();
    let m = machine(Topology::grid(2, 2));
    let host = small("tables", m);
    let cache: Cache<Object> = Cache::builder("comes").machine(m).block_capacity(4).tables_of(&host).build().unwrap();
    m.run_on(0);
    let held = [some(&cache, 3), some(&host, 1)];
    for cpu in [2, 3] {
        assert_eq!(m.cpu_down(cpu), 0);
    }
    let (tables, blocks) = (host.stats().live, blocks_out());
    m.cpu_up(2).unwrap();
    let node = &cache.node_stats()[1];
    assert_eq!((node.has_table, node.shut, host.stats().live - tables), (true, false, 1));
    assert_eq!(blocks_out() - blocks, 2, "one block for each cache that is in use");
    m.cpu_up(3).unwrap();
    assert_eq!(host.stats().live - tables, 1, "the second table is surplus");
    m.cpu_up(3).unwrap();
    assert_eq!(blocks_out() - blocks, 4, "it is up already");
    // A block that is there stays.
    m.run_on(2);
    drop(some(&cache, 3));
    let kept = cache.stats().in_cpu_blocks;
    assert_eq!(m.cpu_down(3), 2, "empty blocks, but blocks");
    m.run_on(3);
    drop(some(&cache, 3)); // still there, and has a block again
    let blocks = blocks_out();
    m.cpu_up(3).unwrap();
    assert_eq!(blocks_out(), blocks + 1, "one for the other cache; this one's is surplus");
    assert!(cache.stats().in_cpu_blocks > kept, "and the block that was there stays");
    drop(held);
    cache.destroy().unwrap();
    host.destroy().unwrap();
}

/// Each of the allocations fails in turn: the CPU stays down, and nothing is left behind.
#[test]
fn s5_3_each_allocation_fails_in_turn() {
    let _alone = alone();
    let m = machine(Topology::grid(2, 1));
    let host = small("tables", m);
    let caches: Vec<Cache<Object>> = (0..3)
        .map(|_| Cache::builder("fails").machine(m).block_capacity(4).tables_of(&host).build().unwrap())
        .collect();
    m.run_on(0);
    let held: Vec<_> = caches.iter().chain([&host]).flat_map(|cache| some(cache, 3)).collect();
    m.cpu_down(1);
    let (tables, blocks) = (host.stats().live, blocks_out());
    for n in 1..=8 {
        raw::fail_at(n);
        assert!(m.cpu_up(1).is_err(), "allocation {n} failed");
        assert_eq!((host.stats().live, blocks_out()), (tables, blocks), "allocation {n} failed, and something leaked");
        assert!(caches.iter().all(|cache| cache.node_stats()[1].shut), "and it is down as before");
    }
    raw::fail_at(9);
    m.cpu_up(1).unwrap(); // there are eight: the tables' cache has a block, and a table, too
    raw::fail_at(0);
    assert_eq!((host.stats().live - tables, blocks_out() - blocks), (3, 4), "all of them are in use");
    drop(held);
    caches.into_iter().for_each(|cache| cache.destroy().unwrap());
    assert_eq!(host.stats().live, 0);
}

/// A table that cannot be had: objects go home one by one, and none is lost.
#[test]
fn s5_3_without_a_table_objects_go_home_by_themselves() {
    let _alone = alone();
    static SOURCE: FailingSource = FailingSource::new(0);
    let m = machine(Topology::grid(2, 1));
    let host: Cache<Object> = Cache::builder("no tables").machine(m).pages(&SOURCE).build().unwrap();
    let cache: Cache<Object> = Cache::builder("bare").machine(m).block_capacity(4).tables_of(&host).build().unwrap();
    m.run_on(0);
    let held = some(&cache, 50);
    m.run_on(1);
    drop(held);
    cache.flush();
    let s = cache.stats();
    assert_eq!((s.live, s.refused, cache.node_stats()[1].has_table), (0, 0, false));
}

/// The lists are shrunk when the blocks of all caches are back: the table of the second cache is memory of the first.
#[test]
fn s5_4_lists_are_shrunk_when_all_is_back() {
    let _alone = alone();
    let m = machine(Topology::grid(2, 1));
    let host = small("first", m);
    let cache: Cache<Object> = Cache::builder("second").machine(m).block_capacity(4).tables_of(&host).build().unwrap();
    m.run_on(0);
    let foreign = some(&cache, 2);
    m.run_on(1);
    drop(foreign);
    assert_eq!((host.node_stats()[1].slabs, host.stats().live), (1, 1), "the table's");
    m.cpu_down(1);
    let node = &host.node_stats()[1];
    assert_eq!(
        (node.slabs, node.empty_slabs, host.stats().live),
        (0, 0, 0),
        "a free slab was left on the node: {node:?}"
    );
}

/// A CPU whose node has no memory, or is not known, has no list: its blocks are freed all the same, and counted.
#[test]
fn s5_5_no_list_no_harm() {
    let _alone = alone();
    let m = machine(Topology::new(3, vec![0, 1, 2, 9]).without_memory(2));
    let cache = small("no list", m);
    for cpu in [2, 3] {
        m.run_on(cpu);
        drop(some(&cache, 3));
        let before = cache.stats().in_cpu_blocks;
        assert_eq!(m.cpu_down(cpu), 1);
        let s = cache.stats();
        assert_eq!((before > s.in_cpu_blocks, s.live, s.cpu_flush), (true, 0, u64::from(cpu - 1)));
        m.cpu_up(cpu).unwrap();
    }
    let nodes = cache.node_stats();
    assert_eq!(nodes.len(), 3);
    assert_eq!((nodes[2].slabs, nodes[2].has_table, nodes[2].shut), (0, false, false));
    assert_eq!((nodes[0].slabs, nodes[1].slabs), (1, 1), "the nearest serves the CPUs of the node without memory");
    assert!(quietus_slab::all_stats().iter().any(|s| s.name == "no list"));
    cache.shrink();
    assert_eq!(cache.stats().slabs, 0);
}

/// What is freed on another node goes home in blocks.
#[test]
fn s5_6_strangers_go_home_in_batches() {
    let _alone = alone();
    let m = machine(Topology::grid(3, 1));
    let cache: Cache<Object> = Cache::builder("batches").machine(m).block_capacity(50).build().unwrap();
    m.run_on(0);
    let mut zero = some(&cache, 500);
    m.run_on(1);
    let one = some(&cache, 500);
    m.run_on(2);
    zero.extend(one);
    drop(zero);
    let s = cache.stats();
    assert_eq!((s.alien_put, s.alien_home), (1000, 20), "full blocks of 50");
    assert_eq!((s.in_alien_blocks, s.live), (0, 0));
    let nodes = cache.node_stats();
    assert_eq!((nodes[0].in_barn, nodes[1].in_barn, nodes[2].in_barn), (500, 500, 0), "each to its own");
    // Memory of the home node, without a slab touched.
    m.run_on(1);
    drop(some(&cache, 100));
    assert_eq!(cache.node_stats()[1].slabs, nodes[1].slabs);
    cache.flush();
    assert_eq!(cache.stats().alien_home, 20);
}

/// Blocks that leave a CPU are parted: what is of other nodes does not get into its barn.
#[test]
fn s5_6_mixed_blocks_are_parted() {
    let _alone = alone();
    let m = machine(Topology::grid(2, 1));
    let cache: Cache<Object> = Cache::builder("mixed").machine(m).block_capacity(500).build().unwrap();
    m.run_on(0);
    let mut all = some(&cache, 300);
    m.run_on(1);
    all.extend(some(&cache, 300));
    cache.free_bulk(Vec::new());
    // In bulk they come as they are.
    let pointers: Vec<*mut u8> = all.into_iter().map(|b| SlabBox::into_raw(b).as_ptr().cast()).collect();
    let before = cache.node_stats()[1].in_barn;
    // SAFETY: each is freed once; the values need no drop.
    unsafe { quietus_slab::free_bulk(&pointers) };
    let nodes = cache.node_stats();
    assert_eq!((nodes[1].in_barn - before, nodes[1].in_alien_blocks, cache.stats().live), (300, 300, 0));
}

/// What lies about for two rounds goes: strangers home, barns and CPUs' blocks to the slabs, free slabs to the source. What is used stays.
#[test]
fn s5_6_the_reaper_ages_what_is_idle() {
    let _alone = alone();
    let m = machine(Topology::grid(2, 2));
    let cache: Cache<Object> = Cache::builder("idle").machine(m).block_capacity(50).build().unwrap();
    m.run_on(0);
    let foreign = some(&cache, 30);
    let held = some(&cache, 5);
    m.run_on(2);
    drop(some(&cache, 200));
    drop(foreign);
    m.run_on(0);
    reap();
    let s = cache.stats();
    assert!(s.in_cpu_blocks > 0 && s.in_alien_blocks == 30, "one round takes nothing: {s:?}");
    drop(some(&cache, 1)); // this CPU's block is used,
    drop(some(&cache, 1));
    let keep = some(&cache, 1); // and not as it was
    let reaped = reap();
    let s = cache.stats();
    assert!(reaped.cpu_blocks > 0 && reaped.node_blocks > 0);
    assert_eq!((s.in_alien_blocks, s.alien_home), (0, 1), "half a block, but home");
    assert!(s.in_cpu_blocks > 0, "what is in use stays");
    reap();
    reap();
    reap();
    let s = cache.stats();
    assert_eq!((s.in_cpu_blocks, s.in_barns, s.live), (0, 0, 6));
    assert_eq!(s.slabs, 1, "the slab of those that are out");
    drop((held, keep));
}

/// The thread does the same, by and by, and sleeps when nothing is left.
#[test]
fn s5_6_the_reaper_runs_by_itself() {
    let _alone = alone();
    let m = machine(Topology::grid(2, 1));
    let cache: Cache<Object> = Cache::builder("by itself").machine(m).block_capacity(50).build().unwrap();
    quietus_slab::reaper(Some(std::time::Duration::from_millis(5))).unwrap();
    for _ in 0..3 {
        while !raw::reaper_sleeps() {
            std::thread::yield_now();
        }
        m.run_on(0);
        let foreign = some(&cache, 30);
        m.run_on(1);
        drop(some(&cache, 200));
        drop(foreign);
        // (Ends by the watchdog of whoever runs the tests, if never.)
        while cache.stats().slabs > 0 {
            std::thread::yield_now();
        }
        let s = cache.stats();
        assert_eq!((s.in_cpu_blocks, s.in_barns, s.in_alien_blocks, s.live), (0, 0, 0, 0));
    }
    #[cfg(target_os = "linux")]
    assert_eq!(support::threads_named("quietus-reap"), 1);
    quietus_slab::reaper(None).unwrap();
    #[cfg(target_os = "linux")]
    assert_eq!(support::threads_named("quietus-reap"), 0, "it is joined");
    drop(some(&cache, 200));
    assert!(cache.stats().in_cpu_blocks > 0);
}

/// The real topology is what the files say; without them, or with odd ones, there is one node.
#[test]
fn s5_7_real_topologies_are_read_tolerantly() {
    let root = std::env::temp_dir().join(format!("quietus-topology-{}", std::process::id()));
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let none = Topology::read(&root);
    assert_eq!((none.nodes, none.node_of[0], none.memory[0], none.online[0]), (1, 0, true, true));
    write("cpu/possible", "0-7\n");
    write("cpu/online", "0-2,4-6\n");
    write("node/possible", "0-2\n");
    write("node/has_memory", "0,2\n");
    write("node/node0/cpulist", "0-3\n");
    write("node/node1/cpulist", "4,5\n");
    write("node/node2/cpulist", "\n");
    let t = Topology::read(&root);
    assert_eq!((t.possible, t.nodes, &t.node_of[..]), (8, 3, &[0, 0, 0, 0, 1, 1, 0, 0][..]));
    assert_eq!(t.memory, [true, false, true]);
    assert_eq!(t.online, [true, true, true, false, true, true, true, false]);
    // Odd ones.
    write("node/has_memory", "none\n");
    write("cpu/online", "");
    write("node/node1/cpulist", "4,,x-9,5 , 99999\n");
    let t = Topology::read(&root);
    assert_eq!((&t.memory[..], &t.node_of[4..6]), (&[true; 3][..], &[1, 1][..]));
    assert!(t.online.iter().all(|&o| o));
    write("cpu/possible", "0-99999999\n");
    write("node/possible", "\u{0}\u{7f}");
    assert!(Topology::read(&root).possible >= 1);
    std::fs::remove_dir_all(&root).unwrap();
}

static LIVE: AtomicU64 = AtomicU64::new(0);

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

/// Sets the flag when it goes, so that others end too if this thread panics.
struct Stop<'a>(&'a AtomicBool);
impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// 8 nodes of 64 CPUs, one without memory; threads wander over all of them while nodes lose their last CPU and get it back: every object is
/// accounted for, and nothing is left on a CPU, in a barn or under way.
#[test]
fn s5_7_nodes_come_and_go_under_load() {
    let _alone = alone();
    let m = machine(Topology::grid(8, 64).without_memory(6));
    let caches: Vec<Cache<Counted>> = (0..2)
        .map(|i| {
            let builder = Cache::builder("storm").machine(m).block_capacity(8);
            if i == 0 { builder.tables_of_its_own().build() } else { builder.build() }.unwrap()
        })
        .collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (caches, stop) = (&caches, &stop);
        for me in 1..=3u64 {
            scope.spawn(move || {
                let _stop = Stop(stop);
                let mut random = Random(me << 40 | 12_345);
                let mut held: Vec<SlabBox<Counted>> = Vec::new();
                while !stop.load(Relaxed) {
                    m.run_on(random.next() as u32);
                    let cache = &caches[random.below(2) as usize];
                    for _ in 0..random.below(40) {
                        match random.below(5) {
                            0 | 1 => held.push(cache.alloc(Counted::new(me))),
                            2 => match cache.alloc_for_node(Counted::new(me), random.below(8) as u16) {
                                Ok(object) => held.push(object),
                                Err((value, _)) => drop(value),
                            },
                            _ if held.is_empty() => {}
                            _ => drop(held.swap_remove(random.below(held.len() as u64) as usize)),
                        }
                    }
                    held.truncate(2000);
                }
            });
        }
        let _stop = Stop(stop);
        let mut random = Random(77);
        let end = Instant::now() + storm_length(1500);
        while Instant::now() < end {
            // A whole node, the last CPU last; then it comes back.
            let node = random.below(8) as u32;
            for i in 0..64 {
                m.cpu_down(node * 64 + i);
            }
            assert!(node == 6 || caches.iter().all(|cache| cache.node_stats()[node as usize].shut));
            match random.below(3) {
                0 => assert!(caches[0].shrink() < usize::MAX),
                1 => assert!(reap().bytes < usize::MAX),
                _ => assert!(caches[1].flush() <= 512),
            }
            (0..64).for_each(|i| m.cpu_up(node * 64 + i).unwrap());
        }
    });
    assert_eq!(LIVE.load(Relaxed), 0);
    for cache in caches {
        cache.flush();
        let s = cache.stats();
        assert_eq!((s.in_cpu_blocks, s.in_barns, s.in_alien_blocks, s.refused), (0, 0, 0, 0));
        assert!(s.alien_home > 0 && s.live <= 8, "tables alone: {s:?}");
        cache.destroy().unwrap();
    }
}
