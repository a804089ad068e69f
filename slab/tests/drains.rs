//! Remote drains of every cache while many threads allocate and free. Alone in its process: it needs memory that nobody else has
//! written to.

use quietus_slab::{all_stats, alloc, free, free_bulk, shrink};
use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A generator of its own for each thread.
struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Sets the flag when it goes, so that others end too if this thread panics.
struct Stop<'a>(&'a AtomicBool);
impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Memory whose first word says who has it: 0 while it is free. Free memory is not touched by the allocator, and fresh memory
/// is zero.
struct Owned(NonNull<u8>);

impl Owned {
    fn word(&self) -> &AtomicU64 {
        // SAFETY: at least 16 bytes, aligned to 16, live.
        unsafe { self.0.cast::<AtomicU64>().as_ref() }
    }
    fn take(layout: Layout, me: u64) -> Owned {
        let owned = Owned(alloc(layout).unwrap());
        let other = owned.word().swap(me, SeqCst);
        assert_eq!(other, 0, "{:p} is in two hands: {other} and {me}", owned.0);
        owned
    }
    /// The pointer, marked free.
    fn release(self, me: u64) -> *mut u8 {
        let other = self.word().swap(0, SeqCst);
        assert_eq!(other, me, "{:p} was taken from {me} by {other}", self.0);
        self.0.as_ptr()
    }
}
// SAFETY: memory, and a number that says whose.
unsafe impl Send for Owned {}

/// Remote drains of all size classes while more threads than CPUs allocate and free, singly and in bulk, their own objects and
/// each other's: no object is in two hands, none is lost.
#[test]
fn remote_drains_under_load() {
    let stop = AtomicBool::new(false);
    let threads = 6;
    let (send, receive): (Vec<_>, Vec<_>) = (0..threads).map(|_| mpsc::channel::<(Owned, u64)>()).unzip();
    std::thread::scope(|scope| {
        for (me, inbox) in (1..).zip(receive) {
            let (stop, send) = (&stop, send.clone());
            scope.spawn(move || {
                let _stop = Stop(stop);
                let mut random = Random(0x9e37_79b9 * me);
                let mut mine = Vec::new();
                while !stop.load(Relaxed) {
                    for _ in 0..random.next() % 64 {
                        let layout = Layout::from_size_align(16 + random.next() as usize % 700, 16).unwrap();
                        mine.push(Owned::take(layout, me));
                    }
                    match random.next() % 4 {
                        0 => {
                            let n = mine.len().min(random.next() as usize % 300);
                            let gone: Vec<*mut u8> = mine.drain(..n).map(|o| o.release(me)).collect();
                            // SAFETY: released just now, each once.
                            unsafe { free_bulk(&gone) };
                        }
                        1 => {
                            let to = &send[random.next() as usize % threads];
                            let n = mine.len().min(20);
                            mine.drain(..n).for_each(|o| to.send((o, me)).unwrap());
                        }
                        _ => {
                            let n = mine.len().min(random.next() as usize % 64);
                            for o in mine.drain(..n) {
                                // SAFETY: released just now.
                                unsafe { free(NonNull::new(o.release(me)).unwrap()) };
                            }
                        }
                    }
                    for (o, from) in inbox.try_iter() {
                        // SAFETY: released just now.
                        unsafe { free(NonNull::new(o.release(from)).unwrap()) };
                    }
                    if mine.len() > 3000 {
                        mine.drain(..2000).for_each(|o| {
                            // SAFETY: released just now.
                            unsafe { free(NonNull::new(o.release(me)).unwrap()) }
                        });
                    }
                }
                for o in mine {
                    // SAFETY: released just now.
                    unsafe { free(NonNull::new(o.release(me)).unwrap()) };
                }
                drop(send);
                for (o, from) in inbox {
                    // SAFETY: released just now.
                    unsafe { free(NonNull::new(o.release(from)).unwrap()) };
                }
            });
        }
        drop(send);
        let _stop = Stop(&stop);
        let end = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < end && !stop.load(Relaxed) {
            shrink();
            std::thread::sleep(Duration::from_micros(200));
        }
    });
    shrink();
    for s in all_stats().iter().filter(|s| s.name.starts_with("kmalloc-") && s.object_bytes < 768) {
        assert_eq!((s.live, s.refused), (0, 0), "{s:?}");
    }
}
