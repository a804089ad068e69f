//! Runs: bulk allocations and frees take and give as many objects at once as the CPU's block has, or has room for.

mod support;

use quietus_slab::raw::{self, BlockNo, Word, pack, sites};
use quietus_slab::{Account, Cache, SlabBox, alloc_bulk, free_bulk};
use std::alloc::Layout;
use std::collections::HashSet;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use support::alone;

type Object = [usize; 8];

/// This thread stays on its CPU.
fn stay() {
    #[cfg(target_os = "linux")]
    support::set_affinity(0, &[raw::current_cpu()]);
}

fn number(n: usize) -> *mut u8 {
    std::ptr::without_provenance_mut(16 * n)
}

/// Every length of run against every fill of a block: what comes out is what went in, and no more than fits.
#[test]
fn runs_move_what_fits() {
    let _alone = alone(); // drains make runs fail over
    const CAP: usize = 9;
    stay();
    let word = Word::allocate().unwrap();
    let b = raw::page().expect("a page");
    b.block().reset(CAP as u32);
    let site = sites().next().unwrap();
    assert!(word.exchange(site, 0, pack(b, BlockNo::NONE)));
    for fill in 0..=CAP {
        for n in 0..=CAP + 3 {
            // A guard behind each end, and one in the block.
            let items: Vec<*mut u8> = (1..=n).map(number).collect();
            for k in 0..fill {
                assert!(word.push_at(site, number(100 + k)));
            }
            let put = word.push_run_at(site, &items);
            assert_eq!(put, n.min(CAP - fill), "{n} into a block with {fill} of {CAP}");
            let mut out = [MaybeUninit::new(number(999)); CAP + 4];
            let got = word.pop_run_at(site, &mut out[..n]);
            assert_eq!(got, n.min(fill + put));
            // SAFETY: all were made from pointers.
            let out = out.map(|p| unsafe { p.assume_init() });
            let all: Vec<*mut u8> = (0..fill).map(|k| number(100 + k)).chain(items[..put].iter().copied()).collect();
            assert_eq!(out[..got], all[all.len() - got..], "the newest of them");
            assert!(out[got..].iter().all(|&p| p == number(999)), "written beyond the run");
            for &p in all[..all.len() - got].iter().rev() {
                assert_eq!(word.pop_at(site), p);
            }
            assert!(word.pop_at(site).is_null());
        }
    }
    raw::stop(
        |_| true,
        |stopped| {
            stopped.take(word, 0);
        },
    );
    raw::put_page(b);
    // SAFETY: the word is 0 everywhere and ours.
    unsafe { word.release() };
}

/// Who needs a block or more takes whole ones from the barn, and leaves what the CPU has but for the first run.
#[test]
fn whole_blocks_come_from_the_barn() {
    let _alone = alone(); // drains make runs fail over
    stay();
    let cache: Cache<Object> = Cache::builder("whole").block_capacity(10).build().unwrap();
    let mut held = Vec::new();
    cache.alloc_bulk((0..200).map(|i| [i; 8]), &mut held).unwrap();
    let pointers: Vec<*mut u8> = held.drain(..).map(|b| SlabBox::into_raw(b).as_ptr().cast()).collect();
    for half in pointers.chunks(100) {
        // SAFETY: each was a box's, once.
        unsafe { free_bulk(half) };
    }
    let before = cache.stats();
    assert!(before.barn_blocks >= 10 && before.live == 0, "{before:?}");
    cache.alloc_bulk((0..60).map(|i| [i; 8]), &mut held).unwrap();
    let after = cache.stats();
    assert_eq!(after.live, 60);
    let taken = after.barn_get - before.barn_get;
    assert!((4..=6).contains(&taken), "{taken} blocks for 60 objects");
    assert!(after.alloc_slow - before.alloc_slow <= 2, "block after block was installed");
}

/// An iterator that promises more than it has, or panics, leaves nothing out.
#[test]
fn what_the_iterator_does_not_want_is_freed() {
    let _alone = alone(); // drains make runs fail over
    let cache: Cache<Object> = Cache::new("promised");
    struct Liar(usize, bool);
    impl Iterator for Liar {
        type Item = Object;
        fn next(&mut self) -> Option<Object> {
            assert!(self.0 > 0 || !self.1, "the iterator panics");
            self.0 = self.0.checked_sub(1)?;
            Some([self.0; 8])
        }
        fn size_hint(&self) -> (usize, Option<usize>) {
            (usize::MAX, None)
        }
    }
    for n in [0, 1, 5, 64, 65, 200] {
        let mut held = Vec::new();
        assert_eq!(cache.alloc_bulk(Liar(n, false), &mut held), Ok(n));
        assert_eq!(cache.stats().live, n as u64);
        assert!(held.iter().rev().enumerate().all(|(i, object)| **object == [i; 8]));
        let more = catch_unwind(AssertUnwindSafe(|| cache.alloc_bulk(Liar(n, true), &mut held)));
        assert!(more.is_err());
        assert_eq!(cache.stats().live, 2 * n as u64);
        cache.free_bulk(held);
        assert_eq!(cache.stats().live, 0);
    }
}

/// Objects of several caches, in runs of all lengths, with null pointers among them: each goes to its own.
#[test]
fn each_run_goes_to_its_cache() {
    let _alone = alone(); // drains make runs fail over
    let caches: [Cache<Object>; 3] = ["first", "second", "third"].map(Cache::new);
    for step in 1..12 {
        let mut pointers = Vec::new();
        let mut held: Vec<Vec<SlabBox<Object>>> = caches
            .iter()
            .map(|cache| {
                let mut held = Vec::new();
                cache.alloc_bulk((0..80).map(|i| [i; 8]), &mut held).unwrap();
                held
            })
            .collect();
        while held.iter().any(|boxes| !boxes.is_empty()) {
            for boxes in &mut held {
                let left = boxes.len().saturating_sub(step);
                pointers.extend(boxes.drain(left..).map(|b| SlabBox::into_raw(b).as_ptr().cast::<u8>()));
                if step % 3 == 0 {
                    pointers.push(std::ptr::null_mut());
                }
            }
        }
        for few in pointers.chunks(200) {
            // SAFETY: each was a box's, once.
            unsafe { free_bulk(few) };
        }
        for cache in &caches {
            let stats = cache.stats();
            assert_eq!((stats.live, stats.refused), (0, 0), "step {step}: {stats:?}");
        }
    }
    // What is out by now is of the right cache: flushed, nothing is refused.
    for cache in &caches {
        cache.flush();
        assert_eq!(cache.stats().refused, 0);
    }
}

/// A layout's runs: distinct objects, however many, also those that no class has.
#[test]
fn layouts_come_in_runs() {
    let _alone = alone(); // drains make runs fail over
    for (size, n) in [(16, 3000), (48, 1), (64, 65), (4096, 100), (32 << 10, 5), (100_000, 3)] {
        let layout = Layout::from_size_align(size, 16).unwrap();
        let mut out = vec![MaybeUninit::<NonNull<u8>>::uninit(); n];
        assert_eq!(alloc_bulk(layout, &mut out), n);
        // SAFETY: all were written.
        let pointers: Vec<*mut u8> = out.iter().map(|p| unsafe { p.assume_init() }.as_ptr()).collect();
        assert_eq!(pointers.iter().collect::<HashSet<_>>().len(), n, "{size}: twice the same");
        for &p in &pointers {
            // SAFETY: memory of that size, ours.
            unsafe { p.write_bytes(7, size) };
        }
        // SAFETY: each was allocated, and is there once.
        unsafe { free_bulk(&pointers) };
    }
}

/// More threads than CPUs take and give runs while signals restart sections in the middle of their copies and drains take blocks
/// away: no object is in two hands, and none is lost.
#[test]
fn runs_under_signals_are_in_one_hand() {
    let _alone = alone(); // drains make runs fail over
    #[cfg(target_os = "linux")]
    fn every(micros: i64) {
        extern "C" fn tick(_: libc::c_int) {}
        // SAFETY: the handler does nothing, so it is safe wherever it interrupts.
        unsafe { libc::signal(libc::SIGALRM, tick as *const () as libc::sighandler_t) };
        let at = libc::timeval { tv_sec: 0, tv_usec: micros };
        let timer = libc::itimerval { it_interval: at, it_value: at };
        // SAFETY: a valid timer value; the old one is not asked for.
        assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) }, 0);
    }
    #[cfg(not(target_os = "linux"))]
    fn every(_: i64) {}

    let cache: Cache<Object> = Cache::builder("runs").block_capacity(100).build().unwrap();
    let over = AtomicBool::new(false);
    every(60);
    std::thread::scope(|scope| {
        for me in 1..=4usize {
            let (cache, over) = (&cache, &over);
            scope.spawn(move || {
                let mut held: Vec<SlabBox<Object>> = Vec::new();
                let mut round = 0usize;
                while !over.load(Relaxed) {
                    round += 1;
                    let (n, mark) = (1 + round % 97, me << 48 | round);
                    cache.alloc_bulk((0..n).map(|_| [mark; 8]), &mut held).unwrap();
                    assert!(held.iter().rev().take(n).all(|object| **object == [mark; 8]), "in two hands");
                    if held.len() > 300 {
                        assert!(
                            held.iter().all(|object| object[0] >> 48 == me && object[7] == object[0]),
                            "in two hands"
                        );
                        let left = held.len() % 61;
                        cache.free_bulk(held.drain(left..));
                    }
                }
            });
        }
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(1200) {
            cache.flush();
            std::thread::sleep(Duration::from_millis(3));
        }
        over.store(true, Relaxed);
    });
    every(0);
    cache.flush();
    let stats = cache.stats();
    assert_eq!((stats.live, stats.refused), (0, 0), "{stats:?}");
    assert_eq!(stats.free_in_slabs, stats.objects, "an object is lost");
}

/// An account that panics when it is asked for the fourth time.
#[derive(Default)]
struct Broke(AtomicUsize);

impl Account for Broke {
    fn charge(&self, _: usize) {
        assert!(self.0.fetch_add(1, Relaxed) != 3, "broke");
    }
    fn uncharge(&self, _: usize) {}
}

/// What a run has got when memory for the rest panics is freed.
#[test]
fn a_panic_for_more_loses_nothing() {
    let _alone = alone();
    let account: &'static Broke = Box::leak(Box::default());
    let cache: Cache<[u64; 512]> = Cache::builder("broke").account(account).block_capacity(4).build().unwrap();
    let mut out = Vec::new();
    let panicked = catch_unwind(AssertUnwindSafe(|| cache.alloc_bulk((0..64).map(|n| [n; 512]), &mut out).is_ok()));
    assert!(panicked.is_err() && account.0.load(Relaxed) >= 4);
    let kept = out.len();
    drop(out);
    cache.flush();
    assert_eq!(cache.stats().live, 0, "{kept} were handed out");
}
