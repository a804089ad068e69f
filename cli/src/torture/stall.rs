//! A reader that stays: what it sees is not freed, everything else goes on, and afterwards all is as before. And the opposite, a flood:
//! one thread retires as fast as it can beside readers that get on, and something has to be freed meanwhile.
//!
//! Both are threads that `leg` starts. They take turns: a flood beside a stalled reader has no bound.

use std::ptr::NonNull;
use std::thread;
use std::time::{Duration, Instant};

use quietus::slab::{Cache, SlabBox};

use super::doors::Door;
use super::flavours::{Flavour, Shape};
use super::object::Head;
use super::random::Random;
use super::tally::{self, Count, Wrong};
use super::watch::Beat;
use super::world::{NOBODY, World};

/// The name of the thread, by which a cookie has to name it.
pub(super) const STALLER: &str = "stall";
/// Objects that the reader itself retires while it stays.
const RETIRES: usize = 2000;
/// Bytes of an object of a flood.
const OBJECT: u64 = 64;
/// As much has to come back before a flood is over.
const BACK: u64 = 16 << 20;
/// As much may go in without anything coming back, as long as the readers do not get on.
const MOST: u64 = 256 << 20;

/// What a stalled reader holds.
struct Held {
    owner: usize,
    object: NonNull<Head>,
    id: u64,
}

/// The thread that stalls.
pub(super) fn stay<F: Flavour>(world: &World<'_, F>, beat: &Beat, mut random: Random) {
    let mut reader = F::reader(world.domain);
    loop {
        let turn = F::outside(&mut reader, || {
            beat.begin("waiting for its turn to stall");
            thread::sleep(Duration::from_millis(random.below(20)));
            world.turn()
        });
        let stay = Duration::from_millis(20 + random.below(130));
        beat.begin("stalling");
        let cookie = F::section(&mut reader, Shape::Simple, || {
            let held: Vec<Held> = world
                .links
                .iter()
                .enumerate()
                .filter_map(|(owner, link)| {
                    let object = link.load()?;
                    // SAFETY: the section protects the object: that is what is being tested. All of it is atomics.
                    Some(Held { owner, object, id: unsafe { object.as_ref() }.id() })
                })
                .collect();
            let cookie = world.domain.cookie();
            let start = Instant::now();
            let mut retired = 0;
            while retired < RETIRES || (start.elapsed() < stay && !world.stopped()) {
                held.iter().for_each(|held| world.look(held.owner, held.object, held.id, "while it stalled"));
                retired += retire(world, &mut random);
                beat.beat();
                thread::yield_now();
            }
            if cookie.is_elapsed() {
                tally::fail(Wrong::Stall, "a grace period has ended in spite of it");
            } else if F::NAMES && !cookie.holdouts().iter().any(|holdout| holdout.name.as_deref() == Some(STALLER)) {
                tally::fail(Wrong::Stall, format_args!("it is not among the holdouts: {:?}", cookie.holdouts()));
            }
            cookie
        });
        drop(turn);
        F::outside(&mut reader, || {
            beat.begin("waiting for a grace period after its stall");
            // Who waits too long the watchdog sees.
            cookie.wait();
        });
        tally::add(Count::Stalls, 1);
        if world.stopped() {
            return;
        }
    }
}

/// Retires some that nobody has seen.
fn retire<F: Flavour>(world: &World<'_, F>, random: &mut Random) -> usize {
    const SOME: usize = 20;
    for _ in 0..SOME {
        let door = *random.pick(&[Door::RetireIn, Door::Poisoned, Door::RetireDrop, Door::Pointer, Door::Linked]);
        if let Some(object) = world.house.make(door, NOBODY) {
            // SAFETY: (1) made for this door, never linked. (2) It does not wait.
            unsafe { world.house.end(world.domain, door, NOBODY, object) };
        }
    }
    SOME
}

/// The thread that floods.
pub(super) fn flood<F: Flavour>(world: &World<'_, F>, beat: &Beat, mut random: Random) {
    let cache: Cache<[u64; OBJECT as usize / 8]> = Cache::new("torture-flood");
    loop {
        beat.begin("waiting for its turn to flood");
        thread::sleep(Duration::from_millis(random.below(30)));
        let turn = world.turn();
        beat.begin("flooding");
        let before = world.domain.stats().kvfree.reclaimed_bytes;
        let readers = progress(world);
        let mut bytes = 0;
        loop {
            for _ in 0..if bytes < MOST { 1000 } else { 0 } {
                let object = SlabBox::into_raw(cache.alloc([bytes; OBJECT as usize / 8]));
                // SAFETY: nobody else knows it, and it comes from this cache.
                unsafe { world.domain.retire_in(&cache, object) };
                bytes += OBJECT;
            }
            beat.beat();
            let back = world.domain.stats().kvfree.reclaimed_bytes - before;
            if back >= BACK || world.stopped() {
                break;
            }
            if bytes >= MOST {
                // Who is inside for long holds it up, and is no fault; that all have got on, and nothing has come back, is.
                thread::sleep(Duration::from_millis(1));
                if back == 0 && got_on(&readers) {
                    tally::fail(
                        Wrong::Flood,
                        format_args!("{bytes} bytes retired, none freed, and all readers got on"),
                    );
                    break;
                }
                if back > 0 {
                    break;
                }
            }
        }
        tally::add(Count::Floods, 1);
        tally::add(Count::Flooded, bytes / OBJECT);
        drop(turn);
        if world.stopped() {
            break;
        }
        beat.begin("recovering from its flood");
        world.domain.barrier_on(&cache);
        let live = cache.stats().live;
        if live != 0 {
            tally::fail(Wrong::Lost, format_args!("{live} objects of a flood after a barrier on their cache"));
        }
    }
}

/// How far each thread is.
fn progress<F: Flavour>(world: &World<'_, F>) -> Vec<(std::sync::Arc<Beat>, u64)> {
    let living = world.beats.living();
    living.into_iter().map(|beat| (beat.clone(), beat.count())).collect()
}

/// Whether each thread of these has been through two steps at least, or has ended, so that none is in the section it was in.
fn got_on(before: &[(std::sync::Arc<Beat>, u64)]) -> bool {
    let here = thread::current();
    let others = before.iter().filter(|(beat, _)| here.name() != Some(beat.name()) && beat.name() != STALLER);
    others.into_iter().all(|(beat, then)| !beat.lives() || beat.count() >= then + 2)
}
