//! Seed 1 and retire blocks: what a thread has in its hands is not skipped.

use quietus_kvfree::{Config, Cookie, GracePeriods, Kvfree};
use quietus_slab::{Cache, SlabBox};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

static STARTED: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);
/// The next cookie is taken by a thread that has detached a chain: it says so, and waits.
static ARMED: AtomicBool = AtomicBool::new(false);
static SAY: Mutex<Option<Sender<()>>> = Mutex::new(None);
static WAIT: Mutex<Option<Receiver<()>>> = Mutex::new(None);

struct Source;

// SAFETY: there are no readers: every answer is true to the contract. (`start` waits, which only delays.)
unsafe impl GracePeriods for Source {
    fn start(&self) -> Cookie {
        if ARMED.swap(false, SeqCst) {
            SAY.lock().unwrap().take().unwrap().send(()).unwrap();
            // Until the other has returned, which it must not; so it goes on after a while.
            let _ = WAIT.lock().unwrap().take().unwrap().recv_timeout(Duration::from_millis(300));
        }
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

/// A chain that is detached from its CPU and not queued yet is on no list: a barrier, a barrier for its cache, and the end of the cache
/// wait for it all the same.
#[test]
fn s1_7_detached_blocks_are_not_skipped() {
    static KVFREE: OnceLock<Kvfree<Source>> = OnceLock::new();
    let config = Config { workers: false, budget: 1 << 30, ..Config::default() };
    let kvfree = KVFREE.get_or_init(|| Kvfree::new(Source, config));
    type Waits = fn(Cache<[u64; 8]>) -> Option<Cache<[u64; 8]>>;
    let ways: [Waits; 3] = [
        |cache| {
            KVFREE.get().unwrap().barrier();
            Some(cache)
        },
        |cache| {
            KVFREE.get().unwrap().barrier_on(&cache);
            Some(cache)
        },
        |cache| {
            cache.destroy().expect("what waits is freed first");
            None
        },
    ];
    for wait in ways {
        let cache: Cache<[u64; 8]> = Cache::new("detached");
        let objects: Mutex<Vec<_>> = Mutex::new((0..504 * 2).map(|i| cache.alloc([i; 8])).collect());
        let ((say, said), (done, wait_for)) = (mpsc::channel(), mpsc::channel());
        *SAY.lock().unwrap() = Some(say);
        *WAIT.lock().unwrap() = Some(wait_for);
        ARMED.store(true, SeqCst);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Closes a block, and takes a cookie for it.
                let next = || objects.lock().unwrap().pop();
                while let Some(b) = next() {
                    // SAFETY: never shared.
                    unsafe { kvfree.retire(SlabBox::into_raw(b)) };
                }
            });
            said.recv().unwrap();
            objects.lock().unwrap().clear(); // the rest is not needed
            let before = kvfree.stats().reclaimed_objects;
            let cache = wait(cache);
            let freed = kvfree.stats().reclaimed_objects - before;
            let _ = done.send(());
            assert!(freed >= 504, "{freed} objects freed: a detached block was skipped");
            drop(cache);
        });
        kvfree.barrier();
        assert_eq!(kvfree.stats().pending_objects, 0);
    }
}
