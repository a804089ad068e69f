//! Readers that stay with crossbeam-epoch, and writers whose garbage goes through blocks and batches: what changes in code that has
//! `defer_destroy` today.
//!
//! `cargo run --release --features epoch --example crossbeam_readers` swaps entries of a table under three readers, once with boxes and once with a
//! cache of ours, and shows that nobody read what was gone and that all of it went.

use crossbeam_epoch::{self as epoch, Atomic, Owned, Shared};
use quietus::epoch as ours;
use quietus::slab::{Cache, SlabBox};
use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

const ENTRIES: usize = 64;
const SWAPS: u64 = 100_000;

/// An entry of the table: its three numbers always add up.
struct Entry {
    numbers: [AtomicU64; 3],
}

static DROPS: AtomicU64 = AtomicU64::new(0);

impl Entry {
    fn new(i: u64) -> Entry {
        Entry { numbers: [i, 2 * i, 3 * i].map(AtomicU64::new) }
    }
    fn adds_up(&self) -> bool {
        let [a, b, sum] = self.numbers.each_ref().map(|number| number.load(Relaxed));
        a + b == sum
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.numbers[0].store(1, Relaxed); // whoever reads it now finds out
        self.numbers[2].store(0, Relaxed);
        DROPS.fetch_add(1, Relaxed);
    }
}

/// Nothing of quietus here.
fn read(table: &[Atomic<Entry>], stop: &AtomicBool) -> u64 {
    let mut reads = 0;
    while !stop.load(Relaxed) {
        let guard = epoch::pin();
        for entry in table {
            // SAFETY: entries are freed after crossbeam's grace period, and this section is open.
            let entry = unsafe { entry.load(Acquire, &guard).deref() };
            assert!(entry.adds_up(), "an entry that is gone");
            reads += 1;
        }
    }
    reads
}

/// Readers beside a writer: `swap` puts a new entry into a place.
fn run(table: &[Atomic<Entry>], swap: impl Fn(&Atomic<Entry>, u64)) -> u64 {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3).map(|_| scope.spawn(|| read(table, &stop))).collect();
        for i in 0..SWAPS {
            swap(&table[i as usize * 7 % ENTRIES], i);
        }
        stop.store(true, Relaxed);
        readers.into_iter().map(|reader| reader.join().expect("no panic")).sum()
    })
}

fn main() {
    let domain = ours::domain();

    // Boxes, as before; only `defer_destroy` is replaced.
    let table: Vec<Atomic<Entry>> = (0..ENTRIES as u64).map(|i| Atomic::new(Entry::new(i))).collect();
    let reads = run(&table, |place, i| {
        let guard = epoch::pin();
        let old = place.swap(Owned::new(Entry::new(i)), AcqRel, &guard);
        // was: unsafe { guard.defer_destroy(old) }
        // SAFETY: swapped out, by us alone; from a Box, as `Owned` makes it.
        unsafe { domain.retire_box(NonNull::new(old.as_raw().cast_mut()).expect("never null")) };
    });
    domain.barrier();
    assert_eq!(DROPS.swap(0, Relaxed), SWAPS);
    println!("boxes:   {reads} reads, {SWAPS} entries swapped out and dropped");
    for place in table {
        // SAFETY: nobody else has the table.
        drop(unsafe { place.into_owned() });
    }
    DROPS.store(0, Relaxed);

    // Entries from a cache, which take a whole block back at a time.
    let entries: Cache<Entry> = Cache::new("entries");
    let shared = |i: u64| Shared::from(SlabBox::into_raw(entries.alloc(Entry::new(i))).as_ptr().cast_const());
    let table: Vec<Atomic<Entry>> = (0..ENTRIES as u64).map(|i| Atomic::from(shared(i))).collect();
    let before = domain.stats();
    let reads = run(&table, |place, i| {
        let guard = epoch::pin();
        let old = place.swap(shared(i), AcqRel, &guard);
        // SAFETY: (1) swapped out, by us alone. (2) From that cache.
        unsafe { domain.retire_in(&entries, NonNull::new(old.as_raw().cast_mut()).expect("never null")) };
    });
    domain.barrier();
    let after = domain.stats();
    assert_eq!((DROPS.load(Relaxed), after.kvfree.pending_objects), (SWAPS, 0));
    assert_eq!(entries.stats().live, ENTRIES as u64, "those in the table");
    println!(
        "a cache: {reads} reads, {SWAPS} entries swapped out and dropped, in {} batches and {} grace periods",
        after.kvfree.batches - before.kvfree.batches,
        after.grace_periods - before.grace_periods,
    );
    for place in table {
        // SAFETY: nobody else has the table; from that cache.
        let entry = unsafe { place.load(Relaxed, epoch::unprotected()) };
        // SAFETY: as above.
        drop(unsafe { SlabBox::from_raw(NonNull::new(entry.as_raw().cast_mut()).expect("never null")) });
    }
    assert_eq!(entries.stats().live, 0);
}
