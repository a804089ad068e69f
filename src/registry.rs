//! Who reads: one [`Slot`] per thread and engine, on a list that only ever grows.
//!
//! A thread that enters its first section claims a slot here; the engine's reader side writes to it, the driver of a
//! grace period scans the list. A slot is given up when its thread has exited **and** is unnested, and the next new
//! thread takes it over: ten thousand short threads share the few slots that were ever in use together. Slots are freed
//! with their registry and not before, so a pointer to one stays good as long as the engine does.
//!
//! # Layout
//!
//! A slot fills a pair of cache lines of its own. Its first two words are all that entering and leaving touch.
//!
//! # Ordering
//!
//! I: a push publishes the slot's plain fields to whoever reads the head. J: giving up hands the slot's private words
//! to the thread that claims it. The `owner` word carries J and lets the driver see that nobody else reads at all, in
//! which case it needs no membarrier: each claim is followed by a SeqCst fence before the first section, the driver's
//! look at the owners is preceded by one.

use crate::membarrier;
use crate::sync::stat::Relaxed;
use crate::sync::{AtomicPtr, AtomicU64, Ordering, UnsafeCell, const_unless_loom, fence, hold, stat};
use std::ptr;

/// Set in [`Slot::extra`] when the slot's thread has exited: the last guard to go gives the slot back.
pub(crate) const EXITED: u64 = 1 << 63;

/// One thread's presence in one engine's sections.
#[repr(C, align(128))]
pub(crate) struct Slot {
    /// 0: outside. Otherwise the sequence number that was current when the outermost section began, or an older one.
    pub(crate) seq: AtomicU64,
    /// How many guards are alive beside the first one, and [`EXITED`]. Written by the owner alone; atomic because a
    /// signal handler on the owner's thread may write in the middle of it. Always `Relaxed`.
    pub(crate) extra: AtomicU64,
    /// The number of the thread that has claimed the slot; 0: anybody may claim it.
    owner: AtomicU64,
    next: UnsafeCell<*mut Slot>,
    tid: stat::AtomicU64,
    name: parking_lot::Mutex<Option<Box<str>>>,
}

// SAFETY: `next` is the one field that is not Sync by itself. It is written once, before the slot is published, by the
// only thread that knows of it, and read by threads that acquired the publication (I).
unsafe impl Sync for Slot {}
// SAFETY: as above; a slot belongs to no thread, its contents are numbers and a string.
unsafe impl Send for Slot {}

/// A reader that keeps a grace period from completing, as [`Cookie::holdouts`](crate::Cookie::holdouts) shows it.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Holdout {
    /// The thread's number within this process.
    pub thread: u64,
    /// The operating system's thread id, 0 where it has none to tell.
    pub tid: u64,
    /// The thread's name, if it had one when it registered.
    pub name: Option<Box<str>>,
    /// The sequence number its section began under.
    pub since: u64,
    /// The thread has exited: a guard was leaked.
    pub exited: bool,
}

impl Slot {
    const_unless_loom! {
        /// A slot with the given sequence number and owner, on no list.
        pub(crate) fn new(seq: u64, owner: u64) -> Slot {
            Slot {
                seq: AtomicU64::new(seq),
                extra: AtomicU64::new(0),
                owner: AtomicU64::new(owner),
                next: UnsafeCell::new(ptr::null_mut()),
                tid: stat::AtomicU64::new(0),
                name: parking_lot::Mutex::new(None),
            }
        }
    }

    /// Whether the owner is inside a section. Exact for the owner, a snapshot for anybody else.
    #[inline]
    pub(crate) fn is_inside(&self) -> bool {
        // Relaxed: the owner reads its own store.
        self.seq.load(Ordering::Relaxed) != 0
    }

    /// From now on the last guard to go gives the slot back. Owner only.
    pub(crate) fn mark_exited(&self) {
        // Relaxed: owner-only word.
        self.extra.store(self.extra.load(Ordering::Relaxed) | EXITED, Ordering::Relaxed);
    }

    /// Describes the slot if it holds up number `n`.
    pub(crate) fn holdout(&self, n: u64) -> Option<Holdout> {
        // Relaxed: a report, nothing is freed on its strength.
        let since = self.seq.load(Ordering::Relaxed);
        (since != 0 && since < n).then(|| Holdout {
            // Relaxed: as above.
            thread: self.owner.load(Ordering::Relaxed),
            tid: self.tid.load(Relaxed),
            name: self.name.try_lock().and_then(|name| name.clone()),
            since,
            // Relaxed: as above.
            exited: self.extra.load(Ordering::Relaxed) & EXITED != 0,
        })
    }

    /// Notes who the owner is, for reports.
    fn describe(&self, name: Option<Box<str>>) {
        // Relaxed: a statistic.
        self.tid.store(os_thread_id(), Relaxed);
        *hold(&self.name) = name;
    }
}

/// The list of one engine's slots.
pub(crate) struct Registry {
    head: AtomicPtr<Slot>,
    /// How many slots are on the list.
    slots: stat::AtomicU64,
    /// About how many of them nobody owns: a hint that spares a new thread the walk.
    vacant: stat::AtomicU64,
}

impl Registry {
    const_unless_loom! {
        /// An empty list.
        pub(crate) fn new() -> Registry {
            Registry {
                head: AtomicPtr::new(ptr::null_mut()),
                slots: stat::AtomicU64::new(0),
                vacant: stat::AtomicU64::new(0),
            }
        }
    }

    /// A slot for the thread with the number `thread`: a vacant one, or a new one. `name` is for reports.
    ///
    /// Latches the membarrier mode, and fences between the claim and whatever the thread does next.
    #[cold]
    pub(crate) fn claim(&self, thread: u64, name: Option<Box<str>>) -> &Slot {
        membarrier::latch();
        let slot = self.claim_vacant(thread).unwrap_or_else(|| self.push(thread));
        slot.describe(name);
        membarrier::interrupt();
        // SeqCst: pairs with the fence in only_mine; a driver that misses this claim is seen by our first section (B).
        fence(Ordering::SeqCst);
        slot
    }

    fn claim_vacant(&self, thread: u64) -> Option<&Slot> {
        // Relaxed: a hint that spares the walk.
        if self.vacant.load(Relaxed) == 0 {
            return None;
        }
        self.iter().find(|slot| {
            // Relaxed: only to spare the line a failing exchange.
            let vacant = slot.owner.load(Ordering::Relaxed) == 0;
            // Acquire: pairs with the owner store of give_up (J).
            let claimed =
                vacant && slot.owner.compare_exchange(0, thread, Ordering::Acquire, Ordering::Relaxed).is_ok();
            if claimed {
                self.vacant.fetch_sub(1, Relaxed);
            }
            claimed
        })
    }

    fn push(&self, thread: u64) -> &Slot {
        let slot = Box::into_raw(Box::new(Slot::new(0, thread)));
        // Relaxed: the exchange below checks it, and its Release passes on what earlier pushes published (I).
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the slot is not published yet, nobody else knows its address.
            unsafe { (*slot).next.with_mut(|next| *next = head) };
            // Release: pairs with the head load in iter (I).
            match self.head.compare_exchange_weak(head, slot, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        // Relaxed: a statistic.
        self.slots.fetch_add(1, Relaxed);
        // SAFETY: slots are freed by Drop alone, which takes the registry by value.
        unsafe { &*slot }
    }

    /// Gives a slot up. Its owner calls this, outside any section, when it will not touch the slot again.
    pub(crate) fn give_up(&self, slot: &Slot) {
        // Relaxed: handed on by the Release below (J).
        slot.extra.store(0, Ordering::Relaxed);
        // Release: pairs with the exchange in claim_vacant (J), and with only_mine (C).
        slot.owner.store(0, Ordering::Release);
        self.vacant.fetch_add(1, Relaxed);
    }

    /// Whether no thread but `me` owns a slot, so that a fence of its own is all a driver needs.
    ///
    /// `true` stands in for a heavy fence: whoever claims a slot unseen by this call sees, in its first section, all
    /// that happened before the call.
    pub(crate) fn only_mine(&self, me: u64) -> bool {
        // SeqCst: pairs with the fence in claim (B).
        fence(Ordering::SeqCst);
        self.iter().all(|slot| {
            // Acquire: pairs with the owner store of give_up: that thread's sections happened before (C, J).
            let owner = slot.owner.load(Ordering::Acquire);
            owner == 0 || owner == me
        })
    }

    /// Whether the thread `me` is inside a section through any of its slots.
    pub(crate) fn is_inside(&self, me: u64) -> bool {
        // Relaxed: a thread looks for its own stores.
        self.iter().any(|slot| slot.owner.load(Ordering::Relaxed) == me && slot.is_inside())
    }

    /// How many slots there are, claimed or vacant.
    pub(crate) fn len(&self) -> u64 {
        // Relaxed: a statistic.
        self.slots.load(Relaxed)
    }

    /// The slots that are published now, latest first.
    pub(crate) fn iter(&self) -> Iter<'_> {
        // Acquire: pairs with the exchange in push (I). A driver comes here after its heavy fence.
        Iter { next: self.head.load(Ordering::Acquire), _registry: self }
    }

    /// The slots from `slot` on: what is left of a walk that stopped there.
    ///
    /// # Safety
    ///
    /// 1. `slot` is null, or was returned by an [`iter`](Registry::iter) of this registry.
    pub(crate) unsafe fn iter_from(&self, slot: *const Slot) -> Iter<'_> {
        Iter { next: slot.cast_mut(), _registry: self }
    }

    /// In a fork child: clears and gives up every slot but those of `me`, the one thread that is left.
    ///
    /// # Safety
    ///
    /// 1. The process has one thread, `me`.
    #[cfg(not(quietus_loom))]
    pub(crate) unsafe fn forked(&self, me: u64) {
        let mut vacant = 0;
        for slot in self.iter() {
            if slot.name.is_locked() {
                // SAFETY: by (1) its holder does not exist. It may have left half a name, which is leaked.
                unsafe {
                    slot.name.force_unlock();
                    ptr::write(slot.name.data_ptr(), None);
                }
            }
            // Relaxed: by (1) there is nobody to be ordered against; so for all below.
            if slot.owner.load(Ordering::Relaxed) == me {
                slot.tid.store(os_thread_id(), Relaxed);
                continue;
            }
            // Relaxed: as above.
            slot.seq.store(0, Ordering::Relaxed);
            slot.extra.store(0, Ordering::Relaxed);
            slot.owner.store(0, Ordering::Relaxed);
            vacant += 1;
        }
        // Relaxed: as above.
        self.vacant.store(vacant, Relaxed);
    }

    /// Ends every section there is.
    ///
    /// # Safety
    ///
    /// 1. Nothing is read through any of them any more.
    #[cfg(not(quietus_loom))]
    pub(crate) unsafe fn abandon_sections(&self) {
        for slot in self.iter() {
            // Release: pairs with the load in scan (C); the sections ended before the caller could know (contract 1).
            slot.seq.store(0, Ordering::Release);
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if cfg!(quietus_loom) && std::thread::panicking() {
            return; // A model has failed already; one more violation here would hide which.
        }
        // Acquire: pairs with the exchange in push (I).
        let mut at = self.head.load(Ordering::Acquire);
        while !at.is_null() {
            // SAFETY: every pointer on the list came from Box::into_raw in push, and is visited once. Nobody uses a
            // slot any more: guards borrow their engine, and an exiting thread finds that the engine is gone.
            let slot = unsafe { Box::from_raw(at) };
            // SAFETY: written before the slot was published, never since.
            at = slot.next.with(|next| unsafe { *next });
        }
    }
}

/// A walk along the list.
pub(crate) struct Iter<'r> {
    next: *mut Slot,
    _registry: &'r Registry,
}

impl<'r> Iterator for Iter<'r> {
    type Item = &'r Slot;

    fn next(&mut self) -> Option<&'r Slot> {
        // SAFETY: a slot that was published stays allocated as long as the registry (borrowed for 'r).
        let slot = unsafe { self.next.as_ref() }?;
        // SAFETY: written before the slot was published, never since; we acquired the publication (I).
        self.next = slot.next.with(|next| unsafe { *next });
        Some(slot)
    }
}

#[cfg(all(target_os = "linux", not(any(quietus_loom, miri))))]
fn os_thread_id() -> u64 {
    // SAFETY: gettid takes nothing and cannot fail.
    unsafe { libc::syscall(libc::SYS_gettid) as u64 }
}

#[cfg(not(all(target_os = "linux", not(any(quietus_loom, miri)))))]
fn os_thread_id() -> u64 {
    0
}
