//! A thread's registrations with collectors of one's own: a short list in a thread-local. (For the default collector
//! crossbeam-epoch keeps one itself.)
//!
//! `source` asks for the handle of its collector, which is registered at first need. Handles of domains that are gone are found
//! when the next one is registered, and dropped.
//!
//! Registering, pinning and dropping a handle may run functions that others have deferred, which may come back here. So none of
//! them happens while the list is borrowed; who finds it borrowed all the same registers for the length of one guard.

use crate::epoch::source::Progress;
use crossbeam_epoch::{Collector, LocalHandle};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Weak};

thread_local! {
    static HANDLES: RefCell<Vec<Entry>> = const { RefCell::new(Vec::new()) };
}

struct Entry {
    /// Who registered it. Others with the same collector use it, too.
    owner: Weak<Progress>,
    handle: Rc<LocalHandle>,
}

/// The thread's handle for a collector, if it has one.
pub(super) fn known(collector: &Collector) -> Option<Rc<LocalHandle>> {
    HANDLES
        .try_with(|list| {
            let list = list.try_borrow().ok()?;
            let entry = list.iter().find(|entry| entry.handle.collector() == collector)?;
            Some(Rc::clone(&entry.handle))
        })
        .ok()
        .flatten()
}

/// The thread's handle for a collector, registered for `owner` if it has none. Where thread-locals are gone the handle is the
/// caller's; a guard may outlive it.
pub(super) fn of(collector: &Collector, owner: &Arc<Progress>) -> Rc<LocalHandle> {
    known(collector).unwrap_or_else(|| register(collector, owner))
}

#[cold]
fn register(collector: &Collector, owner: &Arc<Progress>) -> Rc<LocalHandle> {
    let handle = Rc::new(collector.register());
    let gone = HANDLES.try_with(|list| {
        let mut list = list.try_borrow_mut().ok()?;
        // A handle that is pinned stays known, so that waiting is refused.
        let used = |entry: &Entry| entry.owner.strong_count() != 0 || entry.handle.is_pinned();
        let (live, gone) = list.drain(..).partition(used);
        *list = live;
        list.push(Entry { owner: Arc::downgrade(owner), handle: Rc::clone(&handle) });
        Some::<Vec<Entry>>(gone)
    });
    drop(gone); // the list is not borrowed any more
    handle
}
