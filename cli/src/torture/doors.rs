//! The doors: every way in which an object can be made, retired, and freed.
//!
//! `crowd` and `stall` go through them, `barriers` through some. A door more is a line in [`Door`] and one in each `match`.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use quietus::kvfree::{Callback, RcuHead};
use quietus::slab::{self, Cache, FailingSource, SlabBox};
use quietus::{Domain, kvfree_rcu};

use super::flavours::Flavour;
use super::object::{Counted, Head, Headed, Plain};
use super::tally::{self, Count, named};

named! {
    /// How an object ends.
    Door {
        Retire => "retire",
        RetireIn => "retire_in",
        Poisoned => "retire, poisoned",
        RetireDrop => "retire, destructor",
        RetireInDrop => "retire_in, destructor",
        PoisonedDrop => "retire, poisoned, destructor",
        Class => "retire, size class, destructor",
        Pointer => "retire_ptr",
        Large => "retire_ptr, large",
        Scarce => "retire, pages that fail",
        Box => "retire_box",
        Linked => "retire_linked",
        LinkedBox => "retire_linked_box",
        Kvfree => "kvfree_rcu",
        KvfreeHead => "kvfree_rcu, head",
        CallHead => "call_head",
        Defer => "defer",
        Cookie => "cookie, then free",
        Synchronize => "synchronize, then free",
    }
}

impl Door {
    /// Whether whoever goes through it waits for a grace period.
    pub(super) fn waits(self) -> bool {
        matches!(self, Door::Cookie | Door::Synchronize)
    }

    /// Whether its objects have no destructor and fill their blocks fast.
    pub(super) fn is_large(self) -> bool {
        self == Door::Large
    }
}

/// What the pages of one cache come from.
pub(super) static SCARCE: FailingSource = FailingSource::new(isize::MAX >> 1);
/// Bytes of a large object.
const LARGE: usize = 40 << 10;

static USED: [AtomicU64; Door::ALL.len()] = [const { AtomicU64::new(0) }; Door::ALL.len()];

/// How many have gone through each door.
pub(super) fn used() -> impl Iterator<Item = (Door, u64)> {
    Door::ALL.iter().map(|&door| (door, USED[door as usize].load(Relaxed)))
}

/// The caches that the objects come from.
pub(super) struct House {
    pub(super) plain: Cache<Plain>,
    poisoned: Cache<Plain>,
    scarce: Cache<Plain>,
    pub(super) counted: Cache<Counted>,
    poisoned_counted: Cache<Counted>,
    headed: Cache<Headed>,
}

impl House {
    pub(super) fn new() -> House {
        let built = "few caches, of small objects";
        House {
            plain: Cache::new("torture-plain"),
            poisoned: Cache::builder("torture-poisoned").poison(true).build().expect(built),
            scarce: Cache::builder("torture-scarce").pages(&SCARCE).build().expect(built),
            counted: Cache::new("torture-counted"),
            poisoned_counted: Cache::builder("torture-poisoned-counted").poison(true).build().expect(built),
            headed: Cache::new("torture-headed"),
        }
    }

    /// A new object for a door; none if memory was refused, or if too many are not free.
    pub(super) fn make(&self, door: Door, owner: u64) -> Option<NonNull<Head>> {
        let plain = || Plain::new(Head::plain(owner));
        let counted = || Head::counted(owner).map(|head| Counted { head });
        let headed = || Head::counted(owner).map(Headed::new);
        Some(match door {
            Door::Retire | Door::RetireIn | Door::Kvfree | Door::Cookie => {
                SlabBox::into_raw(self.plain.alloc(plain())).cast()
            }
            Door::Poisoned | Door::Synchronize => SlabBox::into_raw(self.poisoned.alloc(plain())).cast(),
            Door::Scarce => match self.scarce.try_alloc(plain()) {
                Ok(object) => SlabBox::into_raw(object).cast(),
                Err(_) => {
                    tally::add(Count::NoMemory, 1);
                    return None;
                }
            },
            Door::RetireDrop | Door::RetireInDrop | Door::Defer => {
                SlabBox::into_raw(self.counted.alloc(counted()?)).cast()
            }
            Door::PoisonedDrop => SlabBox::into_raw(self.poisoned_counted.alloc(counted()?)).cast(),
            Door::Class => SlabBox::into_raw(SlabBox::new(counted()?)).cast(),
            Door::Pointer => SlabBox::into_raw(SlabBox::new(plain())).cast(),
            Door::Large => {
                let layout = Layout::from_size_align(LARGE, align_of::<Head>()).expect("constants that are right");
                let object = slab::alloc(layout).ok()?.cast();
                // SAFETY: fresh memory, larger than a head, aligned for one.
                unsafe { object.write(Head::plain(owner)) };
                object
            }
            Door::Box => NonNull::from(Box::leak(Box::new(counted()?))).cast(),
            Door::Linked | Door::KvfreeHead | Door::CallHead => SlabBox::into_raw(self.headed.alloc(headed()?)).cast(),
            Door::LinkedBox => NonNull::from(Box::leak(Box::new(headed()?))).cast(),
        })
    }

    /// Retires an object, or waits and frees it.
    ///
    /// # Safety
    /// 1. `object` comes from `make` for this door and this owner, is ended once, and only sections of this domain that are open now still
    ///    see it.
    /// 2. If the door waits, the thread is outside sections.
    pub(super) unsafe fn end<F: Flavour>(&self, domain: &Domain<F>, door: Door, owner: u64, object: NonNull<Head>) {
        USED[door as usize].fetch_add(1, Relaxed);
        // SAFETY: by (1) it is alive, and whoever still sees it only loads.
        let head = unsafe { object.as_ref() };
        head.retired(owner);
        // SAFETY: by (1), and by `make`, which says what each door's objects are.
        unsafe {
            match door {
                Door::Retire | Door::Poisoned | Door::Scarce => domain.retire(object.cast::<Plain>()),
                Door::RetireIn => domain.retire_in(&self.plain, object.cast::<Plain>()),
                Door::RetireInDrop => domain.retire_in(&self.counted, object.cast::<Counted>()),
                Door::RetireDrop | Door::PoisonedDrop | Door::Class => domain.retire(object.cast::<Counted>()),
                Door::Pointer | Door::Large => domain.retire_ptr(object.cast()),
                Door::Box => domain.retire_box(object.cast::<Counted>()),
                Door::Linked => domain.retire_linked(object.cast::<Headed>()),
                Door::LinkedBox => domain.retire_linked_box(object.cast::<Headed>()),
                Door::Kvfree => domain.kvfree_rcu(object.cast::<Plain>().as_ptr()),
                Door::KvfreeHead => kvfree_rcu!(domain => object.cast::<Headed>().as_ptr(), rcu),
                Door::CallHead => {
                    static DROP: Callback = Callback::new(drop_headed, size_of::<Headed>());
                    let rcu = object.byte_add(std::mem::offset_of!(Headed, rcu)).cast();
                    domain.call_head(rcu, &DROP);
                }
                Door::Defer => {
                    let object = Owned(object.cast());
                    domain.defer(move || object.end());
                }
                Door::Cookie => {
                    let cookie = domain.cookie();
                    while !cookie.wait_timeout(Duration::from_millis(1)) {
                        tally::add(Count::Timeouts, 1);
                        thread::yield_now();
                    }
                    head.elapsed();
                    drop(SlabBox::from_raw(object.cast::<Plain>()));
                }
                Door::Synchronize => {
                    domain.synchronize();
                    head.elapsed();
                    drop(SlabBox::from_raw(object.cast::<Plain>()));
                }
            }
        }
    }

    /// What is wrong with the books of the caches, when everything made has ended.
    pub(super) fn audit(&self) -> Vec<String> {
        let stats = [
            self.plain.stats(),
            self.poisoned.stats(),
            self.scarce.stats(),
            self.counted.stats(),
            self.poisoned_counted.stats(),
            self.headed.stats(),
        ];
        let wrong = stats.iter().filter(|stats| (stats.live, stats.refused) != (0, 0));
        wrong.map(|s| format!("{}: {} objects live, {} frees refused", s.name, s.live, s.refused)).collect()
    }
}

/// An object on its way into a closure.
struct Owned(NonNull<Counted>);

// SAFETY: it is retired: its owner is the closure, wherever that runs.
unsafe impl Send for Owned {}

impl Owned {
    fn end(self) {
        // SAFETY: made by `make` from a cache, and ended by this alone.
        drop(unsafe { SlabBox::from_raw(self.0) });
    }
}

/// The callback of `call_head`.
///
/// # Safety
/// 1. `rcu` is the head of a `Headed` in slab memory that nobody uses any more.
unsafe fn drop_headed(rcu: NonNull<RcuHead>) {
    // SAFETY: by (1); the pointer was made from the object's.
    drop(unsafe { SlabBox::from_raw(Headed::around(rcu)) });
}
