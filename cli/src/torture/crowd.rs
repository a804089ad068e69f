//! The crowd: threads that read, and threads that replace what is read and retire what was there.
//!
//! Started by `leg`, and by `faults` for threads that come and go; works on `world`, through `doors`, and on the `pipe`.

use std::hint;
use std::ptr;
use std::thread;
use std::time::Duration;

use super::faults::signals;
use super::flavours::{Flavour, Shape};
use super::pipe::PIPE;
use super::random::Random;
use super::tally::{self, Count};
use super::watch::Beat;
use super::world::{NOBODY, World};

/// Objects of a burst, at most: more than a block holds.
const BURST: u64 = 700;

/// Reads, so many sections at most.
pub(super) fn read<F: Flavour>(world: &World<'_, F>, beat: &Beat, mut random: Random, sections: u64) {
    let mut reader = F::reader(world.domain);
    let _armed = signals::arm(world);
    beat.begin("a section");
    for n in 0..sections {
        if world.stopped() {
            break;
        }
        signals::stock(world);
        let shape = match random.below(16) {
            0 => Shape::Nested,
            1 => Shape::Crossed,
            2 => Shape::Repinned,
            _ => Shape::Simple,
        };
        match shape {
            Shape::Simple => {}
            Shape::Repinned => tally::add(Count::Repinned, 1),
            Shape::Nested | Shape::Crossed => tally::add(Count::Nested, 1),
        }
        let (owner, how) = (random.below(world.links.len() as u64) as usize, random.below(1000));
        let pipe = random.one_in(3);
        F::section(&mut reader, shape, || {
            if pipe {
                PIPE.look(|| dawdle(how));
            } else if let Some(object) = world.links[owner].load() {
                // SAFETY: the section protects the object: that is what is being tested. All of it is atomics.
                let id = unsafe { object.as_ref() }.id();
                world.look(owner, object, id, "at once");
                dawdle(how);
                world.look(owner, object, id, "after a while");
            }
        });
        tally::add(Count::Sections, 1);
        beat.beat();
        if n % 512 == 511 {
            // Whoever holds nothing need not be waited for.
            F::outside(&mut reader, thread::yield_now);
        }
    }
}

/// Takes time, with what it holds.
fn dawdle(how: u64) {
    match how {
        0 => thread::sleep(Duration::from_micros(300)),
        1..8 => thread::yield_now(),
        8..80 => (0..how * 10).for_each(|_| hint::spin_loop()),
        _ => {}
    }
}

/// Replaces and retires, so many times at most.
pub(super) fn write<F: Flavour>(world: &World<'_, F>, beat: &Beat, mut random: Random, writes: u64) {
    // Registered with the domain before a handler may come; then it is no reader.
    drop(F::reader(world.domain));
    let _armed = signals::arm(world);
    for _ in 0..writes {
        if world.stopped() {
            break;
        }
        beat.begin("replacing");
        signals::stock(world);
        if random.one_in(256) || tally::count(Count::Bursts) == 0 {
            burst(world, &mut random);
        }
        replace(world, &mut random);
        if random.one_in(200) {
            thread::yield_now();
        }
    }
}

/// Puts a new object into a link, and ends the one that was there.
fn replace<F: Flavour>(world: &World<'_, F>, random: &mut Random) {
    let owner = random.below(world.links.len() as u64) as usize;
    let link = &world.links[owner];
    if (link.door.is_large() && !random.one_in(64)) || (link.door.waits() && !random.one_in(8)) {
        return;
    }
    let Some(new) = world.house.make(link.door, owner as u64) else {
        // Too many are pending, or there is no memory: somebody has to get on first.
        return thread::yield_now();
    };
    let swap = || {
        if let Some(old) = link.swap(new.as_ptr()) {
            // SAFETY: (1) made for this door, unlinked by this thread alone. (2) Doors that wait are used outside.
            unsafe { world.house.end(world.domain, link.door, owner as u64, old) };
        }
    };
    if !link.door.waits() && random.one_in(64) {
        // Inside a section, as a list's writers are that look for their place.
        F::section(&mut F::reader(world.domain), Shape::Simple, swap);
    } else {
        swap();
    }
    tally::add(Count::Replaced, 1);
}

/// Retires many at once that nobody has seen, so that blocks fill up.
fn burst<F: Flavour>(world: &World<'_, F>, random: &mut Random) {
    let door = random.pick(&world.links).door;
    if door.waits() || door.is_large() {
        return;
    }
    for _ in 0..random.below(BURST) {
        let Some(object) = world.house.make(door, NOBODY) else { break };
        // SAFETY: (1) made for this door, never linked. (2) It does not wait.
        unsafe { world.house.end(world.domain, door, NOBODY, object) };
    }
    tally::add(Count::Bursts, 1);
}

/// Takes everything out of the links, when the threads are gone.
pub(super) fn clear<F: Flavour>(world: &World<'_, F>) {
    for (owner, link) in world.links.iter().enumerate() {
        if let Some(last) = link.swap(ptr::null_mut()) {
            // SAFETY: (1) made for this door, unlinked by this thread alone. (2) It is outside sections.
            unsafe { world.house.end(world.domain, link.door, owner as u64, last) };
        }
    }
}
