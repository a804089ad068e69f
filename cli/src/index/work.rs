//! One writer's account: what it did, what it retired, and how long retiring took, sampled.

use std::time::Instant;

use hdrhistogram::Histogram;

use crate::reclaimer::Retired;
use crate::timing::{clock_ns, nanoseconds, since};

/// One retire in this many is timed.
const SAMPLED: u32 = 1024;

/// The account of one writer.
#[derive(Debug)]
pub(crate) struct Work {
    /// Lists replaced, made or dropped.
    pub(crate) updates: u64,
    /// What was handed to the reclaimer.
    pub(crate) retired: Retired,
    /// How long that took, in nanoseconds, less what reading the clock takes.
    pub(crate) retire_ns: Histogram<u64>,
    until_sample: u32,
    clock_ns: u64,
}

impl Work {
    /// Nothing done yet.
    pub(crate) fn new() -> Work {
        Work {
            updates: 0,
            retired: Retired::default(),
            retire_ns: nanoseconds(),
            until_sample: SAMPLED,
            clock_ns: clock_ns(),
        }
    }

    /// One list replaced, made or dropped.
    #[inline]
    pub(crate) fn count_update(&mut self) {
        self.updates += 1;
    }

    /// Runs `retire`, which retires a list of so many bytes, and times it now and then.
    #[inline]
    pub(crate) fn retire_list(&mut self, bytes: usize, retire: impl FnOnce()) {
        self.retired.objects += 1;
        self.retired.bytes += bytes as u64;
        self.until_sample -= 1;
        if self.until_sample > 0 {
            return retire();
        }
        self.until_sample = SAMPLED;
        let start = Instant::now();
        retire();
        self.retire_ns.saturating_record(since(start).saturating_sub(self.clock_ns));
    }

    /// Runs `retire`, which retires a node.
    pub(crate) fn retire_node(&mut self, retire: impl FnOnce()) {
        self.retired.objects += 1;
        self.retired.bytes += size_of::<super::node::Node>() as u64;
        retire();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_retire_in_1024_is_timed() {
        let mut work = Work::new();
        let mut ran = 0;
        for _ in 0..3 * SAMPLED {
            work.retire_list(100, || ran += 1);
        }
        assert_eq!((ran, work.retire_ns.len()), (3 * SAMPLED, 3));
        assert_eq!((work.retired.objects, work.retired.bytes), (3072, 307_200));
    }
}
