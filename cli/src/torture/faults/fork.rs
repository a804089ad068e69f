//! Forks in the middle of it all. The child allocates and frees slab memory for a moment and is gone; the parent goes on.
//!
//! A thread, started by `faults`. The child may do nothing else: it has one thread, and whatever locks others held at the fork.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::torture::flavours::Flavour;
use crate::torture::object::{Head, Plain};
use crate::torture::random::Random;
use crate::torture::tally::{self, Count, Wrong};
use crate::torture::watch::{Beat, PATIENCE};
use crate::torture::world::{NOBODY, World};

/// Objects that a child allocates: fewer than a block holds, so that it takes no lock of the allocator but at first need.
const OBJECTS: usize = 8;
const ROUNDS: usize = 100;

/// The child's life: all well, or not.
fn child<F: Flavour>(world: &World<'_, F>) -> bool {
    (0..ROUNDS).all(|_| {
        let mut held: [_; OBJECTS] =
            std::array::from_fn(|_| world.house.plain.try_alloc(Plain::new(Head::plain(NOBODY))).ok());
        let sound = held.iter().flatten().all(|object| object.head.look(NOBODY, object.rest[0]).is_ok());
        held.iter_mut().for_each(|object| drop(object.take()));
        sound
    })
}

/// The thread.
pub(super) fn run<F: Flavour>(world: &World<'_, F>, beat: &Beat, mut random: Random) {
    loop {
        beat.begin("a fork");
        // SAFETY: the child only allocates and frees slab memory, and ends without running anybody's destructors.
        match unsafe { libc::fork() } {
            -1 => tally::fail(Wrong::Fork, io::Error::last_os_error()),
            0 => {
                // SAFETY: sets an attribute of the calling process; no memory is involved. (A child that hangs is not left behind.)
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) };
                let code = i32::from(!child(world));
                // SAFETY: ends this process.
                unsafe { libc::_exit(code) }
            }
            process => match wait(process, beat) {
                Some(0) => tally::add(Count::Forks, 1),
                Some(status) => tally::fail(Wrong::Fork, format_args!("the child ended with wait status {status:#x}")),
                None => tally::fail(Wrong::Fork, "the child hung, allocating"),
            },
        }
        if world.stopped() {
            return;
        }
        thread::sleep(Duration::from_millis(20 + random.below(80)));
    }
}

/// The child's wait status; none if it had to be killed.
fn wait(process: libc::pid_t, beat: &Beat) -> Option<i32> {
    let start = Instant::now();
    loop {
        let mut status = 0;
        // SAFETY: writes the number it is given.
        match unsafe { libc::waitpid(process, &raw mut status, libc::WNOHANG) } {
            0 if start.elapsed() < PATIENCE / 3 => thread::sleep(Duration::from_micros(500)),
            0 => {
                // SAFETY: our child, which nobody has waited for.
                unsafe {
                    libc::kill(process, libc::SIGKILL);
                    libc::waitpid(process, &raw mut status, 0);
                }
                return None;
            }
            -1 => return Some(-1),
            _ => return Some(status),
        }
        beat.beat();
    }
}
