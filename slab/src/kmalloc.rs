//! The untyped door: memory by layout, as `kmalloc` and `kfree` give it.
//!
//! Handed to by users, [`slab_box`](crate::slab_box) and `quietus`; hands to [`front`](crate::front), [`bulk`](crate::bulk) and
//! [`large`](crate::large).

use crate::cache::{Core, Recipe, Tables};
use crate::lock::{self, Lock};
use crate::percpu::Word;
use crate::size_class::{CLASSES, STRIDES, class_of};
use crate::slab::Slab;
use crate::{AllocError, cpu, front, large, segment};
use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

/// Objects up to this size share kvfree's mixed lane; larger ones have a lane for each class, whose blocks hold fewer.
const MIXED_MOST: u32 = 1024;

/// The caches of the size classes, made at first use.
static CACHES: [AtomicPtr<Core>; CLASSES] = [const { AtomicPtr::new(null_mut()) }; CLASSES];
/// Their per-CPU words; [`Word::NONE`] until they are made, so that a fast path need not ask.
static WORDS: [AtomicU32; CLASSES] = [const { AtomicU32::new(Word::NONE.get()) }; CLASSES];
static MAKING: Lock<()> = Lock::new(());
static POISONED: AtomicBool = AtomicBool::new(false);

fn cache(class: usize) -> Result<&'static Core, AllocError> {
    // Acquire: pairs with the Release in `make`: the core's fields.
    // SAFETY: cores live for ever.
    match unsafe { CACHES[class].load(Acquire).as_ref() } {
        Some(core) => Ok(core),
        None => make(class),
    }
}

#[cold]
fn make(class: usize) -> Result<&'static Core, AllocError> {
    const NAMES: [&str; CLASSES] = [
        "kmalloc-16",
        "kmalloc-32",
        "kmalloc-48",
        "kmalloc-64",
        "kmalloc-80",
        "kmalloc-96",
        "kmalloc-112",
        "kmalloc-128",
        "kmalloc-160",
        "kmalloc-192",
        "kmalloc-224",
        "kmalloc-256",
        "kmalloc-320",
        "kmalloc-384",
        "kmalloc-448",
        "kmalloc-512",
        "kmalloc-640",
        "kmalloc-768",
        "kmalloc-896",
        "kmalloc-1024",
        "kmalloc-1280",
        "kmalloc-1536",
        "kmalloc-1792",
        "kmalloc-2048",
        "kmalloc-2560",
        "kmalloc-3072",
        "kmalloc-3584",
        "kmalloc-4096",
        "kmalloc-5120",
        "kmalloc-6144",
        "kmalloc-7168",
        "kmalloc-8192",
        "kmalloc-10240",
        "kmalloc-12288",
        "kmalloc-14336",
        "kmalloc-16384",
        "kmalloc-20480",
        "kmalloc-24576",
        "kmalloc-28672",
        "kmalloc-32768",
    ];
    if lock::held() {
        return Err(AllocError); // in a signal handler that interrupted the allocator
    }
    let tables = match tables_class(cpu::topology().nodes) {
        None => Tables::None,
        Some(host) if host == class => Tables::Own,
        Some(host) => Tables::Of(cache(host)?),
    };
    let _making = MAKING.lock();
    // Acquire: as in `cache`. SAFETY: cores live for ever.
    if let Some(core) = unsafe { CACHES[class].load(Acquire).as_ref() } {
        return Ok(core);
    }
    let core = Core::create(&Recipe {
        name: NAMES[class],
        stride: STRIDES[class],
        // Relaxed: a setting, read when a class is made.
        poison: POISONED.load(Relaxed),
        mixed: STRIDES[class] <= MIXED_MOST,
        tables,
        ..Recipe::default()
    })?;
    // Release: pairs with the Acquire in `cache`.
    CACHES[class].store(std::ptr::from_ref(core).cast_mut(), Release);
    // Release: pairs with the Acquire in `alloc`.
    WORDS[class].store(core.word().get(), Release);
    Ok(core)
}

/// The class that tables for so many nodes are objects of; one node needs none.
fn tables_class(nodes: u16) -> Option<usize> {
    Layout::array::<u32>(usize::from(nodes)).ok().filter(|_| nodes > 1).and_then(class_of)
}

/// The size class that tables for so many nodes are objects of.
pub(crate) fn tables(nodes: u16) -> Tables {
    tables_class(nodes).and_then(|class| cache(class).ok()).map_or(Tables::None, Tables::Of)
}

/// From now on, size classes fill freed objects with [`POISON`](crate::POISON) (those already in use do not): a debugging aid.
/// Such classes have no per-CPU blocks and are several times slower.
pub fn set_poison(yes: bool) {
    // Relaxed: a setting, read when a class is made.
    POISONED.store(yes, Relaxed);
}

/// Memory of this layout, uninitialised. Zero-sized layouts get an address of their own. Never blocks up to 32 KiB except for
/// the node's lock when the CPU's blocks are empty; above, one mapping each. Errors: the page source fails; the alignment is
/// above 2 MiB; the size overflows.
#[inline]
pub fn alloc(layout: Layout) -> Result<NonNull<u8>, AllocError> {
    let Some(class) = class_of(layout) else { return large::alloc(layout) };
    // Acquire: pairs with the Release in `make`.
    // SAFETY: stored from `Word::get`.
    match NonNull::new(unsafe { Word::from_raw(WORDS[class].load(Acquire)) }.pop()) {
        Some(p) => Ok(p),
        None => alloc_slow(class),
    }
}

#[cold]
#[inline(never)]
fn alloc_slow(class: usize) -> Result<NonNull<u8>, AllocError> {
    NonNull::new(cache(class)?.alloc_slow()).ok_or(AllocError)
}

/// Fills `out` with pointers to memory of this layout, from the front; returns how many could be had. Those of a size class come in runs,
/// as many as the CPU's block has by one copy: a nanosecond each, or less. Blocks as [`alloc`] does.
pub fn alloc_bulk(layout: Layout, out: &mut [MaybeUninit<NonNull<u8>>]) -> usize {
    let Some(class) = class_of(layout) else {
        let each = |slot: &mut MaybeUninit<NonNull<u8>>| large::alloc(layout).map(|p| slot.write(p)).is_ok();
        return out.iter_mut().map_while(|slot| each(slot).then_some(())).count();
    };
    // SAFETY: a `NonNull` is a pointer; what is written there is never null.
    let out = unsafe { &mut *(std::ptr::from_mut(out) as *mut [MaybeUninit<*mut u8>]) };
    // Acquire: pairs with the Release in `make`.
    // SAFETY: stored from `Word::get`.
    let mut n = unsafe { Word::from_raw(WORDS[class].load(Acquire)) }.pop_run(out);
    if n == out.len() {
        return n;
    }
    if let Ok(core) = cache(class) {
        core.alloc_run(out, &mut n);
    }
    n
}

/// Frees memory of [`alloc`] or of any cache, by its address.
///
/// # Safety
/// 1. `ptr` is an object of this allocator that nobody uses any more.
#[inline]
pub unsafe fn free(ptr: NonNull<u8>) {
    // SAFETY: by (1).
    unsafe { front::free(ptr.as_ptr()) }
}

/// Bytes that may be used from `ptr` on: the layout's size, rounded up to its class.
///
/// # Safety
/// 1. `ptr` is a live object of this allocator.
pub unsafe fn usable_size(ptr: NonNull<u8>) -> usize {
    // SAFETY: by (1).
    let slab = unsafe { segment::slab_of(ptr.as_ptr()) };
    match slab.cache() {
        Some(core) => core.usable() as usize,
        None => {
            // Relaxed: constant while the object is out.
            let bytes = segment::Segment::of(slab).bytes.load(Relaxed);
            bytes - (ptr.as_ptr().addr() & (segment::SEGMENT - 1))
        }
    }
}

/// The slab of an object: what `kvfree` asks which lane it takes.
///
/// # Safety
/// 1. `ptr` is an object of this allocator.
#[inline(always)]
pub unsafe fn slab(ptr: *mut u8) -> &'static Slab {
    // SAFETY: by (1).
    unsafe { segment::slab_of(ptr) }
}

/// Gives what the size classes hold free back to the page source. Returns bytes. Takes locks; one membarrier a class in use.
pub fn shrink() -> usize {
    // Acquire: as in `cache`. SAFETY: cores live for ever.
    CACHES.iter().filter_map(|c| unsafe { c.load(Acquire).as_ref() }).map(Core::shrink).sum()
}
