//! [`Deferred`]: a function to be called once, as the two words that a block has room for: a pointer and a function.
//!
//! Handed to by `guard`; handed on to `global`.
//!
//! # Layout
//! A closure without size needs no word. One that is a single word (a pointer to a node, as in most structures) *is* the word, and
//! nothing is allocated for it. Any other goes to memory of quietus's allocator, which costs a few nanoseconds.

use crate::pointable::Pointable;
use quietus::slab::SlabBox;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ptr::NonNull;

/// What a closure is taken to let go of, in bytes, beside its own memory: it does not say. About a node of a list or tree.
const GUESS: usize = 128;

/// One call, to be made once.
pub(crate) struct Deferred {
    pub(crate) word: NonNull<u8>,
    pub(crate) function: unsafe fn(*mut u8),
    /// Bytes that it lets go of, for the budget.
    pub(crate) bytes: usize,
}

impl Deferred {
    /// A closure. The call is valid wherever and whenever the closure is.
    pub(crate) fn new<F: FnOnce()>(f: F) -> Deferred {
        if size_of::<F>() == 0 {
            std::mem::forget(f);
            return Deferred { word: NonNull::dangling(), function: call_nothing::<F>, bytes: GUESS };
        }
        match word_of(f) {
            Ok(word) => Deferred { word, function: call_word::<F>, bytes: GUESS },
            Err(f) => {
                let place = SlabBox::into_raw(SlabBox::new(f));
                Deferred { word: place.cast(), function: call_place::<F>, bytes: GUESS + size_of::<F>() }
            }
        }
    }

    /// The end of an object, by its address.
    ///
    /// # Safety
    /// 1. `address` is not 0, and that of an object of `T::init`; nobody uses it when the call is made.
    pub(crate) unsafe fn destroy<T: ?Sized + Pointable>(address: usize) -> Deferred {
        let word = std::ptr::with_exposed_provenance_mut(address);
        // SAFETY: not null by (1).
        let word = unsafe { NonNull::new_unchecked(word) };
        Deferred { word, function: destroy::<T>, bytes: T::BYTES.max(GUESS) }
    }
}

/// A closure that is one word, as that word; else the closure again. (A word of 0 would not be a pointer.)
#[inline]
fn word_of<F>(f: F) -> Result<NonNull<u8>, F> {
    // On other targets nothing settles what padding is: see below.
    if cfg!(not(target_arch = "x86_64"))
        || size_of::<F>() != size_of::<usize>()
        || align_of::<F>() > align_of::<usize>()
    {
        return Err(f);
    }
    let f = ManuallyDrop::new(f);
    // SAFETY: of the same size; MaybeUninit makes no demands on its bytes.
    let bytes = unsafe { (&raw const f).cast::<MaybeUninit<usize>>().read_unaligned() };
    let word = settle(bytes);
    match NonNull::new(std::ptr::with_exposed_provenance_mut(word)) {
        Some(word) => Ok(word),
        None => Err(ManuallyDrop::into_inner(f)),
    }
}

/// A word whose bytes may include padding, as a number: padding is whatever it happens to be in a register.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn settle(bytes: MaybeUninit<usize>) -> usize {
    let word: usize;
    // SAFETY: no instruction; what comes out of the block is a number to the compiler, whatever went in.
    unsafe {
        std::arch::asm!("/* {0} */", inlateout(reg) bytes => word, options(pure, nomem, nostack, preserves_flags));
    }
    word
}

#[cfg(not(target_arch = "x86_64"))]
fn settle(_: MaybeUninit<usize>) -> usize {
    0
}

unsafe fn call_nothing<F: FnOnce()>(_: *mut u8) {
    // SAFETY: F has no size, and the value that was forgotten is taken up again once.
    let f = unsafe { NonNull::<F>::dangling().read() };
    f();
}

unsafe fn call_word<F: FnOnce()>(word: *mut u8) {
    // SAFETY: the bytes of an F, moved out once; what is a pointer in them has its provenance from `word_of`.
    let f = unsafe { (&raw const word).cast::<F>().read_unaligned() };
    f();
}

unsafe fn call_place<F: FnOnce()>(place: *mut u8) {
    // SAFETY: from `into_raw`, and each call is made once.
    let place = unsafe { SlabBox::from_raw(NonNull::new_unchecked(place.cast::<F>())) };
    SlabBox::into_inner(place)();
}

unsafe fn destroy<T: ?Sized + Pointable>(word: *mut u8) {
    // SAFETY: the contract of `Deferred::destroy`.
    unsafe { T::drop(word.expose_provenance()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    fn call(d: &Deferred) {
        // SAFETY: made by `new`, and called once in each test.
        unsafe { (d.function)(d.word.as_ptr()) }
    }

    #[test]
    fn a_closure_of_one_word_is_not_allocated() {
        let seen = AtomicUsize::new(0);
        let r = &seen;
        let d = Deferred::new(|| r.store(1, Relaxed));
        assert!(cfg!(not(target_arch = "x86_64")) || d.word.as_ptr().cast_const().cast() == std::ptr::from_ref(r));
        call(&d);
        assert_eq!(seen.load(Relaxed), 1);
    }

    #[test]
    fn closures_of_all_sizes_are_called_with_what_they_hold() {
        static SEEN: AtomicUsize = AtomicUsize::new(0);
        let (zero, one, two) = (0usize, 7usize, [1usize, 2]);
        let small = (3u8, 4u32);
        let add = |n: usize| {
            SEEN.fetch_add(n, Relaxed);
        };
        let d = [
            Deferred::new(move || add(1)),
            Deferred::new(move || add(10 + zero)),
            Deferred::new(move || add(one * 100)),
            Deferred::new(move || add(two[0] * 1_000 + two[1] * 10_000)),
            Deferred::new(move || {
                let small = small;
                add(usize::from(small.0) * 100_000 + small.1 as usize * 1_000_000);
            }),
        ];
        d.iter().for_each(call);
        assert_eq!(SEEN.load(Relaxed), 4_321_711);
    }
}
