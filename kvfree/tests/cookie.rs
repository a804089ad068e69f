//! The cookie of a batch is taken after the batch was detached: what is retired while it is taken is not covered by it.

use quietus_kvfree::{Config, Cookie, GracePeriods, Kvfree};
use quietus_slab::{Cache, SlabBox};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock};

static NOW: AtomicU64 = AtomicU64::new(0);
static ELAPSED: AtomicU64 = AtomicU64::new(0);
static RETIRED: AtomicU64 = AtomicU64::new(0);
/// How many had been retired when the first cookie was taken; 0: not yet.
static BEFORE: AtomicU64 = AtomicU64::new(0);
static ARMED: AtomicBool = AtomicBool::new(false);
static KVFREE: OnceLock<Kvfree<Source>> = OnceLock::new();
static CACHE: OnceLock<Cache<Object>> = OnceLock::new();
static READY: Mutex<Vec<SlabBox<Object>>> = Mutex::new(Vec::new());

struct Source;

// SAFETY: there are no readers: every answer is true to the contract. (`start` retires, which 5 forbids: it stands for another thread
// that retires in the same moment.)
unsafe impl GracePeriods for Source {
    fn start(&self) -> Cookie {
        let cookie = NOW.fetch_add(1, SeqCst) + 1;
        if ARMED.swap(false, SeqCst) {
            BEFORE.store(RETIRED.load(SeqCst), SeqCst);
            // Fills and closes at least one block of this CPU. Allocated before: the queue is locked.
            READY.lock().unwrap().drain(..).for_each(retire);
        }
        Cookie(cookie)
    }
    fn poll(&self, cookie: Cookie) -> bool {
        cookie.0 <= ELAPSED.load(SeqCst)
    }
    fn synchronize(&self, cookie: Cookie) {
        ELAPSED.fetch_max(cookie.0, SeqCst);
    }
    fn inside(&self) -> Option<bool> {
        Some(false)
    }
}

type Object = [u64; 8];

fn retire(object: SlabBox<Object>) {
    RETIRED.fetch_add(1, SeqCst);
    // SAFETY: (1) never shared. (2) From this cache.
    unsafe { KVFREE.get().unwrap().retire_in(CACHE.get().unwrap(), SlabBox::into_raw(object)) };
}

#[test]
fn what_is_retired_while_a_cookie_is_taken_is_not_covered_by_it() {
    let cache = CACHE.get_or_init(|| Cache::new("cookie"));
    READY.lock().unwrap().extend((0..3 * 504).map(|_| cache.alloc([0; 8])));
    let config = Config { workers: false, budget: 1 << 30, ..Config::default() };
    let kvfree = KVFREE.get_or_init(|| Kvfree::new(Source, config));
    ARMED.store(true, SeqCst);
    while BEFORE.load(SeqCst) == 0 {
        retire(cache.alloc([0; 8]));
    }
    // The first cookie has elapsed, no later one has.
    ELAPSED.store(1, SeqCst);
    kvfree.tick();
    let (freed, before) = (kvfree.stats().reclaimed_objects, BEFORE.load(SeqCst));
    assert!(freed > 0 && freed <= before, "{freed} objects freed, of {before} that the cookie covers");
    kvfree.barrier();
    assert_eq!(kvfree.stats().reclaimed_objects, RETIRED.load(SeqCst));

    // The same for a drain, which takes open blocks back and then its cookie.
    READY.lock().unwrap().extend((0..100).map(|_| cache.alloc([0; 8])));
    retire(cache.alloc([0; 8]));
    ARMED.store(true, SeqCst);
    kvfree.tick();
    let (cookie, before) = (NOW.load(SeqCst), BEFORE.load(SeqCst));
    assert!(!ARMED.load(SeqCst), "the tick took no cookie");
    ELAPSED.store(cookie, SeqCst);
    kvfree.tick();
    let freed = kvfree.stats().reclaimed_objects;
    assert_eq!(freed, before, "a drain's cookie covers what it has detached, and nothing else");
    kvfree.barrier();
    assert_eq!(kvfree.stats().reclaimed_objects, RETIRED.load(SeqCst));
}
