//! Who retires in short sections pushes grace periods that do not wait for these.

use quietus_kvfree::{Config, Cookie, GracePeriods, Kvfree};
use quietus_slab::{Cache, SlabBox};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Grace periods of one thread that is always in a section when it retires: like an engine's, they are given the newest number when they begin, and
/// wait for sections that began before it was given out.
#[derive(Clone, Default)]
struct OwnSections(Arc<OwnState>);

#[derive(Default)]
struct OwnState {
    now: AtomicU64,
    /// When the section began, plus 1; 0: there is none.
    section: AtomicU64,
    /// The grace period that has begun, or 0.
    running: AtomicU64,
    completed: AtomicU64,
    /// Times that a grace period found the section in its way.
    held_up: AtomicU64,
}

// SAFETY: the one thread that there is says when its section begins and ends, and a number is completed only when no section is left that
// began before.
unsafe impl GracePeriods for OwnSections {
    fn start(&self) -> Cookie {
        Cookie(self.0.now.fetch_add(1, SeqCst) + 1)
    }
    fn poll(&self, cookie: Cookie) -> bool {
        self.0.completed.load(SeqCst) >= cookie.0
    }
    fn advance(&self, cookie: Cookie) -> bool {
        let s = &*self.0;
        while !self.poll(cookie) || s.running.load(SeqCst) != 0 {
            if s.running.load(SeqCst) == 0 {
                s.running.store(s.now.load(SeqCst), SeqCst);
            }
            let (n, section) = (s.running.load(SeqCst), s.section.load(SeqCst));
            if section != 0 && section - 1 < n {
                s.held_up.fetch_add(1, SeqCst);
                break;
            }
            s.completed.store(n, SeqCst);
            s.running.store(0, SeqCst);
        }
        self.poll(cookie)
    }
    fn is_cheap(&self) -> bool {
        true
    }
    fn synchronize(&self, cookie: Cookie) {
        assert!(self.advance(cookie), "inside its own section");
    }
    fn inside(&self) -> Option<bool> {
        Some(self.0.section.load(SeqCst) != 0)
    }
}

/// Who retires in short sections holds up no grace period by them: no more than one closed block is pending, and the open one.
#[test]
fn short_sections_hold_up_nothing() {
    let gp = OwnSections::default();
    let kvfree = Kvfree::new(gp.clone(), Config { workers: false, ..Config::default() });
    let cache: Cache<[u64; 8]> = Cache::new("short sections");
    let mut most = 0;
    for n in 0..10_000 {
        gp.0.section.store(gp.0.now.load(SeqCst) + 1, SeqCst);
        let object = SlabBox::into_raw(cache.alloc([n; 8]));
        // SAFETY: nobody else knows it; it is of this cache.
        unsafe { kvfree.retire_in(&cache, object) };
        gp.0.section.store(0, SeqCst);
        most = most.max(kvfree.stats().pending_objects);
    }
    assert_eq!(gp.0.held_up.load(SeqCst), 0, "{:?}", kvfree.stats());
    assert!((500..=2 * 512).contains(&most), "{most}");
}
