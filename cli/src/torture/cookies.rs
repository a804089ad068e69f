//! Cookies: one that has elapsed stays so, for every thread; none elapses inside a section that was open before it; waiting inside is
//! refused; what has a limit keeps to it.
//!
//! Two threads, started by `leg`, work on one world and show each other what has elapsed.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use quietus::Cookie;

use super::flavours::{Flavour, Shape};
use super::random::Random;
use super::tally::{self, Count, Wrong};
use super::watch::Beat;
use super::world::World;

/// Elapsed cookies that are asked again and again.
const KEPT: usize = 64;

/// Elapsed cookies, for every thread to see.
pub(super) type Board<'d, F> = Mutex<VecDeque<Cookie<'d, F>>>;

/// One of the threads.
pub(super) fn check<'d, F: Flavour>(world: &World<'d, F>, board: &Board<'d, F>, beat: &Beat, mut random: Random) {
    let domain = world.domain;
    let mut reader = F::reader(domain);
    loop {
        beat.begin("a cookie in a section");
        let inside = F::section(&mut reader, Shape::Simple, || {
            let cookie = domain.cookie();
            for _ in 0..random.below(20) {
                if cookie.is_elapsed() {
                    tally::fail(Wrong::Cookie, "it elapsed inside a section that was open before");
                }
                if random.one_in(4) {
                    thread::yield_now();
                }
            }
            // Here no grace period can end that would make good for one that was taken back.
            intact(board);
            match domain.try_synchronize() {
                Err(_) => tally::add(Count::Refused, 1),
                Ok(()) => tally::fail(Wrong::Inside, "a thread waited for its own section"),
            }
            cookie
        });
        F::outside(&mut reader, || {
            beat.begin("a cookie");
            let later = domain.cookie();
            if inside.wait_timeout(Duration::ZERO) && !inside.is_elapsed() {
                tally::fail(Wrong::Cookie, "a wait said that it had elapsed, and then it had not");
            }
            // Who waits too long the watchdog sees.
            while !later.wait_timeout(Duration::from_millis(random.below(20))) {
                tally::add(Count::Timeouts, 1);
            }
            if !later.is_elapsed() || !inside.is_elapsed() {
                tally::fail(Wrong::Cookie, "one had elapsed, and it or an earlier one had not");
            }
            tally::add(Count::Cookies, 2);
            intact(board);
            let mut board = lock(board);
            board.push_back(later);
            if board.len() > KEPT {
                board.pop_front();
            }
            drop(board);
            if random.one_in(4) {
                thread::sleep(Duration::from_micros(random.below(500)));
            }
        });
        if world.stopped() {
            return;
        }
    }
}

/// Looks whether what had elapsed still has.
fn intact<F: Flavour>(board: &Board<'_, F>) {
    let reverted = lock(board).iter().filter(|cookie| !cookie.is_elapsed()).count();
    if reverted > 0 {
        tally::fail(Wrong::Cookie, format_args!("{reverted} that had elapsed have not any more"));
    }
}

fn lock<'b, 'd, F: Flavour>(board: &'b Board<'d, F>) -> MutexGuard<'b, VecDeque<Cookie<'d, F>>> {
    board.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
