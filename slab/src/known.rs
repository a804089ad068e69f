//! Which addresses belong to a segment of slabs that is mapped: one bit for each 4 MiB of address space. (Large objects are nobody's: what
//! lies beside one in its 4 MiB may be the system's.)
//!
//! Kept by [`segment`](crate::segment); asked by [`debug`](crate::debug) for addresses that may be anybody's, before anything is read there.
//!
//! # Ordering
//! Release to set, Acquire to ask: the segment's descriptors. Whether an address is known while its segment comes or goes is nobody's to say.

use crate::lock::once;
use crate::os::Range;
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Release},
};

/// Bytes of address space that a bit speaks for: a segment's.
pub(crate) const UNIT: usize = 4 << 20;
/// Addresses below this can be known.
const SPACE: u64 = 1 << 48;
const BITS: usize = (SPACE / UNIT as u64) as usize;

/// Was a segment mapped that cannot be known?
static UNKNOWN: AtomicBool = AtomicBool::new(false);

/// The bits, in lazily backed memory: a page of them speaks for 128 GiB. `None`: no address space for them.
fn bits() -> Option<&'static [AtomicU64]> {
    static BITMAP: OnceLock<Option<Range>> = OnceLock::new();
    let range = once(&BITMAP, || Range::reserve(BITS / 8, BITS / 8)).as_ref()?;
    // SAFETY: zeroed memory of that size, aligned to a page, immortal with the static, accessed as atomics only.
    Some(unsafe { std::slice::from_raw_parts(range.base().cast::<AtomicU64>(), BITS / 64) })
}

fn word_and_bit(address: usize) -> Option<(&'static AtomicU64, u64)> {
    let n = address / UNIT;
    Some((bits()?.get(n / 64)?, 1 << (n % 64)))
}

/// A segment begins here, from now on, or no more.
pub(crate) fn set(base: usize, mapped: bool) {
    match word_and_bit(base) {
        // Release: pairs with `is_foreign`.
        Some((word, bit)) if mapped => drop(word.fetch_or(bit, Release)),
        // Release: as above.
        Some((word, bit)) => drop(word.fetch_and(!bit, Release)),
        // Release: as above.
        None => UNKNOWN.store(true, Release),
    }
}

/// Is it certain that no segment is mapped where this address points?
pub(crate) fn is_foreign(address: *mut u8) -> bool {
    match word_and_bit(address.addr()) {
        // Acquire: pairs with `set`.
        Some((word, bit)) => word.load(Acquire) & bit == 0,
        // Acquire: as above.
        None => !UNKNOWN.load(Acquire),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_known_as_long_as_they_are_mapped() {
        let at = |n: usize| std::ptr::without_provenance_mut::<u8>(n);
        // High enough for nobody's mapping, and inside the space.
        let base = (1usize << 47) + 40 * UNIT;
        assert!(is_foreign(at(base)));
        set(base, true);
        assert!(!is_foreign(at(base)) && !is_foreign(at(base + UNIT - 1)));
        assert!(is_foreign(at(base - 1)) && is_foreign(at(base + UNIT)));
        set(base, false);
        assert!(is_foreign(at(base)));
        assert!(is_foreign(at(usize::MAX)), "none was mapped there");
        set(usize::MAX & !(UNIT - 1), true);
        assert!(!is_foreign(at(usize::MAX)), "one was, so nothing is certain");
        UNKNOWN.store(false, Release);
    }
}
