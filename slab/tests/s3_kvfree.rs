//! Seed 3 and deferred frees: what is retired while its cache is being chained, or after.

use quietus_kvfree::{Config, Cookie, GracePeriods, Kvfree};
use quietus_slab::{Cache, SLAB_BYTES, SlabBox, raw};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, OnceLock};

/// Grace periods end when somebody waits for them.
struct Source;
static STARTED: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);

// SAFETY: there are no readers: every answer is true to the contract.
unsafe impl GracePeriods for Source {
    fn start(&self) -> Cookie {
        Cookie(STARTED.fetch_add(1, SeqCst) + 1)
    }
    fn poll(&self, cookie: Cookie) -> bool {
        cookie.0 <= ENDED.load(SeqCst)
    }
    fn synchronize(&self, cookie: Cookie) {
        ENDED.fetch_max(cookie.0, SeqCst);
    }
    fn inside(&self) -> Option<bool> {
        Some(false)
    }
}

/// Objects that tell by which type they were dropped.
struct First([u64; 8]);
struct Second([u64; 8]);
static DROPPED: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static WRONG: AtomicBool = AtomicBool::new(false);
fn note(n: usize, words: &[u64; 8]) {
    DROPPED[n].fetch_add(1, SeqCst);
    WRONG.fetch_or(words.iter().any(|&w| w != n as u64), SeqCst);
}
impl Drop for First {
    fn drop(&mut self) {
        note(0, &self.0);
    }
}
impl Drop for Second {
    fn drop(&mut self) {
        note(1, &self.0);
    }
}
fn dropped() -> (u64, u64) {
    assert!(!WRONG.load(SeqCst), "a value was dropped as another type, or overwritten");
    (DROPPED[0].swap(0, SeqCst), DROPPED[1].swap(0, SeqCst))
}

fn kvfree() -> &'static Kvfree<Source> {
    static KVFREE: OnceLock<Kvfree<Source>> = OnceLock::new();
    KVFREE.get_or_init(|| {
        let kvfree = Kvfree::new(Source, Config { workers: false, budget: 1 << 30, ..Config::default() });
        // After its own: so what is retired there stands for threads that looked at the slab before and retire now.
        raw::hook(raw::Hook {
            dry: || false,
            destroy: |_| late(),
            before_fork: || (),
            at_fork: || (),
            after_fork: |_| (),
        });
        kvfree
    })
}

static LATE: Mutex<Vec<SlabBox<First>>> = Mutex::new(Vec::new());

fn retire(object: SlabBox<First>) {
    // SAFETY: never shared.
    unsafe { kvfree().retire(SlabBox::into_raw(object)) };
}

/// Retires what a test has left here.
fn late() {
    let objects = std::mem::take(&mut *LATE.lock().unwrap());
    objects.into_iter().for_each(retire);
}

/// Tests take turns.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let guard = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    kvfree().barrier();
    dropped();
    guard
}

fn slab_of<T>(b: &SlabBox<T>) -> usize {
    std::ptr::from_ref::<T>(b).addr() / SLAB_BYTES
}

/// A child of three slabs, of which the last is partial and the first two full, and its objects, those of the last slab first.
fn child() -> (Cache<First>, Vec<SlabBox<First>>) {
    let child = Cache::new("child");
    let mut held: Vec<_> = (0..2600).map(|_| child.alloc(First([0; 8]))).collect();
    child.flush();
    let partial = slab_of(&held[2599]);
    held.sort_by_key(|b| slab_of(b) != partial);
    (child, held)
}

/// Retired into the child's own lane while it is being chained, and freed after: dropped as what it is, and freed where it is by now. The
/// block does not go to the parent's barn, which would hand the memory out among objects of another type.
#[test]
fn s3_4_blocks_of_a_chained_lane_are_taken_apart() {
    let _alone = alone();
    let parent: Cache<Second> = Cache::new("second");
    let (child, held) = child();
    // Begins in the partial slab, which moves at once, and goes on in full ones, which do not. Some stay in each.
    let (rest, held): (Vec<_>, Vec<_>) = held.into_iter().enumerate().partition(|(i, _)| i % 13 < 3);
    let [rest, held]: [Vec<_>; 2] = [rest, held].map(|v| v.into_iter().map(|(_, b)| b).collect());
    assert_eq!((rest.len(), held.len()), (600, 2000));
    let slabs: Vec<usize> = rest.iter().map(slab_of).collect();
    LATE.lock().unwrap().extend(held);
    child.destroy_into(&parent).unwrap();
    assert_eq!(dropped(), (0, 0), "retired, and waiting");
    kvfree().barrier();
    assert_eq!(dropped(), (2000, 0));
    let others: Vec<_> = (0..3000).map(|_| parent.alloc(Second([1; 8]))).collect();
    assert!(others.iter().all(|b| !slabs.contains(&slab_of(b))), "two types share a slab");
    // Those that are left, retired after the chaining, by address.
    rest.into_iter().for_each(retire);
    // SAFETY: never shared; from this cache.
    others.into_iter().for_each(|b| unsafe { kvfree().retire_in(&parent, SlabBox::into_raw(b)) });
    kvfree().barrier();
    assert_eq!(dropped(), (600, 3000));
    parent.destroy().unwrap();
}

/// Chained to a cache of its own type: the memory is shared, and `destroy` of the parent knows what still waits in the child's lane.
#[test]
fn s3_7_destroying_the_parent_waits_for_its_children_too() {
    let _alone = alone();
    let parent: Cache<First> = Cache::new("parent");
    let (child, held) = child();
    LATE.lock().unwrap().extend(held);
    child.destroy_into(&parent).unwrap();
    // The parent's objects go into the room of the child's slabs, and are retired by address and by cache.
    let own: Vec<_> = (0..1000).map(|_| parent.alloc(First([0; 8]))).collect();
    for (i, b) in own.into_iter().enumerate() {
        if i % 2 == 0 {
            retire(b);
        } else {
            // SAFETY: never shared; from this cache.
            unsafe { kvfree().retire_in(&parent, SlabBox::into_raw(b)) };
        }
    }
    assert_eq!(dropped(), (0, 0));
    parent.destroy().expect("nothing of the family is out but what waits for its grace period");
    assert_eq!(dropped(), (3600, 0));
}

/// Types without destructors: whole blocks, too.
#[test]
fn s3_4_plain_memory_of_a_chained_lane() {
    let _alone = alone();
    let parent: Cache<[u32; 16]> = Cache::new("parent");
    let child: Cache<[u32; 16]> = Cache::new("child");
    let held: Vec<_> = (0..3000u32).map(|i| child.alloc([i; 16])).collect();
    let mut kept = Vec::new();
    child.flush();
    for (i, b) in held.into_iter().enumerate() {
        if i % 3 == 0 {
            kept.push(b);
        } else {
            // SAFETY: never shared.
            unsafe { kvfree().retire(SlabBox::into_raw(b)) };
        }
    }
    // The barrier of `destroy_into` is over; what is retired from here on takes the parent's lane, or the child's for full slabs.
    child.destroy_into(&parent).unwrap();
    let more: Vec<_> = (0..3000u32).map(|i| parent.alloc([i + 10_000; 16])).collect();
    assert!(kept.iter().enumerate().all(|(i, b)| b.iter().all(|&w| w == 3 * i as u32)), "memory in two hands");
    for b in kept.into_iter().chain(more) {
        // SAFETY: never shared.
        unsafe { kvfree().retire(SlabBox::into_raw(b)) };
    }
    parent.destroy().unwrap();
}
