//! [`DebugFlags`], and what a cache is to have checked.
//!
//! Handed to by [`typed`](crate::typed)'s builder ([`Wish`]); read by [`life`](crate::life) when a cache is made ([`Plan`]).
//!
//! # Ordering
//! Relaxed: a plan is set when its cache is made, before the handle or an object is handed out. The seed is a number of nobody's.

use super::env;
use super::sheet::Sheets;
use super::zones;
use crate::segment::SLAB_BYTES;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::ops::BitOr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

/// What a debugging cache checks, by the letters of the kernel's `slab_debug`. Pointers that are freed are checked whatever is set:
/// foreign and interior ones, double frees, objects of another cache.
///
/// ```
/// use quietus_slab::DebugFlags;
/// let flags = DebugFlags::RED_ZONES | DebugFlags::OWNERS;
/// assert_eq!((flags.to_string(), flags.contains(DebugFlags::POISON)), ("ZU".into(), false));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct DebugFlags(u8);

impl DebugFlags {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// `F`: the slab's count of free objects agrees with its bitmap, each time an object comes or goes (`SLAB_CONSISTENCY_CHECKS`).
    pub const CONSISTENCY: Self = Self(1);
    /// `Z`: bytes before and behind each object that nobody may write (`SLAB_RED_ZONE`). Left out where they would not fit 64 KiB.
    pub const RED_ZONES: Self = Self(2);
    /// `P`: free objects are filled, and looked at before they are handed out again, or their slab leaves the cache (`SLAB_POISON`).
    pub const POISON: Self = Self(4);
    /// `U`: who allocated and freed each object, with backtraces (`SLAB_STORE_USER`). Costs microseconds.
    pub const OWNERS: Self = Self(8);
    /// All four: what `slab_debug` without letters means.
    pub const ALL: Self = Self(15);
    /// `H`, a letter of ours: hardened.
    pub(super) const HARDENED: Self = Self(16);
    /// `X`, a letter of ours: abort on corruption.
    pub(super) const ABORT: Self = Self(32);
    /// The letters, by bit.
    pub(super) const LETTERS: [(char, Self); 6] = [
        ('F', Self::CONSISTENCY),
        ('Z', Self::RED_ZONES),
        ('P', Self::POISON),
        ('U', Self::OWNERS),
        ('H', Self::HARDENED),
        ('X', Self::ABORT),
    ];

    /// These with or without `flag`.
    pub(super) const fn with(self, flag: Self, yes: bool) -> Self {
        if yes { Self(self.0 | flag.0) } else { Self(self.0 & !flag.0) }
    }

    /// Is all of `other` among these?
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for DebugFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for DebugFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Self::LETTERS.iter().filter(|(_, flag)| self.contains(*flag)).try_for_each(|(letter, _)| write!(f, "{letter}"))
    }
}

impl fmt::Debug for DebugFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DebugFlags({self})")
    }
}

/// What the builder of a cache asks for.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wish {
    pub(crate) flags: DebugFlags,
    /// Of the type; 0: the stride, and what divides it.
    pub(crate) size: u32,
    pub(crate) align: u32,
    /// Free objects keep their values, and have to: no poison.
    pub(crate) keeps: bool,
}

/// What a cache has.
#[derive(Default)]
pub(crate) struct Plan {
    flags: AtomicU8,
    /// Bytes before each object.
    lead: AtomicU32,
    /// Bytes of an object.
    size: AtomicU32,
    seed: AtomicU64,
    pub(super) sheets: Sheets,
}

impl Plan {
    /// Settles what a new cache has: the builder's wish and what the environment says of its name. Returns its stride, and whether
    /// freed objects are to be filled without being looked at.
    pub(crate) fn set(&self, name: &str, wish: Wish, stride: u32, poison: bool) -> (u32, bool) {
        let mut flags = wish.flags | env::flags_of(name);
        if flags == DebugFlags::ABORT {
            flags = DebugFlags::NONE; // nothing is checked
        }
        let checked = flags != DebugFlags::NONE;
        if checked && poison {
            flags = flags | DebugFlags::POISON;
        }
        flags = flags.with(DebugFlags::POISON, flags.contains(DebugFlags::POISON) && !wish.keeps);
        let size = if wish.size == 0 && wish.align == 0 { stride } else { wish.size };
        let align = if wish.align == 0 { 1 << stride.trailing_zeros() } else { wish.align };
        let (mut lead, mut step) = (0, stride);
        if flags.contains(DebugFlags::RED_ZONES) {
            match zones::layout(size, align) {
                Some(zones) => (lead, step) = zones,
                None => flags = flags.with(DebugFlags::RED_ZONES, false),
            }
        }
        debug_assert!(step as usize <= SLAB_BYTES && lead < step);
        self.flags.store(flags.0, Relaxed);
        self.lead.store(lead, Relaxed);
        self.size.store(size, Relaxed);
        if flags.contains(DebugFlags::HARDENED) {
            self.seed.store(RandomState::new().hash_one(name), Relaxed);
        }
        (step, poison && !checked)
    }

    pub(crate) fn flags(&self) -> DebugFlags {
        DebugFlags(self.flags.load(Relaxed))
    }
    pub(crate) fn has(&self, flag: DebugFlags) -> bool {
        self.flags().contains(flag)
    }
    /// Is anything checked?
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.flags.load(Relaxed) != 0
    }
    pub(crate) fn is_hardened(&self) -> bool {
        self.has(DebugFlags::HARDENED)
    }
    /// Does each slab have a [`Sheet`](super::sheet::Sheet)?
    pub(crate) fn has_sheets(&self) -> bool {
        self.flags.load(Relaxed) & (DebugFlags::ALL.0) != 0
    }
    /// Bytes between the start of a slab and its first object.
    pub(crate) fn lead(&self) -> u32 {
        self.lead.load(Relaxed)
    }
    /// Bytes of an object that are the user's.
    pub(crate) fn size(&self) -> u32 {
        self.size.load(Relaxed)
    }

    /// Where in a slab to look for a free object first: anywhere in a hardened cache. Enough to make addresses hard to guess; not for
    /// cryptography (splitmix64 of a secret seed).
    pub(crate) fn pick(&self) -> Option<u32> {
        if !self.is_hardened() {
            return None;
        }
        let mut z = self.seed.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(((z ^ z >> 31) >> 32) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn red_zones_are_left_out_where_they_do_not_fit() {
        let plan = Plan::default();
        let wish = |size, align| Wish { flags: DebugFlags::ALL, size, align, keeps: false };
        let (stride, fill) = plan.set("narrow", wish(13, 1), 16, true);
        assert!(stride >= 13 + 16 && plan.lead() >= 8 && !fill && plan.has(DebugFlags::ALL));
        assert_eq!(plan.set("wide", wish(32768, 32768), 32768, false), (32768, false));
        assert!(!plan.has(DebugFlags::RED_ZONES) && plan.has(DebugFlags::POISON) && plan.lead() == 0);
    }

    #[test]
    fn values_that_are_kept_are_not_poisoned() {
        let plan = Plan::default();
        plan.set("kept", Wish { flags: DebugFlags::ALL, size: 40, align: 8, keeps: true }, 40, true);
        assert_eq!(plan.flags().to_string(), "FZU");
    }

    #[test]
    fn only_hardened_caches_pick() {
        let plan = Plan::default();
        assert_eq!(plan.set("plain", Wish::default(), 64, true), (64, true));
        assert!(!plan.is_on() && plan.pick().is_none());
        plan.set("hard", Wish { flags: DebugFlags::HARDENED, ..Wish::default() }, 64, false);
        let picks: Vec<_> = (0..16).map(|_| plan.pick().unwrap()).collect();
        assert!(picks.iter().any(|p| p % 64 != picks[0] % 64), "{picks:?}");
    }
}
