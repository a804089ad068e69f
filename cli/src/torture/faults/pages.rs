//! Pages that cannot be had: for moments, no block is left and none can be made, and the slabs of one cache fail to come.
//!
//! A thread, started by `faults`.

use std::thread;
use std::time::Duration;

use quietus::slab::raw::{self, BlockNo};
use quietus::slab::{Cache, SlabBox};

use crate::torture::doors::SCARCE;
use crate::torture::flavours::Flavour;
use crate::torture::random::Random;
use crate::torture::tally::{self, Count, Wrong};
use crate::torture::watch::Beat;
use crate::torture::world::World;

/// Enough for a whole run.
const PLENTY: isize = isize::MAX >> 1;

/// All blocks there are; no more can be made while this lives.
struct Exhausted(Vec<BlockNo>);

impl Exhausted {
    fn now() -> Exhausted {
        raw::set_page_limit(Some(0));
        Exhausted(std::iter::from_fn(raw::try_page).collect())
    }

    /// Takes what has come back meanwhile.
    fn again(&mut self) {
        self.0.extend(std::iter::from_fn(raw::try_page));
    }
}

impl Drop for Exhausted {
    fn drop(&mut self) {
        raw::set_page_limit(None);
        self.0.drain(..).for_each(raw::put_page);
    }
}

/// Large enough that a few hundred need memory from the source.
type Bulky = [u64; 1 << 11];
/// More than there will be memory for.
const GREED: usize = 2000;

/// Allocates until nothing is left, then retires half of it.
fn starve<F: Flavour>(world: &World<'_, F>, cache: &Cache<Bulky>) {
    let mut held: Vec<SlabBox<Bulky>> = Vec::new();
    while held.len() < GREED {
        match cache.try_alloc([held.len() as u64; 1 << 11]) {
            Ok(object) => held.push(object),
            Err(_) => {
                tally::add(Count::NoMemory, 1);
                break;
            }
        }
    }
    if held.iter().enumerate().any(|(n, object)| object[0] != n as u64 || object[2047] != n as u64) {
        tally::fail(Wrong::Twice, "two objects in the same memory, while it was short");
    }
    for object in held.drain(..held.len() / 2) {
        // SAFETY: from this cache, and nobody else knows it.
        unsafe { world.domain.retire_in(cache, SlabBox::into_raw(object)) };
    }
}

/// The thread.
pub(super) fn run<F: Flavour>(world: &World<'_, F>, beat: &Beat, mut random: Random) {
    let built = "few caches, of small objects";
    let bulky: Cache<Bulky> = Cache::builder("torture-bulky").pages(&SCARCE).build().expect(built);
    loop {
        beat.begin("a shortage of pages");
        SCARCE.allow(random.below(3) as isize);
        if random.one_in(16) || tally::count(Count::NoMemory) == 0 {
            starve(world, &bulky);
        }
        let mut exhausted = Exhausted::now();
        for _ in 0..random.below(20) {
            thread::sleep(Duration::from_micros(random.below(300)));
            exhausted.again();
        }
        drop(exhausted);
        SCARCE.allow(PLENTY);
        tally::add(Count::Shortages, 1);
        if world.stopped() {
            return;
        }
        world.house.plain.shrink();
        thread::sleep(Duration::from_micros(random.below(8000)));
        if random.one_in(4) {
            quietus::slab::shrink();
        }
    }
}
