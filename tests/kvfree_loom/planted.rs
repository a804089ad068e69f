//! `deferred` and `sweep` once more, for one word of bits, so that steps can change places. Without a bug it passes the models, too.
//!
//! Stands for `Deferred::mark`, `Deferred::take`, `Shared::sweep` and `Shared::release` of kvfree.

use crate::grace::{Cookie, GracePeriods};
use crate::sweeps::Sweeper;
use crate::sync::{
    AtomicU64, Mutex,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use crate::world::{ADDRESSES, number, world};
use quietus::model::interrupt;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    Nothing,
    /// The dirty mark before the bit.
    DirtyFirst,
    /// The bits taken before the dirty mark.
    BitsFirst,
    /// A pass does not wait for another.
    NotSerialised,
    /// The object is looked at after its bit.
    TouchedAfterBit,
    /// The segment's address after the bit.
    AddressLate,
    /// What is marked joins a set that waits already.
    Merged,
}

pub(crate) struct Word<G> {
    gp: G,
    bug: Bug,
    base: AtomicU64,
    bits: AtomicU64,
    dirty: AtomicU64,
    set: Mutex<Set>,
}

#[derive(Default)]
struct Set {
    bits: u64,
    cookie: Option<Cookie>,
}

const SEGMENT: u64 = 0xffff;

impl<G: GracePeriods> Word<G> {
    pub(crate) fn with(bug: Bug) -> impl Fn(G) -> Self + Send + Sync + 'static {
        let zero = || AtomicU64::new(0);
        move |gp| Word { gp, bug, base: zero(), bits: zero(), dirty: zero(), set: Mutex::new(Set::default()) }
    }

    fn take(&self) -> u64 {
        if self.bug == Bug::BitsFirst {
            let bits = if self.dirty.load(Acquire) != 0 { self.bits.swap(0, AcqRel) } else { 0 };
            self.dirty.swap(0, AcqRel);
            return bits;
        }
        if self.dirty.swap(0, AcqRel) == 0 { 0 } else { self.bits.swap(0, AcqRel) }
    }

    fn pass(&self, set: &mut Set) {
        for _ in 0..2 {
            if let Some(cookie) = set.cookie {
                if self.bug == Bug::Merged {
                    set.bits |= self.take();
                }
                if !self.gp.poll(cookie) && !self.gp.advance(cookie) {
                    return;
                }
                let base = self.base.load(Relaxed) as usize;
                for bit in (0..64).filter(|bit| set.bits & 1 << bit != 0) {
                    world().free(number(std::ptr::without_provenance_mut(base + bit * 16)));
                }
                *set = Set::default();
            }
            set.bits = self.take();
            if set.bits == 0 {
                return;
            }
            set.cookie = Some(self.gp.start());
        }
    }
}

impl<G: GracePeriods> Sweeper<G> for Word<G> {
    fn gp(&self) -> &G {
        &self.gp
    }
    fn retire(&self, number: usize) {
        let address = ADDRESSES[number] as u64;
        let (base, bit) = (address & !SEGMENT, 1 << ((address & SEGMENT) / 16));
        if self.bug != Bug::AddressLate {
            self.base.store(base, Relaxed);
        }
        if self.bug == Bug::DirtyFirst {
            self.dirty.fetch_or(1, AcqRel);
            self.bits.fetch_or(bit, AcqRel);
            return;
        }
        self.bits.fetch_or(bit, AcqRel);
        match self.bug {
            Bug::TouchedAfterBit => _ = world().objects[number].read(),
            Bug::AddressLate => self.base.store(base, Relaxed),
            _ => {}
        }
        self.dirty.fetch_or(1, AcqRel);
    }
    fn sweep(&self) {
        if self.bug == Bug::NotSerialised {
            return self.sweep_all();
        }
        if let Some(mut set) = self.set.try_lock() {
            self.pass(&mut set);
        }
    }
    fn sweep_all(&self) {
        let mut mine = Set::default();
        if self.bug == Bug::NotSerialised {
            self.pass(&mut mine);
            while mine.cookie.is_some() {
                self.pass(&mut mine);
            }
            return;
        }
        loop {
            let mut set = self.set.lock();
            self.pass(&mut set);
            if set.cookie.is_none() {
                return;
            }
            drop(set);
            interrupt();
            loom::thread::yield_now();
        }
    }
    fn pending(&self) -> bool {
        self.dirty.load(Acquire) != 0 || self.set.try_lock().is_none_or(|set| set.cookie.is_some())
    }
}
