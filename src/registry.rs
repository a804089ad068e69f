//! Who reads: one [`Slot`] per thread and engine, in chunks on a list that only ever grows.
//!
//! A thread that enters its first section claims a slot here; the engine's reader side writes to it, the driver of a
//! grace period scans the chunks. A slot is given up when its thread has exited **and** is unnested, and the next new
//! thread takes it over: ten thousand short threads share the few slots that were ever in use together. Slots are freed
//! with their registry and not before, so a pointer to one stays good as long as the engine does.
//!
//! # Layout
//!
//! A slot fills a pair of cache lines of its own. Its first two words are all that entering and leaving touch, and the first
//! all that a scan does. The slots of a [`Chunk`] lie side by side, so that a scan walks memory in order, and who owns them stands
//! apart, eight to a cache line: a thread that looks for itself, and a scan at vacant slots, touch no slot at all.
//!
//! # Ordering
//!
//! I: a push publishes a chunk's plain fields to whoever reads the head. J: giving up hands the slot's private words
//! to the thread that claims it. The owner's word carries J, and tells the driver which slots to look at. If it sees that nobody
//! else reads at all, it needs no membarrier. In both cases: each claim is followed by a SeqCst fence before the first section, the
//! driver's look at the owners is preceded by one.

use crate::membarrier;
use crate::sync::stat::Relaxed;
use crate::sync::{AtomicPtr, AtomicU64, Ordering, UnsafeCell, const_unless_loom, fence, stat};
use std::ptr;
use std::{iter, slice};

/// Slots of the first chunk: a domain of few threads costs little. Each further chunk has as many as there are already.
const FIRST: u64 = if cfg!(quietus_loom) { 1 } else { 4 };
/// Slots of a chunk at most: 64 KiB.
const MOST: u64 = if cfg!(quietus_loom) { 2 } else { 512 };

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
    /// How often the slot was claimed.
    claims: stat::AtomicU64,
    tid: stat::AtomicU64,
    name: parking_lot::Mutex<Option<Box<str>>>,
}

/// Slots that were allocated together, the last of them when all others had an owner. Does not move once it is on the list.
struct Chunk {
    /// The number of the thread that has claimed the slot at the same place; 0: anybody may claim it.
    owners: Box<[AtomicU64]>,
    slots: Box<[Slot]>,
    next: UnsafeCell<*mut Chunk>,
}

// SAFETY: `next` is the one field that is not Sync by itself. It is written once, before the chunk is published, by the
// only thread that knows of it, and read by threads that acquired the publication (I).
unsafe impl Sync for Chunk {}
// SAFETY: as above; a chunk belongs to no thread, its contents are numbers and strings.
unsafe impl Send for Chunk {}

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
        /// A slot with the given sequence number, in no chunk.
        pub(crate) fn new(seq: u64) -> Slot {
            Slot {
                seq: AtomicU64::new(seq),
                extra: AtomicU64::new(0),
                claims: stat::AtomicU64::new(0),
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
    fn holdout(&self, owner: &AtomicU64, n: u64) -> Option<Holdout> {
        // Relaxed: a report, nothing is freed on its strength.
        let since = self.seq.load(Ordering::Relaxed);
        (since != 0 && since < n).then(|| Holdout {
            // Relaxed: as above.
            thread: owner.load(Ordering::Relaxed),
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
        // Not waited for: whoever has it may be the thread that this handler has interrupted.
        if let Some(mut old) = self.name.try_lock() {
            *old = name;
        }
    }
}

impl Chunk {
    /// A chunk on no list, whose first slot is claimed by the thread with the number `thread`.
    fn new(len: u64, thread: u64) -> Chunk {
        Chunk {
            owners: (0..len).map(|at| AtomicU64::new(if at == 0 { thread } else { 0 })).collect(),
            slots: (0..len).map(|_| Slot::new(0)).collect(),
            next: UnsafeCell::new(ptr::null_mut()),
        }
    }

    /// Where in this chunk the slot is, if it is.
    fn place(&self, slot: *const Slot) -> Option<usize> {
        let at = slot.addr().wrapping_sub(self.slots.as_ptr().addr()) / size_of::<Slot>();
        (at < self.slots.len()).then_some(at)
    }

    /// The older chunk behind this one.
    fn next(&self) -> Option<&Chunk> {
        // SAFETY: written before the chunk was published, never since; we acquired the publication (I). It points to a chunk that
        // was published before, and is freed together with this one.
        self.next.with(|next| unsafe { (*next).as_ref() })
    }

    fn seats(&self) -> Seats<'_> {
        iter::zip(&self.owners, &self.slots)
    }
}

/// The list of one engine's slots.
pub(crate) struct Registry {
    head: AtomicPtr<Chunk>,
    /// How many slots the chunks have.
    slots: stat::AtomicU64,
    /// About how many of them somebody owns: a hint that spares a new thread the walk.
    claimed: stat::AtomicU64,
    /// How many of them have ever been claimed.
    used: stat::AtomicU64,
}

impl Registry {
    const_unless_loom! {
        /// An empty list.
        pub(crate) fn new() -> Registry {
            Registry {
                head: AtomicPtr::new(ptr::null_mut()),
                slots: stat::AtomicU64::new(0),
                claimed: stat::AtomicU64::new(0),
                used: stat::AtomicU64::new(0),
            }
        }
    }

    /// A slot for the thread with the number `thread`: a vacant one, or one of a new chunk. `name` is for reports.
    ///
    /// Latches the membarrier mode, and fences between the claim and whatever the thread does next. Waits for nobody; a signal
    /// handler may claim one in the middle of it.
    #[cold]
    pub(crate) fn claim(&self, thread: u64, name: Option<Box<str>>) -> &Slot {
        membarrier::latch();
        // Relaxed: a hint that spares the walk.
        let full = self.claimed.load(Relaxed) >= self.slots.load(Relaxed);
        let vacant = if full { None } else { self.claim_vacant(thread) };
        let slot = vacant.unwrap_or_else(|| self.push(thread));
        // Relaxed: a hint, and two statistics.
        self.claimed.fetch_add(1, Relaxed);
        if slot.claims.fetch_add(1, Relaxed) == 0 {
            self.used.fetch_add(1, Relaxed);
        }
        slot.describe(name);
        membarrier::interrupt();
        // SeqCst: pairs with the fence in only_mine; a driver that misses this claim is seen by our first section (B).
        fence(Ordering::SeqCst);
        slot
    }

    fn claim_vacant(&self, thread: u64) -> Option<&Slot> {
        let mut seats = self.iter();
        let seat = seats.find(|(owner, _)| {
            // Relaxed: only to spare the line a failing exchange.
            owner.load(Ordering::Relaxed) == 0
                // Acquire: pairs with the owner store of give_up (J).
                && owner.compare_exchange(0, thread, Ordering::Acquire, Ordering::Relaxed).is_ok()
        });
        seat.map(|(_, slot)| slot)
    }

    fn push(&self, thread: u64) -> &Slot {
        // Relaxed: a size. Threads that come at once may each make a chunk of it; all but one of them find room in that one's.
        let len = self.slots.load(Relaxed).clamp(FIRST, MOST);
        let mut chunk = Box::new(Chunk::new(len, thread));
        // Relaxed: the exchange below checks it, and its Release passes on what earlier pushes published (I).
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the chunk is not published yet, nobody else knows its address.
            chunk.next.with_mut(|next| unsafe { *next = head });
            let new = Box::into_raw(chunk);
            // Release: pairs with the head load in first (I).
            let pushed = self.head.compare_exchange(head, new, Ordering::Release, Ordering::Relaxed);
            let Err(now) = pushed else {
                // Relaxed: a hint.
                self.slots.fetch_add(len, Relaxed);
                // SAFETY: chunks are freed by Drop alone, which takes the registry by value.
                return unsafe { &(&(*new).slots)[0] };
            };
            // SAFETY: it came from into_raw above, and was not published.
            chunk = unsafe { Box::from_raw(new) };
            if let Some(slot) = self.claim_vacant(thread) {
                return slot;
            }
            head = now;
        }
    }

    /// Gives a slot up. Its owner calls this, outside any section, when it will not touch the slot again.
    pub(crate) fn give_up(&self, slot: &Slot) {
        let owner = self.chunks().find_map(|chunk| Some(&chunk.owners[chunk.place(slot)?]));
        // Relaxed: handed on by the Release below (J).
        slot.extra.store(0, Ordering::Relaxed);
        // Release: pairs with the exchange in claim_vacant (J), and with only_mine and claimed_from (C).
        owner.expect("a slot of this registry").store(0, Ordering::Release);
        // Relaxed: a hint.
        self.claimed.fetch_sub(1, Relaxed);
    }

    /// Whether no thread but `me` owns a slot, so that a fence of its own is all a driver needs.
    ///
    /// `true` stands in for a heavy fence: whoever claims a slot unseen by this call sees, in its first section, all
    /// that happened before the call.
    pub(crate) fn only_mine(&self, me: u64) -> bool {
        // SeqCst: pairs with the fence in claim (B).
        fence(Ordering::SeqCst);
        self.chunks().flat_map(|chunk| &chunk.owners).all(|owner| {
            // Acquire: pairs with the owner store of give_up: that thread's sections happened before (C, J).
            let owner = owner.load(Ordering::Acquire);
            owner == 0 || owner == me
        })
    }

    /// Whether the thread `me` is inside a section through any of its slots. Looks at all owners, eight to a cache line.
    pub(crate) fn is_inside(&self, me: u64) -> bool {
        // Relaxed: a thread looks for its own stores.
        self.iter().any(|(owner, slot)| owner.load(Ordering::Relaxed) == me && slot.is_inside())
    }

    /// How many slots are claimed, or were once.
    pub(crate) fn used(&self) -> u64 {
        // Relaxed: a statistic.
        self.used.load(Relaxed)
    }

    /// Who holds up number `n`.
    pub(crate) fn holdouts(&self, n: u64) -> Vec<Holdout> {
        self.iter().filter_map(|(owner, slot)| slot.holdout(owner, n)).collect()
    }

    /// The slots that somebody owns, from `slot` on, which was met on an earlier walk: what is left of that walk. All of them, if there is
    /// no such slot. For a driver, which comes here after its heavy fence.
    pub(crate) fn claimed_from(&self, slot: *const Slot) -> impl Iterator<Item = &Slot> {
        let seats = self.iter().from(slot).unwrap_or_else(|| self.iter());
        // Acquire: pairs with the owner store of give_up: that thread's sections happened before (C, J).
        seats.filter_map(|(owner, slot)| (owner.load(Ordering::Acquire) != 0).then_some(slot))
    }

    /// The chunks that are published now, latest first.
    fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        iter::successors(self.first(), |chunk| chunk.next())
    }

    fn first(&self) -> Option<&Chunk> {
        // Acquire: pairs with the exchange in push (I).
        let head = self.head.load(Ordering::Acquire);
        // SAFETY: a chunk that was published stays allocated as long as the registry, which is borrowed.
        unsafe { head.as_ref() }
    }

    /// All slots, and their owners.
    fn iter(&self) -> Iter<'_> {
        Iter { seats: iter::zip(&[], &[]), next: self.first() }
    }

    /// In a fork child: clears and gives up every slot but those of `me`, the one thread that is left.
    ///
    /// # Safety
    ///
    /// 1. The process has one thread, `me`.
    #[cfg(not(quietus_loom))]
    pub(crate) unsafe fn forked(&self, me: u64) {
        let mut mine = 0;
        for (owner, slot) in self.iter() {
            if slot.name.is_locked() {
                // SAFETY: by (1) its holder does not exist. It may have left half a name, which is leaked.
                unsafe {
                    slot.name.force_unlock();
                    ptr::write(slot.name.data_ptr(), None);
                }
            }
            // Relaxed: by (1) there is nobody to be ordered against; so for all below.
            if owner.load(Ordering::Relaxed) == me {
                slot.tid.store(os_thread_id(), Relaxed);
                mine += 1;
                continue;
            }
            // Relaxed: as above.
            slot.seq.store(0, Ordering::Relaxed);
            slot.extra.store(0, Ordering::Relaxed);
            owner.store(0, Ordering::Relaxed);
        }
        // Relaxed: as above.
        self.claimed.store(mine, Relaxed);
    }

    /// Ends every section there is.
    ///
    /// # Safety
    ///
    /// 1. Nothing is read through any of them any more.
    #[cfg(not(quietus_loom))]
    pub(crate) unsafe fn abandon_sections(&self) {
        for (_, slot) in self.iter() {
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
            let chunk = unsafe { Box::from_raw(at) };
            // SAFETY: written before the chunk was published, never since.
            at = chunk.next.with(|next| unsafe { *next });
        }
    }
}

/// Slots and their owners, in the order of memory.
type Seats<'r> = iter::Zip<slice::Iter<'r, AtomicU64>, slice::Iter<'r, Slot>>;

/// A walk along the list.
struct Iter<'r> {
    seats: Seats<'r>,
    next: Option<&'r Chunk>,
}

impl Iter<'_> {
    /// What is left when `slot` is the next.
    fn from(mut self, slot: *const Slot) -> Option<Self> {
        while let Some(chunk) = self.next {
            self.next = chunk.next();
            if let Some(place) = chunk.place(slot) {
                self.seats = iter::zip(&chunk.owners[place..], &chunk.slots[place..]);
                return Some(self);
            }
        }
        None
    }
}

impl<'r> Iterator for Iter<'r> {
    type Item = (&'r AtomicU64, &'r Slot);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(seat) = self.seats.next() {
                return Some(seat);
            }
            let chunk = self.next?;
            self.next = chunk.next();
            self.seats = chunk.seats();
        }
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
