//! Boxes with a destructor: allocated, retired, dropped and freed; all on the global allocator. And mixed sizes without one.

use super::Random;
use quietus::slab::{self, Cache};
use quietus::{Domain, pin};
use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

/// 64 bytes whose destructor looks at them.
pub(crate) struct Dropping([u64; 8]);

impl Drop for Dropping {
    fn drop(&mut self) {
        black_box(self.0[0]);
    }
}

/// How boxes end.
pub(crate) trait Ends {
    /// Allocates one and says goodbye to it, in a section.
    fn one(&self, value: u64);
    /// The same outside sections, where that is possible.
    fn one_outside(&self, value: u64) {
        self.one(value);
    }
    /// All are dropped.
    fn barrier(&self);
}

/// Ours, by the global domain, whose retirers help if [`help_globally`] was called in time.
pub(crate) struct Global;

/// From now on retirers of the global domain run destructors, too. To be called before anybody uses it.
pub(crate) fn help_globally() {
    Domain::builder().help_with_destructors(true).build_global().expect("first of all");
}

impl Ends for Global {
    #[inline(always)]
    fn one(&self, value: u64) {
        let _guard = pin();
        self.one_outside(value);
    }
    #[inline(always)]
    fn one_outside(&self, value: u64) {
        let object = black_box(NonNull::from(Box::leak(Box::new(Dropping([value; 8])))));
        // SAFETY: a Box's, never published.
        unsafe { Domain::global().retire_box(object) };
    }
    fn barrier(&self) {
        Domain::global().barrier();
    }
}

/// Ours, in a domain of one's own, whose destructors are run by its worker alone.
pub(crate) struct Quietus(Domain);

impl Quietus {
    pub(crate) fn new() -> Self {
        Quietus(Domain::new())
    }
}

/// Objects of a cache without a destructor, in blocks or each by a callback of its own.
pub(crate) struct Objects(Domain, Cache<super::Node>);

impl Objects {
    pub(crate) fn new(batching: bool) -> Self {
        Objects(Domain::builder().batching(batching).build(), Cache::new("objects"))
    }
}

impl Ends for Objects {
    #[inline(always)]
    fn one(&self, value: u64) {
        let object = black_box(slab::SlabBox::into_raw(self.1.alloc([value; 8])));
        // SAFETY: (1) never published. (2) Of this cache.
        unsafe { self.0.retire_in(&self.1, object) };
    }
    fn barrier(&self) {
        self.0.barrier();
    }
}

impl Ends for Quietus {
    #[inline(always)]
    fn one(&self, value: u64) {
        let _guard = self.0.pin();
        let object = black_box(NonNull::from(Box::leak(Box::new(Dropping([value; 8])))));
        // SAFETY: a Box's, never published.
        unsafe { self.0.retire_box(object) };
    }
    #[inline(always)]
    fn one_outside(&self, value: u64) {
        let object = black_box(NonNull::from(Box::leak(Box::new(Dropping([value; 8])))));
        // SAFETY: a Box's, never published.
        unsafe { self.0.retire_box(object) };
    }
    fn barrier(&self) {
        self.0.barrier();
    }
}

/// crossbeam-epoch's `defer_destroy`.
pub(crate) struct Crossbeam;

impl Ends for Crossbeam {
    #[inline(always)]
    fn one(&self, value: u64) {
        let guard = crossbeam_epoch::pin();
        let object = black_box(crossbeam_epoch::Owned::new(Dropping([value; 8])).into_shared(&guard));
        // SAFETY: never published.
        unsafe { guard.defer_destroy(object) };
    }
    fn barrier(&self) {
        super::crossbeam::flush_loop();
    }
}

/// At once.
pub(crate) struct Plain;

impl Ends for Plain {
    #[inline(always)]
    fn one(&self, value: u64) {
        drop(black_box(Box::new(Dropping([value; 8]))));
    }
    fn barrier(&self) {}
}

/// `n` boxes, until all are dropped.
#[inline(never)]
pub(crate) fn boxes(ends: &impl Ends, n: u64) -> Duration {
    let start = Instant::now();
    (0..n).for_each(|i| ends.one(i));
    ends.barrier();
    start.elapsed()
}

/// The same outside sections.
#[inline(never)]
pub(crate) fn boxes_outside(ends: &impl Ends, n: u64) -> Duration {
    let start = Instant::now();
    (0..n).for_each(|i| ends.one_outside(i));
    ends.barrier();
    start.elapsed()
}

/// The same by several threads.
pub(crate) fn crowd(ends: &(impl Ends + Sync), threads: u64, n: u64) -> Duration {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| (0..n / threads).for_each(|i| ends.one(i)));
        }
    });
    ends.barrier();
    start.elapsed()
}

/// Sizes from 16 to 2,048 bytes, small ones as often as large ones by powers of two.
fn layouts() -> Vec<Layout> {
    let mut random = Random::new(7);
    let mut size = || {
        let power = 16 << random.below(7);
        power + random.below(power) + 1
    };
    (0..1024).map(|_| Layout::from_size_align(size().clamp(16, 2048), 8).expect("layout")).collect()
}

/// `n` times memory of one of these sizes through `kvfree_rcu(ptr)`, until all is free.
pub(crate) fn mixed_deferred() -> impl FnMut(u64) -> Duration {
    let layouts = layouts();
    move |n| {
        let start = Instant::now();
        for i in 0..n as usize {
            let memory = black_box(slab::alloc(layouts[i % layouts.len()]).expect("memory").as_ptr());
            // SAFETY: room for a word; never published.
            unsafe {
                memory.cast::<u64>().write(i as u64);
                quietus::kvfree_rcu(memory);
            }
        }
        Domain::global().barrier();
        start.elapsed()
    }
}

/// The same by mimalloc's plain `malloc` and `free`.
pub(crate) fn mixed_immediate() -> impl FnMut(u64) -> Duration {
    let layouts = layouts();
    move |n| {
        let start = Instant::now();
        for i in 0..n as usize {
            let layout = layouts[i % layouts.len()];
            // SAFETY: no layout is empty; room for a word; freed with its layout.
            unsafe {
                let memory = black_box(mimalloc::MiMalloc.alloc(layout));
                memory.cast::<u64>().write(i as u64);
                mimalloc::MiMalloc.dealloc(black_box(memory), layout);
            }
        }
        start.elapsed()
    }
}
