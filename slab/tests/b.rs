//! Bad input: types and layouts that are odd, memory that runs out, CPUs that nobody knew of, variables that are not understood. The
//! numbers are the requirement's lines; 3 and 4 are in `b_debug`, and 5 — retiring after a shutdown — is `quietus`'s.

mod support;

use quietus_slab::{
    AllocError, BuildError, Cache, CacheBuilder, DebugFlags, FailingSource, SlabBox, all_stats, alloc, environment,
    free, free_bulk,
};
use std::alloc::Layout;
use std::process::{Command, Output};
use std::ptr::null_mut;
use support::alone;

/// A cache as it is, with everything checked, and hardened.
fn kinds<T>(name: &'static str, set: impl Fn(CacheBuilder<T>) -> CacheBuilder<T>) -> [Cache<T>; 3] {
    let build = |builder: CacheBuilder<T>| set(builder).build().unwrap();
    [
        build(Cache::builder(name)),
        build(Cache::builder(name).debug(DebugFlags::ALL)),
        build(Cache::builder(name).hardened(true)),
    ]
}

/// Objects of a type, many, in every kind of cache: aligned, apart, as they were written.
fn serves<T: Copy + PartialEq>(value: impl Fn(u8) -> T) {
    for cache in kinds::<T>("odd", |b| b) {
        let mut held: Vec<_> = (0..100u8).map(|i| cache.alloc(value(i))).collect();
        let mut at: Vec<_> = held.iter().map(|b| std::ptr::from_ref::<T>(b).addr()).collect();
        at.sort_unstable();
        assert!(at.iter().all(|a| a.is_multiple_of(align_of::<T>())));
        assert!(at.windows(2).all(|w| w[1] - w[0] >= size_of::<T>().max(1)), "objects overlap");
        assert!((0u8..).zip(&held).all(|(i, b)| **b == value(i)));
        held.truncate(50);
        assert!((0u8..).zip(&held).all(|(i, b)| **b == value(i)));
        drop(held);
        let s = cache.stats();
        assert_eq!((s.live, s.refused, s.corruptions), (0, 0, 0), "{s:?}");
        cache.destroy().unwrap();
    }
}

#[derive(Clone, Copy, PartialEq)]
#[repr(align(4096))]
struct Page;
#[derive(Clone, Copy, PartialEq)]
#[repr(align(32768))]
struct Most([u8; 100]);

#[test]
fn b_1_types_without_size_or_of_odd_size_and_alignment() {
    serves(|_| ());
    serves(|_| [0u64; 0]);
    serves(|_| Page);
    serves(|i| i);
    serves(|i| [i; 13]);
    serves(|i| Most([i; 100]));
    serves(|i| [i; 32768]);
    // What does not fit a cache comes from the large path, or comes back.
    #[repr(align(2097152))]
    struct Wide(u8);
    #[repr(align(4194304))]
    struct Wider;
    // Such values need room on the stack, too.
    let large = std::thread::Builder::new().stack_size(64 << 20).spawn(|| {
        assert_eq!(SlabBox::new(Wide(7)).0, 7);
        assert!(SlabBox::try_new(Wider).is_err());
    });
    large.unwrap().join().unwrap();
}

#[test]
fn b_1_huge_layouts_are_refused() {
    let layout = |size, align| Layout::from_size_align(size, align).unwrap();
    for huge in [layout(isize::MAX as usize, 1), layout(isize::MAX as usize - 4095, 4096), layout(0, 1 << 30)] {
        assert_eq!(alloc(huge), Err(AllocError), "{huge:?}");
    }
    let refused = Cache::<[u8; 32769]>::builder("huge").debug(DebugFlags::ALL).build().unwrap_err();
    assert_eq!(refused, BuildError::TooLarge { size: 32769, align: 1 });
    // The largest, with red zones where they fit.
    let odd = Cache::<[u8; 32768]>::builder("odd").debug(DebugFlags::ALL).build().unwrap();
    assert_eq!(odd.debug_flags(), DebugFlags::ALL);
    let most = Cache::<Most>::builder("most").debug(DebugFlags::ALL).build().unwrap();
    assert!(!most.debug_flags().contains(DebugFlags::RED_ZONES) && most.debug_flags().contains(DebugFlags::POISON));
}

#[test]
fn b_1_a_capacity_of_nothing_is_refused() {
    type Builder = CacheBuilder<u64>;
    for set in [|b: Builder| b.block_capacity(0), |b: Builder| b.array(0)] {
        for builder in [Cache::builder("none"), Cache::builder("none").debug(DebugFlags::ALL)] {
            assert_eq!(set(builder).build().unwrap_err(), BuildError::Capacity(0));
        }
    }
    for cache in kinds::<u64>("none", |b| b) {
        assert_eq!(cache.prefill(0).unwrap().len(), 0);
        assert_eq!(cache.stats().slabs, 0);
    }
}

#[test]
fn b_1_null_is_nothing() {
    for cache in kinds::<u64>("null", |b| b) {
        let b = cache.alloc(1);
        // SAFETY: null.
        unsafe {
            cache.free(null_mut());
            free_bulk(&[null_mut(); 300]);
            free_bulk(&[null_mut()]);
        }
        let s = cache.stats();
        assert_eq!((*b, s.live, s.refused, s.corruptions), (1, 1, 0, 0));
    }
}

/// Eight in a slab, however checked.
type Big = [u64; 900];

/// The n-th request for pages fails, for each n, in every kind of cache, through every door: values come back as they were, nothing is lost,
/// and nothing stays mapped but the one segment that a source keeps.
#[test]
fn b_2_memory_that_runs_out_at_each_place() {
    let _alone = alone();
    for allowance in 0..3 {
        for kind in 0..3 {
            let source: &FailingSource = Box::leak(Box::new(FailingSource::new(allowance)));
            let [plain, debug, hardened] = kinds::<Big>("short", |b| b.pages(source));
            let cache = [plain, debug, hardened].into_iter().nth(kind).unwrap();
            let mut held = Vec::new();
            while let Ok(b) = cache.try_alloc([held.len() as u64; 900]) {
                held.push(b);
            }
            assert_eq!(held.is_empty(), allowance == 0);
            let n = held.len();
            // All doors say so, and hand back what they were given.
            let missing = cache.try_alloc([77; 900]).unwrap_err();
            assert!(missing.0.iter().all(|&w| w == 77) && missing.1 == AllocError);
            let (value, AllocError) = cache.alloc_bulk([[78; 900]], &mut held).unwrap_err();
            assert!(value.iter().all(|&w| w == 78) && held.len() == n);
            assert_eq!(cache.prefill(2000).unwrap_err(), AllocError);
            assert!(held.iter().enumerate().all(|(i, b)| b.iter().all(|&w| w == i as u64)), "values are as they were");
            assert_eq!((cache.stats().live, source.counts().0), (n as u64, allowance as usize));
            // A sheaf that got some of what it asked for puts that back.
            let kept = n.saturating_sub(10);
            held.truncate(kept);
            assert_eq!(cache.prefill(2000).unwrap_err(), AllocError);
            assert_eq!(cache.stats().live, kept as u64);
            assert!(source.counts().2 > 0);
            // It recovers.
            source.allow(1);
            held.push(cache.try_alloc([n as u64; 900]).expect("memory again"));
            drop(held);
            assert_eq!(cache.stats().live, 0);
            cache.shrink();
            let (maps, unmaps, _) = source.counts();
            assert_eq!((maps - unmaps, cache.stats().slabs), (1, 0), "{kind}: {maps} mapped, {unmaps} unmapped");
            cache.destroy().unwrap();
        }
    }
    assert!(!all_stats().iter().any(|s| s.name == "short"), "nothing is left of the caches");
}

/// Runs one test of this binary alone in a process of its own.
fn child(test: &str, env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(CHILD, test).envs(env.iter().copied());
    command.output().unwrap()
}

/// Set in such a process.
const CHILD: &str = "QUIETUS_TEST_B_CHILD";

fn is_child(test: &str) -> bool {
    std::env::var_os(CHILD).is_some_and(|name| name == test)
}

fn passes(test: &str, env: &[(&str, &str)]) -> String {
    let run = child(test, env);
    let [out, err] = [&run.stdout, &run.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(run.status.success() && out.contains("1 passed"), "{test}: {:?} {out} {err}", run.status);
    err
}

/// Caches in use by threads: each object is in one pair of hands.
#[cfg(target_os = "linux")]
fn work(cache: &Cache<[u64; 8]>, rounds: u64) {
    for round in 0..rounds {
        let held: Vec<_> = (0..600).map(|i| cache.alloc([round ^ i; 8])).collect();
        std::thread::yield_now();
        assert!((0..).zip(&held).all(|(i, b)| b.iter().all(|&w| w == round ^ i)), "an object is in two hands");
        if round % 2 == 0 { drop(held) } else { cache.free_bulk(held) }
    }
}

/// Ids above those that were thought possible, and an affinity without any of those: such threads use the slots, flushes reach them, and a
/// CPU nobody knew of can go and come. (In a process that thinks it has one CPU; on a machine that has, there is nothing to try.)
#[test]
#[cfg(target_os = "linux")]
fn b_6_cpus_that_nobody_knew_of() {
    const TEST: &str = "b_6_cpus_that_nobody_knew_of";
    let others: Vec<u32> = support::affinity(0).into_iter().filter(|&cpu| cpu > 0).collect();
    if !is_child(TEST) {
        let modes = if others.is_empty() { &[][..] } else { &["auto", "off"] };
        return modes.iter().for_each(|mode| drop(passes(TEST, &[("QUIETUS_RSEQ", mode)])));
    }
    quietus_slab::raw::pretend(1);
    support::set_affinity(0, &others);
    assert_eq!(quietus_slab::topology().possible, 1);
    let cache: Cache<[u64; 8]> = Cache::new("unknown");
    let held = cache.alloc([1; 8]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| work(&cache, 50));
        }
        for cpu in [others[0], 4095, 4096, u32::MAX] {
            quietus_slab::cpu_down(cpu);
            cache.flush();
            quietus_slab::cpu_up(cpu).expect("memory");
        }
        quietus_slab::cpu_down(0);
        cache.shrink();
        quietus_slab::cpu_up(0).expect("memory");
    });
    cache.flush();
    let s = cache.stats();
    assert_eq!((s.live, s.in_cpu_blocks, s.refused, held[7]), (1, 0, 0, 1), "{s:?}");
    assert!(s.alloc_slow >= 4 * 50 * 600, "a CPU that nobody knew of has its own sequences: {s:?}");
}

/// A thread whose sequences were taken from it works beside others that have theirs, and one that gets them back does, too.
#[test]
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu", not(quietus_portable)))]
fn b_6_a_thread_without_sequences_beside_others() {
    use std::sync::Barrier;

    fn rseq(flags: libc::c_int) -> bool {
        let thread: usize;
        // SAFETY: reads the thread pointer, which the ABI keeps at fs:[0].
        unsafe { std::arch::asm!("mov {t}, fs:[0]", t = out(reg) thread, options(nostack, readonly)) };
        // SAFETY: glibc's symbol, if there is one; the call takes the area that glibc registered, with its size and signature.
        unsafe {
            let offset = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()).cast::<isize>();
            let area = thread.wrapping_add_signed(*offset);
            // The area was registered with 32 bytes, or with what the kernel says it takes.
            (8..=64usize).any(|words| libc::syscall(libc::SYS_rseq, area, 4 * words, flags, 0x5305_3053u32) == 0)
        }
    }

    if !quietus_slab::rseq_report().0 {
        return; // there are none to take
    }
    let _alone = alone();
    let cache: Cache<[u64; 8]> = Cache::new("unregistered");
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for me in 0..4 {
            let (cache, start) = (&cache, &start);
            scope.spawn(move || {
                start.wait();
                if me == 0 {
                    work(cache, 5);
                    assert!(rseq(1), "not unregistered: {}", std::io::Error::last_os_error());
                    let before = cache.stats().alloc_slow;
                    work(cache, 60);
                    assert!(cache.stats().alloc_slow >= before + 60 * 600, "it still runs sequences");
                    assert!(rseq(0), "not registered again: {}", std::io::Error::last_os_error());
                }
                work(cache, 60);
            });
        }
        for _ in 0..20 {
            cache.flush();
        }
    });
    cache.flush();
    let s = cache.stats();
    assert_eq!((s.live, s.in_cpu_blocks, s.in_barns, s.refused), (0, 0, 0, 0), "{s:?}");
}

/// What `QUIETUS_SLAB_DEBUG` asks for, size classes and caches that ask for something themselves among them.
#[test]
fn b_7_debugging_from_outside() {
    const TEST: &str = "b_7_debugging_from_outside";
    if !is_child(TEST) {
        let value = "ZU,points,kmalloc-6*;-,quiet;H,hard";
        let said = passes(TEST, &[("QUIETUS_SLAB_DEBUG", value)]);
        return assert!(!said.contains("QUIETUS_SLAB_DEBUG"), "{said}");
    }
    assert_eq!(environment(), Ok(()));
    let flags = |name| Cache::<u64>::new(name).debug_flags().to_string();
    assert_eq!(["points", "point", "quiet", "hard"].map(flags), ["ZU", "", "", "H"]);
    let asked = Cache::<u64>::builder("points").debug(DebugFlags::POISON).build().unwrap();
    assert_eq!(asked.debug_flags().to_string(), "ZPU");
    let p = alloc(Layout::new::<[u64; 8]>()).unwrap();
    // SAFETY: a live object; nobody uses it afterwards.
    unsafe {
        assert_eq!(quietus_slab::usable_size(p), 64);
        p.write_bytes(1, 64);
        free(p);
    }
    let class = all_stats().into_iter().find(|s| s.name == "kmalloc-64").unwrap();
    assert!(class.block_capacity == 0 && class.object_bytes > 64 && class.corruptions == 0, "{class:?}");
}

/// A value that is not understood: one line on standard error, and nothing is checked; programs that ask are told.
#[test]
fn b_7_what_is_not_understood_is_said_in_one_line() {
    const TEST: &str = "b_7_what_is_not_understood_is_said_in_one_line";
    if !is_child(TEST) {
        for value in ["FQ", "F,", "ZZ top"] {
            let said = passes(TEST, &[("QUIETUS_SLAB_DEBUG", value)]);
            let lines: Vec<_> = said.lines().filter(|line| line.contains("QUIETUS_SLAB_DEBUG")).collect();
            assert_eq!(lines.len(), 1, "{said}");
            assert!(lines[0].contains(&format!("is '{value}'; allowed: ")) && lines[0].contains("FZPUHX"), "{said}");
        }
        for variable in ["QUIETUS_RSEQ", "QUIETUS_SLAB_WORKERS"] {
            passes(TEST, &[(variable, "perhaps")]);
        }
        return;
    }
    for _ in 0..2 {
        assert_eq!(Cache::<u64>::new("any").debug_flags(), DebugFlags::NONE);
    }
    let error = environment().unwrap_err();
    assert!(std::env::var_os(error.variable()).is_some(), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);
}

/// A cache that nothing is asked of takes its slow paths as often as ever: not at all, on one CPU, within its block.
#[test]
#[cfg(target_os = "linux")]
fn b_unchecked_caches_pay_nothing() {
    const TEST: &str = "b_unchecked_caches_pay_nothing";
    if !is_child(TEST) {
        return drop(passes(TEST, &[])); // others' flushes would send it the slow way
    }
    support::stay();
    let cache: Cache<[u64; 8]> = Cache::new("unchecked");
    drop(cache.alloc([0; 8]));
    let before = cache.stats();
    for i in 0..10_000 {
        let (a, b) = (cache.alloc([i; 8]), cache.alloc([i; 8]));
        drop((a, b));
    }
    let s = cache.stats();
    let slow = (s.alloc_slow - before.alloc_slow, s.free_slow - before.free_slow);
    // Where there are no sequences, each is a slow path that finds its slot.
    if quietus_slab::rseq_report().0 {
        assert!(slow.0 + slow.1 < 100, "{slow:?}");
    }
    assert_eq!((s.alloc_direct, cache.debug_flags()), (before.alloc_direct, DebugFlags::NONE));
    assert!(s.block_capacity > 0 && s.object_bytes == 64);
    let checked: Cache<[u64; 8]> = Cache::builder("checked").debug(DebugFlags::CONSISTENCY).build().unwrap();
    assert_eq!(checked.stats().block_capacity, 0);
}
