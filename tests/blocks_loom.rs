//! The pairs of blocks and workers under loom: R (remote drain), S (close, detach, cookie), N (pages that change hands) and the
//! worker's bell; and Y (the gate of a fork).
//!
//! ```text
//! RUSTFLAGS="--cfg quietus_loom" cargo test --release -p quietus --test blocks_loom
//! ```
//!
//! The per-CPU sections are assembly and the block array is a mapping, so these are models: the same steps in the same order, with
//! the engine's real code where grace periods are needed. Each has a twin with a planted bug that loom must find, which shows that
//! the model can fail.
#![cfg(quietus_loom)]

use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*, fence};
use loom::sync::{Arc, Mutex};
use loom::thread;
use quietus::model::{Engine, Link, Object, StandIn, UnsafeCell, check, cpu, interrupt};

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 20_000;
    builder.check(model);
}

// ── Y ──

/// One thread takes a lock inside the gate, another closes it and forks. (Loom has SeqCst for fences only: they stand for that of the
/// four operations.) `outside`: the look at the gate comes before the count.
fn gate_model(outside: bool) {
    explore(move || {
        let (forker, inside, at_work) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let worker = {
            let (forker, inside, at_work) = (forker.clone(), inside.clone(), at_work.clone());
            thread::spawn(move || {
                let before = forker.load(Acquire);
                inside.fetch_add(1, Relaxed);
                fence(SeqCst);
                if if outside { before } else { forker.load(Acquire) } {
                    inside.fetch_sub(1, Release);
                    return;
                }
                at_work.store(true, Relaxed); // takes the lock
                at_work.store(false, Relaxed);
                inside.fetch_sub(1, Release);
            })
        };
        forker.store(true, Relaxed);
        fence(SeqCst);
        if inside.load(Acquire) == 0 {
            assert!(!at_work.load(Relaxed), "a lock is held in the copy");
            forker.store(false, Release);
        }
        worker.join().unwrap();
    });
}

#[test]
fn nobody_is_inside_a_fork() {
    gate_model(false);
}

#[test]
#[should_panic(expected = "a lock is held in the copy")]
fn nobody_is_inside_a_fork_twin() {
    gate_model(true);
}

// ── S ──

/// Two threads of one CPU fill a block (the lock stands for "same CPU"); a third detaches it, takes a cookie, and frees.
fn block_model(stand_in: StandIn, cookie_first: bool) {
    check(stand_in, 3, Some(2), move || {
        let engine = Engine::new();
        let objects = [Object::new(), Object::new()];
        let link = Link::new(Some(&objects[0]));
        let block = Arc::new(Mutex::new(0u32));
        let reader = {
            let (slot, link) = (engine.slot(), link.clone());
            thread::spawn(move || {
                cpu(0, || {
                    let guard = slot.enter();
                    link.follow(&guard);
                })
            })
        };
        let retirer = {
            let (block, link, new) = (block.clone(), link.clone(), objects[1].clone());
            thread::spawn(move || {
                cpu(1, || {
                    link.publish(Some(&new));
                    interrupt();
                    *block.lock().unwrap() += 1; // the last commit
                })
            })
        };
        cpu(2, || {
            let early = cookie_first.then(|| engine.start());
            let got = std::mem::take(&mut *block.lock().unwrap()); // detach
            let cookie = early.unwrap_or_else(|| engine.start());
            if got == 1 && engine.advance(cookie) {
                objects[0].free();
            }
        });
        retirer.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn cookie_after_detaching() {
    block_model(StandIn::Sc, false);
    block_model(StandIn::Ipi, false);
}

#[test]
#[should_panic]
fn cookie_before_detaching_is_found_sc() {
    block_model(StandIn::Sc, true);
}

#[test]
#[should_panic]
fn cookie_before_detaching_is_found_ipi() {
    block_model(StandIn::Ipi, true);
}

/// What may go wrong on a block's way round.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    Nothing,
    /// The cookie before the detaching.
    CookieFirst,
    /// The block goes to the reserve before its objects are freed.
    BackTooSoon,
    /// It is put there Relaxed.
    PutRelaxed,
    /// The commit that closes and publishes it is Relaxed.
    CloseRelaxed,
}

/// One CPU's word, `open | filled | closed << 4`, its two blocks of one slot, and the reserve that has room for one.
struct Round {
    word: AtomicU64,
    slots: [UnsafeCell<usize>; 3],
    reserve: AtomicU64,
    bug: Bug,
}

const FILLED: u64 = 4;

// SAFETY: accesses to the slots are checked by loom; that is what they are for.
unsafe impl Sync for Round {}
// SAFETY: as above.
unsafe impl Send for Round {}

impl Round {
    /// Stands for `collect_slow`: into the open block; a full one is closed, and published, by the commit that opens a fresh one. False:
    /// the reserve is empty.
    fn retire(&self, object: usize) -> bool {
        loop {
            let old = self.word.load(Acquire);
            let open = old & 3;
            if old & FILLED == 0 {
                // SAFETY: the open block is its CPU's; loom fails the model if anybody else is at it.
                self.slots[open as usize].with_mut(|slot| unsafe { *slot = object });
                let order = if self.bug == Bug::CloseRelaxed { Relaxed } else { Release };
                if self.word.compare_exchange(old, old | FILLED, order, Relaxed).is_ok() {
                    return true;
                }
                continue;
            }
            let fresh = self.reserve.swap(0, Acquire);
            if fresh == 0 || old >> 4 != 0 {
                return false;
            }
            let order = if self.bug == Bug::CloseRelaxed { Relaxed } else { Release };
            if self.word.compare_exchange(old, fresh | open << 4, order, Relaxed).is_err() {
                return false;
            }
        }
    }
    /// Stands for `settle` and `reclaim`: detach, cookie, grace period, free, back to the reserve.
    fn reclaim(&self, engine: &Engine, objects: &[std::sync::Arc<Object>; 3]) {
        let early = (self.bug == Bug::CookieFirst).then(|| engine.start());
        let old = self.word.load(Acquire);
        let closed = old >> 4;
        if closed == 0 || self.word.compare_exchange(old, old & 7, AcqRel, Relaxed).is_err() {
            return;
        }
        let cookie = early.unwrap_or_else(|| engine.start());
        if !engine.advance(cookie) {
            return;
        }
        if self.bug == Bug::BackTooSoon {
            self.reserve.store(closed, Release);
        }
        // SAFETY: the block is detached; loom fails the model if anybody else is at it.
        objects[self.slots[closed as usize].with(|slot| unsafe { *slot })].free();
        if self.bug != Bug::BackTooSoon {
            self.reserve.store(closed, if self.bug == Bug::PutRelaxed { Relaxed } else { Release });
        }
    }
}

/// Close, detach, cookie, reclaim, back to the owner's reserve, opened again, beside a reader.
fn round_model(stand_in: StandIn, bug: Bug) {
    check(stand_in, 3, Some(2), move || {
        let engine = Engine::new();
        let objects = [Object::new(), Object::new(), Object::new()];
        let link = Link::new(Some(&objects[0]));
        let slots = [UnsafeCell::new(0), UnsafeCell::new(0), UnsafeCell::new(0)];
        let region = Arc::new(Round { word: AtomicU64::new(1), slots, reserve: AtomicU64::new(2), bug });
        let reader = {
            let (slot, link) = (engine.slot(), link.clone());
            thread::spawn(move || {
                cpu(0, || {
                    let guard = slot.enter();
                    link.follow(&guard);
                })
            })
        };
        let retirer = {
            let (region, link, new) = (region.clone(), link.clone(), objects[1].clone());
            thread::spawn(move || {
                cpu(1, || {
                    link.publish(Some(&new));
                    region.retire(0);
                    interrupt();
                    link.publish(None);
                    region.retire(1);
                    interrupt();
                    region.retire(2);
                })
            })
        };
        cpu(2, || {
            for _ in 0..2 {
                thread::yield_now();
                region.reclaim(&engine, &objects);
            }
        });
        retirer.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn a_block_goes_round() {
    round_model(StandIn::Sc, Bug::Nothing);
    round_model(StandIn::Ipi, Bug::Nothing);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_round_with_its_cookie_first_is_found() {
    round_model(StandIn::Ipi, Bug::CookieFirst);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_block_back_too_soon_is_found() {
    round_model(StandIn::Sc, Bug::BackTooSoon);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_block_put_back_relaxed_is_found() {
    round_model(StandIn::Sc, Bug::PutRelaxed);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_block_closed_relaxed_is_found() {
    round_model(StandIn::Sc, Bug::CloseRelaxed);
}

// ── R ──

/// One CPU's region: a stop flag, the length of its block, and the membarrier's handshake.
struct Region {
    stop: AtomicBool,
    len: AtomicUsize,
    request: AtomicU64,
    answer: AtomicU64,
    owner: [AtomicUsize; 2],
}

impl Region {
    /// The interrupt of a restarting membarrier may arrive here: true if it has, and the section starts again.
    fn restarted(&self, seen: &mut u64) -> bool {
        let request = self.request.load(Acquire);
        let new = request > *seen;
        if new {
            *seen = request;
            self.answer.store(request, Release);
        }
        new
    }
    /// The section: take the newest item. Label 3 to label 4 of the real one; nothing interrupts between the last look and the
    /// commit, because the kernel moves the instruction pointer.
    fn pop(&self, seen: &mut u64) -> Option<usize> {
        loop {
            self.restarted(seen);
            // Acquire, as every load of x86-64: a flag that is clear again brings the drain's edit with it.
            if self.stop.load(Acquire) {
                return None;
            }
            let n = self.len.load(Relaxed);
            if n == 0 {
                return None;
            }
            if self.restarted(seen) {
                continue;
            }
            self.len.store(n - 1, Release); // commit
            return Some(n - 1);
        }
    }
    fn own(&self, item: usize) {
        assert_eq!(self.owner[item].fetch_add(1, AcqRel), 0, "item {item} is in two hands");
    }
}

fn drain_model(fence: bool) {
    explore(move || {
        let region = Arc::new(Region {
            stop: AtomicBool::new(false),
            len: AtomicUsize::new(2),
            request: AtomicU64::new(0),
            answer: AtomicU64::new(0),
            owner: [AtomicUsize::new(0), AtomicUsize::new(0)],
        });
        let popper = {
            let region = region.clone();
            thread::spawn(move || {
                let mut seen = 0;
                if let Some(item) = region.pop(&mut seen) {
                    region.own(item);
                }
                // The thread leaves the CPU: a context switch is a full barrier, and no section is left to restart.
                region.answer.store(u64::MAX, Release);
            })
        };
        region.stop.store(true, SeqCst);
        if fence {
            let request = region.request.fetch_add(1, AcqRel) + 1;
            while region.answer.load(Acquire) < request {
                thread::yield_now();
            }
        }
        let n = region.len.load(Acquire);
        if n > 0 {
            region.len.store(n - 1, Relaxed);
            region.own(n - 1);
        }
        region.stop.store(false, Release);
        popper.join().unwrap();
    });
}

#[test]
fn a_drain_is_alone() {
    drain_model(true);
}

#[test]
#[should_panic(expected = "in two hands")]
fn a_drain_without_fence_is_found() {
    drain_model(false);
}

// ── N ──

/// A stack of two pages, linked through `next`; the head is a tag and a number.
struct Pages {
    head: AtomicU64,
    next: [AtomicU64; 3],
    taken: [AtomicBool; 3],
    tag: bool,
}

impl Pages {
    fn bump(&self, head: u64) -> u64 {
        if self.tag { ((head >> 32) + 1) << 32 } else { 0 }
    }
    fn push(&self, page: u64) {
        self.taken[page as usize].store(false, Relaxed);
        let mut head = self.head.load(Relaxed);
        loop {
            self.next[page as usize].store(head & 0xffff_ffff, Relaxed);
            match self.head.compare_exchange(head, self.bump(head) | page, Release, Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
    fn pop(&self) -> Option<u64> {
        let mut head = self.head.load(Acquire);
        loop {
            let page = head & 0xffff_ffff;
            if page == 0 {
                return None;
            }
            let next = self.next[page as usize].load(Relaxed);
            match self.head.compare_exchange(head, self.bump(head) | next, AcqRel, Acquire) {
                Ok(_) => {
                    assert!(!self.taken[page as usize].swap(true, Relaxed), "page {page} has two owners");
                    return Some(page);
                }
                Err(now) => head = now,
            }
        }
    }
}

fn stack_model(tag: bool) {
    explore(move || {
        let never = || AtomicBool::new(false);
        let none = || AtomicU64::new(0);
        let pages =
            Arc::new(Pages { head: none(), next: [none(), none(), none()], taken: [never(), never(), never()], tag });
        pages.push(1);
        pages.push(2);
        let other = {
            let pages = pages.clone();
            thread::spawn(move || {
                let (a, b) = (pages.pop(), pages.pop());
                a.into_iter().for_each(|a| pages.push(a)); // `b` stays ours: a stale pop of `a` must not find it
                b.is_some()
            })
        };
        let mine = pages.pop();
        let kept = usize::from(other.join().unwrap()) + usize::from(mine.is_some());
        let left = std::iter::from_fn(|| pages.pop()).count();
        assert_eq!(kept + left, 2, "a page was lost or doubled");
    });
}

#[test]
fn a_page_has_one_owner() {
    stack_model(true);
}

#[test]
#[should_panic]
fn a_stack_without_tag_is_found() {
    stack_model(false);
}

// ── the worker's bell ──

fn bell_model(look_before_silencing: bool) {
    explore(move || {
        let (word, armed, woken) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let retirer = {
            let (word, armed, woken) = (word.clone(), armed.clone(), woken.clone());
            thread::spawn(move || {
                word.store(true, Release); // a block is installed
                if !armed.swap(true, AcqRel) {
                    woken.store(true, Release);
                }
            })
        };
        let early = look_before_silencing.then(|| word.load(Acquire));
        armed.swap(false, AcqRel);
        let sleeps = !early.unwrap_or_else(|| word.load(Acquire));
        retirer.join().unwrap();
        assert!(!sleeps || woken.load(Acquire), "the worker sleeps for good beside an open block");
    });
}

#[test]
fn the_worker_sees_the_block_or_is_woken() {
    bell_model(false);
}

#[test]
#[should_panic(expected = "sleeps for good")]
fn looking_before_silencing_is_found() {
    bell_model(true);
}
