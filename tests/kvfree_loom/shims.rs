//! What the included modules ask of the rest of kvfree, and of the allocator.

use crate::world::{number, world};

/// The allocator's `free_bulk`.
///
/// # Safety
/// 1. (The allocator's.)
pub(crate) unsafe fn free_bulk(objects: &[*mut u8]) {
    objects.iter().for_each(|&p| world().free(number(p)));
}

/// The allocator's `raw`: one CPU, one segment number that two segments have one after the other, blocks without contents.
pub(crate) mod raw {
    use crate::world::world;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use std::sync::{Mutex, OnceLock};

    pub(crate) const GRANULE: usize = 16;
    pub(crate) const WEIGHT_UNIT: usize = 16;

    pub(crate) struct Topology {
        pub(crate) possible: usize,
    }
    pub(crate) fn topology() -> Topology {
        Topology { possible: 1 }
    }
    pub(crate) fn current_cpu() -> u32 {
        0
    }

    /// # Safety
    /// 1. (The allocator's.)
    pub(crate) unsafe fn place(p: *mut u8) -> (usize, *mut u8, usize) {
        let base = p.addr() & !0xffff;
        (0, std::ptr::without_provenance_mut(base), p.addr() - base)
    }

    pub(crate) struct Slab;
    impl Slab {
        pub(crate) fn weight(&self) -> u32 {
            1
        }
        pub(crate) fn dropper(&self) -> *mut () {
            std::ptr::null_mut()
        }
    }
    /// # Safety
    /// 1. (The allocator's.)
    pub(crate) unsafe fn slab(_: *mut u8) -> Slab {
        Slab
    }

    #[derive(Clone, Copy)]
    pub(crate) struct Site;
    impl Site {
        pub(crate) fn index(self) -> u32 {
            0
        }
    }
    pub(crate) fn regions() -> usize {
        1
    }

    #[derive(Clone, Copy)]
    pub(crate) struct BlockNo;
    pub(crate) struct Block {
        pub(crate) owner: AtomicU32,
    }
    impl Block {
        pub(crate) fn reset(&self, _: u32) {}
    }
    impl BlockNo {
        pub(crate) fn block(self) -> &'static Block {
            static BLOCK: OnceLock<Block> = OnceLock::new();
            BLOCK.get_or_init(|| Block { owner: AtomicU32::new(0) })
        }
    }

    /// A stack by number only: pair N has its own models.
    #[derive(Default)]
    pub(crate) struct Stack(Mutex<u32>);
    impl Stack {
        pub(crate) fn push(&self, b: BlockNo) {
            b.block().owner.store(0, Relaxed);
            *self.0.lock().unwrap() += 1;
        }
        pub(crate) fn pop(&self) -> Option<BlockNo> {
            let mut n = self.0.lock().unwrap();
            *n = n.checked_sub(1)?;
            Some(BlockNo)
        }
    }

    pub(crate) fn try_page() -> Option<BlockNo> {
        let pages = &world().pages;
        pages.set(pages.get().checked_sub(1)?);
        Some(BlockNo)
    }
    pub(crate) fn page() -> Option<BlockNo> {
        try_page()
    }
    pub(crate) fn put_page(_: BlockNo) {
        let pages = &world().pages;
        pages.set(pages.get() + 1);
    }
    /// Only a refill grows the supply: it is at work from here on.
    pub(crate) fn grow(n: u32) -> u32 {
        world().filling.set(true);
        world().pages.set(world().pages.get() + n);
        n
    }
}

/// kvfree's `plane`: 64 words for a segment.
pub(crate) mod plane {
    use crate::raw::GRANULE;
    use crate::sync::AtomicU64;

    pub(crate) const WORDS: usize = 64;

    pub(crate) struct Table<T>(Vec<T>);
    impl<T: Default> Table<T> {
        /// # Safety
        /// 1. (The real one's.)
        pub(crate) unsafe fn new(len: usize) -> Self {
            Table((0..len).map(|_| T::default()).collect())
        }
        pub(crate) fn entries(&self) -> &[T] {
            &self.0
        }
    }

    pub(crate) struct Plane([AtomicU64; WORDS]);
    impl Plane {
        pub(crate) fn new() -> Plane {
            Plane(std::array::from_fn(|_| AtomicU64::new(0)))
        }
        pub(crate) fn segments(&self) -> usize {
            1
        }
        pub(crate) fn words(&self, _: usize) -> Option<&[AtomicU64; WORDS]> {
            Some(&self.0)
        }
    }

    pub(crate) fn at(offset: usize) -> (usize, u64) {
        (offset / GRANULE / 64, 1 << (offset / GRANULE % 64))
    }
}

/// kvfree's `head`.
pub(crate) mod head {
    use crate::sync::AtomicPtr;
    use std::ptr::NonNull;

    #[repr(C)]
    pub(crate) struct RcuHead {
        pub(crate) next: AtomicPtr<RcuHead>,
        pub(crate) callback: AtomicPtr<Callback>,
    }
    pub(crate) struct Callback {
        pub(crate) run: unsafe fn(NonNull<RcuHead>),
        pub(crate) bytes: usize,
    }
    impl RcuHead {
        /// Not null, as the real one's: whoever sees the head before it is queued is to fail, not to crash.
        pub(crate) fn new() -> Self {
            static NEVER: Callback = Callback::new(|_| panic!("a head is seen before it was queued"), 0);
            RcuHead { next: AtomicPtr::default(), callback: AtomicPtr::new((&raw const NEVER).cast_mut()) }
        }
    }
    impl Callback {
        pub(crate) const fn new(run: unsafe fn(NonNull<RcuHead>), bytes: usize) -> Self {
            Callback { run, bytes }
        }
    }
}

/// kvfree's `check`: debug mode is off.
pub(crate) mod check {
    pub(crate) fn freed(_: *mut u8) {}
}

/// kvfree's `reclaim`.
pub(crate) mod reclaim {
    pub(crate) type Function = unsafe fn(*mut u8);
}

/// kvfree's `shared`: what the sweep uses of it.
pub(crate) mod shared {
    use crate::grace::{Cookie, GracePeriods};
    use crate::stats::Counters;
    use crate::sweep::Overflow;
    use std::sync::Arc;

    pub(crate) struct Shared<G> {
        pub(crate) gp: G,
        pub(crate) overflow: Overflow,
        pub(crate) counters: Counters,
    }
    impl<G: GracePeriods> Shared<G> {
        pub(crate) fn new(gp: G) -> Arc<Self> {
            Arc::new(Shared { gp, overflow: Overflow::new(), counters: Counters::default() })
        }
        pub(crate) fn run(&self, f: impl FnOnce()) -> bool {
            f();
            true
        }
        /// No forks here.
        pub(crate) fn is_still(&self) -> bool {
            false
        }
        pub(crate) fn report_taken_back(&self, cookie: Cookie, objects: u64) {
            panic!("grace period {} of {objects} objects was taken back", cookie.0);
        }
    }
}
