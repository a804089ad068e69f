//! Caches of every kind, and what a thread does with them: it makes an object of each in turn, and lets go of the oldest that it holds.
//!
//! The account at the end compares what the threads hold with what the allocator says.

use std::alloc::Layout;
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use quietus::slab::{self, Cache, SlabBox, SlabInfo, Stable, StableCache};
use quietus::{Domain, pin};
use serde::Serialize;

/// Objects that a thread holds of each kind.
const HELD: usize = 200;
/// Objects of the cache that is chained to another; each second one is freed afterwards.
const PARTS: usize = 1_000;
/// Rounds between two looks at the clock.
const GLANCE: u64 = 32;
/// Rounds of a thread at least, however late it starts: afterwards it holds as many as it ever will.
const LEAST: u64 = 4 * HELD as u64;
/// Bytes of what goes to the size classes.
const SIZES: [usize; 6] = [24, 64, 200, 500, 1_500, 6_000];

/// Memory that says who it is, twice.
type Words<const N: usize> = [u64; N];

fn is_whole<const N: usize>(words: &Words<N>) -> bool {
    words[0] == words[N - 1]
}

/// An object that stays constructed.
struct Session {
    user: AtomicU64,
    key: [u64; 15],
}

const KEY: u64 = 0x5eed;

impl Session {
    fn new() -> Session {
        Session { user: AtomicU64::new(0), key: [KEY; 15] }
    }
}

/// The caches.
pub(super) struct Caches {
    points: Cache<Words<8>>,
    names: Cache<String>,
    inodes: Cache<Words<12>>,
    dentries: Cache<Words<12>>,
    whole: Cache<Words<6>>,
    parts: Vec<SlabBox<Words<6>>>,
    /// The cache of the parts, and why it could not be chained to `whole`.
    unchained: Option<(Cache<Words<6>>, String)>,
    sessions: StableCache<Session>,
}

/// What a thread holds, and has done.
#[derive(Default)]
pub(super) struct Held {
    points: VecDeque<SlabBox<Words<8>>>,
    names: VecDeque<SlabBox<String>>,
    inodes: VecDeque<SlabBox<Words<12>>>,
    dentries: VecDeque<SlabBox<Words<12>>>,
    whole: VecDeque<SlabBox<Words<6>>>,
    sessions: VecDeque<Stable<Session>>,
    memory: VecDeque<Memory>,
    tally: Tally,
    spoilt: u64,
}

/// Objects of all threads.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(super) struct Tally {
    pub(super) made: u64,
    pub(super) freed: u64,
    pub(super) retired: u64,
    pub(super) held: u64,
}

/// Memory of a size class, which begins with its number.
struct Memory(NonNull<u64>);

// SAFETY: it owns its memory, which may be freed anywhere.
unsafe impl Send for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: from `slab::alloc`, and nobody else's.
        unsafe { slab::free(self.0.cast()) }
    }
}

/// Adds an object; the oldest, if there are enough.
fn turn<T>(queue: &mut VecDeque<T>, new: T) -> Option<T> {
    queue.push_back(new);
    (queue.len() > HELD).then(|| queue.pop_front()).flatten()
}

impl Caches {
    pub(super) fn new() -> Caches {
        let whole: Cache<Words<6>> = Cache::new("whole");
        let parts: Cache<Words<6>> = Cache::new("parts");
        let mut held: Vec<_> = (0..PARTS as u64).map(|n| parts.alloc([n; 6])).collect();
        // A checked cache cannot be chained.
        let unchained = parts.destroy_into(&whole).err().map(|error| (error.cache, error.reason.to_string()));
        // With the first free of an object in it a full slab follows.
        let mut n = 0;
        held.retain(|_| {
            n += 1;
            n % 2 == 0
        });
        let merged = |name| Cache::builder(name).merge(true).build().unwrap_or_else(|e| panic!("cache {name}: {e}"));
        let sessions = Cache::builder("sessions").constructed(Session::new).type_stable(Domain::global());
        Caches {
            points: Cache::new("points"),
            names: Cache::new("names"),
            inodes: merged("inodes"),
            dentries: merged("dentries"),
            whole,
            parts: held,
            unchained,
            sessions: sessions.build().unwrap_or_else(|e| panic!("cache sessions: {e}")),
        }
    }

    /// What a thread does until then: the points and each second inode are retired, the rest is freed at once.
    pub(super) fn work(&self, until: Instant) -> Held {
        let mut held = Held::default();
        for n in (0_u64..).step_by(GLANCE as usize) {
            (n..n + GLANCE).for_each(|n| self.round(&mut held, n));
            if n >= LEAST && Instant::now() >= until {
                break;
            }
        }
        held
    }

    fn round(&self, held: &mut Held, n: u64) {
        let guard = pin();
        if let Some(old) = turn(&mut held.points, self.points.alloc([n; 8])) {
            held.check(is_whole(&old));
            // SAFETY: no section can reach it, and it is this cache's.
            unsafe { Domain::global().retire_in(&self.points, SlabBox::into_raw(old)) };
            held.tally.retired += 1;
        }
        if let Some(old) = turn(&mut held.inodes, self.inodes.alloc([n; 12])) {
            held.check(is_whole(&old));
            if n.is_multiple_of(2) {
                // SAFETY: as above.
                unsafe { Domain::global().retire(SlabBox::into_raw(old)) };
                held.tally.retired += 1;
            } else {
                held.tally.freed += 1;
            }
        }
        drop(guard);
        if let Some(old) = turn(&mut held.names, self.names.alloc(format!("name {n}"))) {
            held.let_go(old.starts_with("name "));
        }
        if let Some(old) = turn(&mut held.dentries, self.dentries.alloc([n; 12])) {
            held.let_go(is_whole(&old));
        }
        if let Some(old) = turn(&mut held.whole, self.whole.alloc([n; 6])) {
            held.let_go(is_whole(&old));
        }
        let session = self.sessions.alloc();
        // Relaxed: this thread's own, until it lets go of it.
        session.user.store(n, Relaxed);
        if let Some(old) = turn(&mut held.sessions, session) {
            let user = old.user.load(Relaxed);
            held.let_go(old.key == [KEY; 15] && user + HELD as u64 == n);
        }
        let layout = Layout::from_size_align(SIZES[n as usize % SIZES.len()], 8).expect("small");
        let mut made = 6;
        if let Ok(memory) = slab::alloc(layout) {
            // SAFETY: fresh, 24 bytes at least, aligned to 8.
            unsafe { memory.cast::<u64>().write(n) };
            made += 1;
            if let Some(old) = turn(&mut held.memory, Memory(memory.cast())) {
                // SAFETY: written above, and ours.
                let number = unsafe { old.0.read() };
                held.let_go(number + HELD as u64 == n);
            }
        }
        held.tally.made += made;
    }

    /// Objects that are out of each cache, by its name.
    fn expected(&self, held: &[Held]) -> [(&'static str, u64); 7] {
        let sum = |of: fn(&Held) -> usize| held.iter().map(|held| of(held) as u64).sum::<u64>();
        let parts = self.parts.len() as u64;
        let (chained, apart) = if self.unchained.is_none() { (parts, 0) } else { (0, parts) };
        [
            ("points", sum(|held| held.points.len())),
            ("names", sum(|held| held.names.len())),
            ("inodes", sum(|held| held.inodes.len())),
            ("dentries", sum(|held| held.dentries.len())),
            ("whole", sum(|held| held.whole.len()) + chained),
            ("parts", apart),
            ("sessions", sum(|held| held.sessions.len())),
        ]
    }

    /// Compares what is held with what the allocator says: exact, since nobody is at work. What is wrong, a line each.
    pub(super) fn account(&self, info: &SlabInfo, held: &[Held]) -> Vec<String> {
        let expected = self.expected(held);
        let mut wrong = Vec::new();
        let mut seen = 0;
        for row in &info.caches {
            let s = &row.stats;
            let own = expected.iter().filter(|(name, _)| s.name == *name || s.aliases.contains(name));
            let (names, objects) = own.fold((0, 0), |(names, objects), (_, n)| (names + 1, objects + n));
            if names > 0 && objects != s.live {
                wrong.push(format!("{}: {objects} objects are held, {} are active", s.name, s.live));
            }
            seen += names;
        }
        // A chained cache is not shown.
        let caches = expected.len() - usize::from(self.unchained.is_none());
        if seen != caches {
            wrong.push(format!("{seen} of {caches} caches are shown"));
        }
        wrong
    }

    /// What there is to know about the caches beside the picture.
    pub(super) fn remarks(&self) -> Vec<String> {
        let chained = match &self.unchained {
            None => "parts was chained to whole, and is shown there".to_owned(),
            Some((_, why)) => format!("parts could not be chained: {why}"),
        };
        vec![chained, "the values of sessions stay constructed, and of their type for readers".to_owned()]
    }

    /// The end of all of it: what is still out then, a line for each cache.
    pub(super) fn end(mut self) -> Vec<String> {
        self.parts.clear();
        Domain::global().barrier();
        let info = slab::slabinfo();
        let mut wrong = self.account(&info, &[]);
        self.sessions.shrink();
        Domain::global().barrier();
        let left = self.sessions.stats().slabs;
        if left > 0 {
            wrong.push(format!("sessions: {left} slabs stay although nobody has an object"));
        }
        wrong
    }
}

impl Held {
    fn check(&mut self, whole: bool) {
        self.spoilt += u64::from(!whole);
    }

    /// An object is about to be freed.
    fn let_go(&mut self, whole: bool) {
        self.check(whole);
        self.tally.freed += 1;
    }

    /// Objects that were not what they had been made.
    pub(super) fn spoilt(&self) -> Option<String> {
        (self.spoilt > 0).then(|| format!("{} objects were spoilt while a thread held them", self.spoilt))
    }

    /// What all of them have done.
    pub(super) fn tally(all: &[Held]) -> Tally {
        all.iter().map(|held| held.tally).fold(Tally::default(), |sum, of| Tally {
            made: sum.made + of.made,
            freed: sum.freed + of.freed,
            retired: sum.retired + of.retired,
            held: sum.held + of.made - of.freed - of.retired,
        })
    }
}
