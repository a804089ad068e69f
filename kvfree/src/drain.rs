//! Stage 3, drain: open blocks are taken back from CPUs, by age or for a barrier.
//!
//! Handed to by [`worker`](crate::worker) and [`barrier`](crate::barrier); hands to [`queue`](crate::queue).
//!
//! # Ordering
//! Pair **R** (the slab's `stop`: flag, restarting membarrier, edit), then **S**: one cookie, after everything was detached.

use crate::grace::GracePeriods;
use crate::lane::{Kind, Lane, MIXED};
use crate::queue::measure;
use crate::shared::Shared;
use crate::stats::{LaneName, LaneStats, Size};
use crate::sync::Ordering::Relaxed;
use quietus_slab::raw::{self, BlockNo, Word, unpack};
use std::collections::BTreeMap;

/// Closed blocks of a CPU that a statistic looks at: there are more only if a signal handler has filled so many.
const MOST_CLOSED: usize = 1024;

impl<G: GracePeriods> Shared<G> {
    /// Takes the blocks of every CPU that has one opened before the pass `before`, and queues them under one cookie. False: the
    /// kernel refused the membarrier, and CPUs' blocks stay where they are.
    pub(crate) fn drain(&self, before: u64) -> bool {
        let done = self.lanes.with_used(|words| self.drain_words(words, before));
        self.counters.drains.add(u64::from(done.1));
        done.0
    }

    /// [`drain`](Self::drain) of everything in the lanes that may hold objects of the cache with this id.
    pub(crate) fn drain_cache(&self, id: Lane) -> bool {
        // Looked up while lanes cannot be given back: a cache that is destroyed asks every handle, also one that is just going.
        self.lanes.with_used(|_| {
            let words = [id, MIXED].map(|lane| self.lanes.existing(lane).unwrap_or(Word::NONE));
            let words = if words[0] == Word::NONE { &words[1..] } else { &words[..] };
            words[words.len() - 1] == Word::NONE || self.drain_words(words, u64::MAX).0
        })
    }

    /// Whether it went well, and whether there was anything.
    fn drain_words(&self, words: &[Word], before: u64) -> (bool, bool) {
        let mut queue = self.lock_queue();
        // Chains detached, linked by `batch`; empty blocks, linked by `next`.
        let (mut chains, mut empties) = (BlockNo::NONE, BlockNo::NONE);
        let done = raw::stop(
            |site| {
                words.iter().any(|word| {
                    let (open, closed) = unpack(word.load(site));
                    // Relaxed: a stale look at a block's age.
                    closed.is_some() || open.is_some() && open.block().opened.load(Relaxed) < before
                })
            },
            |stopped| {
                for &word in words {
                    let (open, mut chain) = unpack(stopped.take(word, 0));
                    if open.is_some() && open.block().filled() == 0 {
                        open.block().set_next(empties);
                        empties = open;
                    } else if open.is_some() {
                        open.block().set_next(chain);
                        chain = open;
                    }
                    if chain.is_some() {
                        // Relaxed: detached, so ours (R).
                        chain.block().batch.store(chains.get(), Relaxed);
                        chains = chain;
                    }
                }
            },
        );
        let mut strays = self.strays.take_all();
        // After everything was detached (S).
        let cookie = self.gp.start();
        let mut some = false;
        while chains.is_some() {
            let chain = chains;
            // Relaxed: detached, so ours (R).
            chains = BlockNo::from_raw(chain.block().batch.load(Relaxed));
            self.enqueue(&mut queue, chain, cookie);
            some = true;
        }
        while strays.is_some() {
            let b = strays;
            strays = b.block().next();
            b.block().set_next(BlockNo::NONE);
            let bytes = b.block().bytes() as u64;
            self.enqueue(&mut queue, b, cookie);
            self.counters.stray_objects.sub(1);
            self.counters.stray_bytes.sub(bytes);
            some = true;
        }
        drop(queue);
        while empties.is_some() {
            let b = empties;
            empties = b.block().next();
            self.reserve.put(b);
        }
        (done, some)
    }

    /// Does any CPU have an open or closed block, is there a stray, or anything without a block? A racy look, except after the bell was silenced.
    pub(crate) fn any_open(&self) -> bool {
        self.lanes.with_used(|words| words.iter().any(|w| raw::all_sites().any(|s| w.load(s) != 0)))
            || !self.strays.is_empty()
            || self.overflow.pending()
    }

    /// What is pending, lane by lane.
    pub(crate) fn lane_stats(&self) -> Vec<LaneStats> {
        let mut lanes = BTreeMap::new();
        let mut add = |b: BlockNo, size: Size| {
            let name = match Kind::of(b) {
                Kind::Mixed => LaneName::Mixed,
                Kind::Same => LaneName::Cache(crate::lane::lane_of(b)),
                Kind::Large => LaneName::Large,
                Kind::Call => LaneName::Calls,
            };
            let sum: &mut Size = lanes.entry(name).or_default();
            sum.objects += size.objects;
            sum.bytes += size.bytes;
        };
        self.lock_queue().each(|batch| add(batch, measure(batch)));
        self.each_open(&mut add);
        let stats =
            |(lane, size): (_, Size)| LaneStats { lane, pending_objects: size.objects, pending_bytes: size.bytes };
        lanes.into_iter().map(stats).filter(|lane| lane.pending_objects != 0).collect()
    }

    /// What open and closed blocks hold: a racy look.
    pub(crate) fn open_size(&self) -> Size {
        let mut sum = Size::default();
        self.each_open(|_, size| {
            sum.objects += size.objects;
            sum.bytes += size.bytes;
        });
        sum
    }

    fn each_open(&self, mut f: impl FnMut(BlockNo, Size)) {
        let Some(words) = self.lanes.try_used() else { return };
        for word in words.iter() {
            for site in raw::all_sites() {
                let (open, closed) = unpack(word.load(site));
                // So many at most: the chain may be on its way elsewhere.
                let chain = std::iter::successors(Some(closed), |b| Some(b.block().next()));
                let chain = chain.take(MOST_CLOSED).take_while(|b| b.is_some());
                for b in std::iter::once(open).filter(|b| b.is_some()).chain(chain) {
                    f(b, Size { objects: Kind::of(b).objects(b.block().filled()), bytes: b.block().bytes() as u64 });
                }
            }
        }
    }
}
