//! Line 1 of S4: what retiring costs. Until a block closes: no system call, no call of an allocator, no page fault; then at most
//! one futex wake. What helping above the budget costs is counted apart.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[path = "support/memory.rs"]
mod memory;
mod support;
#[path = "support/syscalls.rs"]
mod syscalls;

use quietus_kvfree::{Config, Kvfree};
use quietus_slab::{Cache, FailingSource, SlabBox, raw};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;
use support::doors::{Door, House};
use support::machine::in_one_place;
use support::pages::{Exhausted, turn};
use support::{Instant_, Manual, Opens, Tally, until};
use syscalls::{count, counts, faults, slow_futexes, until_workers_sleep};

/// A worker that sleeps unless it is woken, and no debug mode, which keeps books.
fn config() -> Config {
    Config { debug: false, age: Duration::from_secs(3600), ..Config::default() }
}

unsafe fn nothing(_: *mut u8) {}

/// Every door, block after block of each lane being open: four hundred retires, and nobody outside this thread notices. (The system may
/// take a page away at any time, to move it, say, and that is a fault, too: so not each time.)
#[test]
fn s4_1_until_a_block_closes_nothing_is_asked_of_anybody() {
    let _turn = turn();
    let faults = (0..20).map(|_| in_one_place(faults_of_retiring)).take_while(|&faults| faults > 0).collect::<Vec<_>>();
    assert!(faults.len() < 20, "page faults: {faults:?}");
}

/// Returns the page faults; everything else that could be asked for is not.
fn faults_of_retiring() -> i64 {
    static SOURCE: FailingSource = FailingSource::new(1000);
    let gp = Manual::default();
    let kvfree = Kvfree::new(gp.clone(), config());
    let _opens = Opens(&gp);
    let (house, tally) = (House::new(), Tally::new(10_000));
    let counted: Cache<[u64; 4]> = Cache::builder("counted").pages(&SOURCE).build().unwrap();
    // A few of each for the opening of the blocks, then many. (`Ptr`'s blocks hold 16, a large object's page its bytes.)
    let doors = Door::ALL.into_iter().filter(|d| !matches!(d, Door::Ptr | Door::PtrLarge));
    let doors: Vec<_> = doors.collect();
    let make = |n| -> Vec<_> {
        let all = doors.iter().flat_map(|&door| (0..n).map(move |id| (door, id)));
        all.map(|(door, id)| (door, house.make(door, &tally, id))).collect()
    };
    let (first, many) = (make(3), make(40));
    let mut own: Vec<_> = (0..403).map(|i| SlabBox::into_raw(counted.alloc([i; 4]))).collect();
    // SAFETY: made for the doors, fresh.
    let retire = |all: &[(Door, NonNull<u8>)], own: &[NonNull<[u64; 4]>]| unsafe {
        all.iter().for_each(|&(door, p)| house.retire(&kvfree, door, p));
        own.iter().for_each(|&p| kvfree.retire(p));
    };
    retire(&first, &own.split_off(400));
    until_workers_sleep();
    faults(); // its own code is touched
    let counting = count();
    let before = (kvfree.stats(), SOURCE.counts(), memory::calls(), faults());
    let calls = counts();
    retire(&many, &own);
    let calls = (counts(), calls);
    let after = (memory::calls(), faults(), SOURCE.counts(), kvfree.stats());
    assert_eq!(calls.0, calls.1, "futexes, other calls, which");
    assert!(counting || calls.0 == (0, 0, 0));
    assert_eq!((after.0, after.2), (before.2, before.1), "calls of the global allocator, of the page source");
    let (a, b) = (after.3, before.0);
    assert_eq!(a.pending_objects - b.pending_objects, 40 * doors.len() as u64 + 400);
    assert_eq!((a.from_supply, a.from_fresh, a.from_neighbour), (b.from_supply, b.from_fresh, b.from_neighbour));
    assert_eq!((a.batches, a.worker_wakes, a.strays), (b.batches, b.worker_wakes, b.strays), "no block was closed");
    after.1 - before.3
}

/// Closing blocks: of plain memory and of calls, with pages at hand and without, with a worker that falls asleep again at once. (A worker
/// that holds the queue just then is given way, and one that waits for it is woken by its lock: so not each time.)
#[test]
fn s4_1_closing_a_block_wakes_once_at_most() {
    let _turn = turn();
    for (pages, instant) in [(true, false), (false, false), (true, true)] {
        let tries = (0..20).map(|_| in_one_place(|| most_futexes_of_closing(pages, instant)));
        let tries = tries.take_while(|&(most, yields)| most > 1 || yields > 0).collect::<Vec<_>>();
        assert!(
            tries.len() < 20,
            "pages {pages}, elapsing {instant}: futex calls for one block, and yields: {tries:?}"
        );
    }
}

/// Returns the most futex calls of one retire, and the yields; there are no other calls.
fn most_futexes_of_closing(pages: bool, instant: bool) -> (u64, u64) {
    let gp = Manual::default();
    let closed = Kvfree::new(gp.clone(), config());
    let open = Kvfree::new(Instant_::default(), config());
    let _opens = Opens(&gp);
    let cache: Cache<[u64; 8]> = Cache::new("closing");
    let objects: Vec<_> = (0..4 * 504).map(|i| SlabBox::into_raw(cache.alloc([i; 8]))).collect();
    raw::grow(64);
    let exhausted = (!pages).then(Exhausted::now);
    if let Some(exhausted) = &exhausted {
        exhausted.may_grow(true); // each block is a miss
    }
    until_workers_sleep();
    let counting = count();
    slow_futexes(true);
    let (mut most, before, allocated) = (0, counts(), memory::calls());
    let mut each = |retire: &mut dyn FnMut()| {
        let now = counts().0;
        retire();
        most = most.max(counts().0 - now);
    };
    for &p in &objects {
        // SAFETY: fresh, known to nobody else.
        each(&mut || unsafe { if instant { open.retire(p) } else { closed.retire(p) } });
    }
    for _ in 0..4 * 252 {
        // SAFETY: the function does nothing with its pointer.
        each(&mut || unsafe {
            let call = NonNull::dangling();
            if instant { open.call(call, nothing, 0) } else { closed.call(call, nothing, 0) }
        });
    }
    slow_futexes(false);
    let (after, asked) = (counts(), memory::calls() - allocated);
    let s = if instant { open.stats() } else { closed.stats() };
    let what = format!("pages {pages}, elapsing {instant}: {s:?}");
    assert!(s.batches >= 6, "{what}");
    assert!(
        !counting || after.1 - before.1 == s.yields,
        "other calls than futex, the last of them {}; {what}",
        after.2
    );
    assert_eq!(asked, 0, "calls of the global allocator; {what}");
    (most, s.yields)
}

/// Above the budget the retirer gives way: that is counted, call by call.
#[test]
fn s4_1_help_above_the_budget_is_counted_apart() {
    let _turn = turn();
    in_one_place(|| {
        let gp = Manual::default();
        let budget = 64 << 10;
        let kvfree = Arc::new(Kvfree::new(gp.clone(), Config { budget, workers: false, ..config() }));
        let _opens = Opens(&gp);
        let cache: Cache<[u64; 8]> = Cache::new("above");
        let objects: Vec<_> = (0..8 * 504).map(|i| SlabBox::into_raw(cache.alloc([i; 8]))).collect();
        raw::grow(64);
        let counting = count();
        let before = counts();
        // SAFETY: fresh, known to nobody else.
        objects.into_iter().for_each(|p| unsafe { kvfree.retire(p) });
        let after = counts();
        let s = kvfree.stats();
        assert!(s.yields > 0 && s.pending_bytes > budget as u64, "{s:?}");
        if counting {
            assert_eq!((after.0 - before.0, after.1 - before.1), (0, s.yields), "each a call: {s:?}");
            assert_eq!(after.2, libc::SYS_sched_yield as u64);
        }
        gp.open();
        until("all is free", || !kvfree.tick());
    });
}
