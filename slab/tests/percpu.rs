//! The per-CPU words themselves: nothing tears, nothing is in two hands, whatever interrupts.

use quietus_slab::raw::{self, BlockNo, Word, pack, sites, unpack};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::*};
use std::time::{Duration, Instant};

fn block(cap: u32) -> BlockNo {
    let b = raw::page().expect("a page");
    b.block().reset(cap);
    b
}

/// Both halves of a word change at once: exchanges under a rain of signals never leave a block in both halves, or in none.
#[cfg(target_os = "linux")]
#[test]
fn a_word_never_tears() {
    extern "C" fn tick(_: libc::c_int) {}
    fn every(micros: i64) {
        let at = libc::timeval { tv_sec: 0, tv_usec: micros };
        let timer = libc::itimerval { it_interval: at, it_value: at };
        // SAFETY: a valid timer value; the old one is not asked for.
        assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) }, 0);
    }
    // SAFETY: the handler does nothing, so it is safe wherever it interrupts.
    unsafe { libc::signal(libc::SIGALRM, tick as *const () as libc::sighandler_t) };

    let word = Word::allocate().unwrap();
    let (a, b) = (block(4), block(4));
    every(50);
    let begin = Instant::now();
    let mut swaps = 0u64;
    // A while, and until there have been many; whoever runs the tests ends it if there never are.
    while begin.elapsed() < Duration::from_millis(1500) || swaps <= 10_000 {
        for _ in 0..1000 {
            let Some(site) = sites().next() else { continue };
            match word.load(site) {
                0 => {
                    if word.exchange(site, 0, pack(a, b)) {
                        // One region at a time holds the pair.
                        for other in raw::all_sites().filter(|&s| s != site) {
                            let there = word.load(other);
                            if there != 0 {
                                raw::stop(|s| s == other, |stopped| assert_eq!(stopped.take(word, 0), there));
                            }
                        }
                    }
                }
                now => {
                    let (low, high) = unpack(now);
                    assert!(
                        (low, high) == (a, b) || (low, high) == (b, a),
                        "torn after {swaps} exchanges: {low:?} {high:?}"
                    );
                    swaps += u64::from(word.exchange(site, now, pack(high, low)));
                }
            }
        }
    }
    every(0);
    raw::stop(
        |_| true,
        |stopped| {
            stopped.take(word, 0);
        },
    );
    raw::put_page(a);
    raw::put_page(b);
    // SAFETY: the word is 0 everywhere and ours.
    unsafe { word.release() };
}

/// A region that is stopped is nobody else's: items taken from it by a drain are in no other hand.
#[test]
fn a_drain_excludes_the_sections_of_its_cpu() {
    const ITEMS: usize = 96;
    let word = Word::allocate().unwrap();
    let held: Vec<AtomicBool> = (0..=ITEMS).map(|_| AtomicBool::new(false)).collect();
    let twice = AtomicU8::new(0);
    let over = AtomicBool::new(false);
    let take = |item: *mut u8| {
        if held[item.addr() / 16].swap(true, AcqRel) {
            twice.store(1, Release);
        }
    };
    let give = |item: *mut u8| held[item.addr() / 16].store(false, Release);
    // A block for every region, and the items in one of them.
    let first = raw::all_sites().next().unwrap();
    raw::stop(
        |_| true,
        |stopped| {
            let b = block(raw::SLOTS);
            if stopped.site() == first {
                for k in 1..=ITEMS {
                    // SAFETY: a fresh block of ours.
                    assert!(unsafe { b.block().push(std::ptr::without_provenance_mut(k * 16)) });
                }
            }
            stopped.take(word, pack(b, BlockNo::NONE));
        },
    );
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut mine = Vec::new();
                while !over.load(Acquire) || !mine.is_empty() {
                    for _ in 0..500 {
                        let site = sites().next().unwrap();
                        let item = word.pop_at(site);
                        if !item.is_null() {
                            take(item);
                            mine.push(item);
                        }
                        while mine.len() > 2 || over.load(Relaxed) && !mine.is_empty() {
                            let Some(item) = mine.pop() else { break };
                            give(item);
                            if !word.push_at(sites().next().unwrap(), item) {
                                take(item);
                                mine.push(item);
                                break;
                            }
                        }
                    }
                }
            });
        }
        scope.spawn(|| {
            let begin = Instant::now();
            let mut stolen = Vec::new();
            while begin.elapsed() < Duration::from_millis(1500) {
                raw::stop(
                    |_| true,
                    |stopped| {
                        let value = stopped.take(word, 0);
                        let (low, _) = unpack(value);
                        // SAFETY: the region is stopped, so its block is ours.
                        while let Some(item) = unsafe { low.block().pop() } {
                            stolen.push(item);
                            if stolen.len() % 2 == 0 {
                                break;
                            }
                        }
                        stopped.take(word, value);
                    },
                );
                stolen.iter().for_each(|&item| take(item));
                for item in stolen.drain(..) {
                    give(item);
                    while !word.push_at(sites().next().unwrap(), item) {
                        std::thread::yield_now();
                    }
                }
            }
            over.store(true, Release);
        });
    });
    assert_eq!(twice.load(Acquire), 0, "an item was in two hands");
    let mut left = 0;
    raw::stop(
        |_| true,
        |stopped| {
            let (low, _) = unpack(stopped.take(word, 0));
            left += low.block().len() as usize;
            low.block().reset(0);
            raw::put_page(low);
        },
    );
    assert_eq!(left, ITEMS, "items were lost or doubled");
    // SAFETY: the word is 0 everywhere and ours.
    unsafe { word.release() };
}
