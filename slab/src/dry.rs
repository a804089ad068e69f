//! What happens before a dry cache takes fresh memory: whoever has something to give back is asked.
//!
//! Handed to by [`cache`](crate::cache) when a barn is empty; hands to whoever registered (`quietus-kvfree`: poll the grace period,
//! hand elapsed blocks back).

use crate::lock::Lock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Reclaims something, if it can, and says whether it did. Must not allocate from a cache or wait.
pub type ReclaimHook = fn() -> bool;

/// Hooks there can be.
const MOST: usize = 4;
static HOOKS: Lock<[Option<ReclaimHook>; MOST]> = Lock::new([None; MOST]);
static ANY: AtomicBool = AtomicBool::new(false);

/// Registers a hook, once each; false when there are four already.
pub fn on_dry(hook: ReclaimHook) -> bool {
    let mut hooks = HOOKS.lock();
    if hooks.iter().flatten().any(|&h| std::ptr::fn_addr_eq(h, hook)) {
        return true;
    }
    let Some(place) = hooks.iter_mut().find(|h| h.is_none()) else { return false };
    *place = Some(hook);
    // Relaxed: a hint; the hooks are read under their lock.
    ANY.store(true, Relaxed);
    true
}

/// Asks one after another; true as soon as something came back.
pub(crate) fn ask() -> bool {
    // Relaxed: as above.
    if !ANY.load(Relaxed) {
        return false;
    }
    let hooks = *HOOKS.lock();
    hooks.into_iter().flatten().any(|hook| hook())
}
