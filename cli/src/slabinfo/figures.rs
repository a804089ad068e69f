//! A picture of the caches: as the kernel prints it, with totals behind it; and as JSON.

use quietus::slab::{Row, SLAB_BYTES, SlabInfo};
use serde::Serialize;

use super::workload::Tally;
use crate::numbers::{count, grouped, rounded, size};

/// All of it, as the JSON has it.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    pub(super) threads: usize,
    pub(super) seconds: f64,
    #[serde(flatten)]
    pub(super) tally: Tally,
    pub(super) caches: Vec<CacheRow>,
    pub(super) totals: Totals,
    pub(super) verified: bool,
    /// The kernel's lines.
    #[serde(skip)]
    picture: String,
    #[serde(skip)]
    remarks: Vec<String>,
}

/// A cache, by the names of the kernel's columns.
#[derive(Debug, Serialize)]
pub(super) struct CacheRow {
    name: &'static str,
    aliases: Vec<&'static str>,
    active_objs: u64,
    num_objs: u64,
    objsize: u32,
    objperslab: u32,
    pagesperslab: u32,
    limit: u32,
    batchcount: u32,
    sharedfactor: u32,
    active_slabs: u32,
    num_slabs: u32,
    sharedavail: u64,
}

/// Sums over all caches.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Totals {
    caches: u64,
    active_objs: u64,
    num_objs: u64,
    active_slabs: u64,
    num_slabs: u64,
    bytes: u64,
}

impl CacheRow {
    fn of(row: &Row) -> CacheRow {
        let s = &row.stats;
        CacheRow {
            name: s.name,
            aliases: s.aliases.clone(),
            active_objs: s.live,
            num_objs: s.objects,
            objsize: s.object_bytes,
            objperslab: row.objects_per_slab(),
            pagesperslab: row.pages_per_slab(),
            limit: s.block_capacity,
            batchcount: s.block_capacity,
            sharedfactor: row.barn_most,
            active_slabs: row.active_slabs(),
            num_slabs: s.slabs,
            sharedavail: s.in_barns,
        }
    }
}

impl Totals {
    fn of(rows: &[CacheRow]) -> Totals {
        rows.iter().fold(Totals::default(), |sum, row| Totals {
            caches: sum.caches + 1,
            active_objs: sum.active_objs + row.active_objs,
            num_objs: sum.num_objs + row.num_objs,
            active_slabs: sum.active_slabs + u64::from(row.active_slabs),
            num_slabs: sum.num_slabs + u64::from(row.num_slabs),
            bytes: sum.bytes + u64::from(row.num_slabs) * SLAB_BYTES as u64,
        })
    }
}

impl Figures {
    pub(super) fn new(
        info: &SlabInfo,
        threads: usize,
        seconds: f64,
        tally: Tally,
        remarks: Vec<String>,
        verified: bool,
    ) -> Figures {
        let caches: Vec<CacheRow> = info.caches.iter().map(CacheRow::of).collect();
        let totals = Totals::of(&caches);
        Figures {
            threads,
            seconds: rounded(seconds),
            tally,
            caches,
            totals,
            verified,
            picture: info.to_string(),
            remarks,
        }
    }

    /// The kernel's lines; whoever reads those skips what begins with `#`.
    pub(super) fn text(&self) -> String {
        let (t, tally) = (&self.totals, &self.tally);
        let mut lines = vec![
            format!(
                "total: {}, {} of {} objects active, {} of {} slabs, {}",
                count(t.caches, "cache"),
                grouped(t.active_objs),
                grouped(t.num_objs),
                grouped(t.active_slabs),
                grouped(t.num_slabs),
                size(t.bytes)
            ),
            format!(
                "{} made {} in {} s: {} freed, {} retired, {} held",
                count(self.threads as u64, "thread"),
                count(tally.made, "object"),
                self.seconds,
                grouped(tally.freed),
                grouped(tally.retired),
                grouped(tally.held)
            ),
        ];
        lines.extend(self.remarks.iter().cloned());
        lines.push(format!(
            "verified: {}",
            if self.verified { "yes: every object is accounted for" } else { "FAILURE" }
        ));
        lines.iter().fold(self.picture.clone(), |text, line| text + "# " + line + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quietus::slab::{Cache, slabinfo};

    #[test]
    fn totals_are_sums_of_the_kernels_columns() {
        let cache: Cache<[u64; 64]> = Cache::new("summed");
        let _held: Vec<_> = (0..200).map(|n| cache.alloc([n; 64])).collect();
        let mut info = slabinfo();
        info.caches.retain(|row| row.stats.name == "summed");
        info.caches.push(info.caches[0].clone());
        let figures = Figures::new(&info, 1, 0.5, Tally::default(), vec!["so it is".into()], true);
        let twice = Totals {
            caches: 2,
            active_objs: 400,
            num_objs: 512,
            active_slabs: 4,
            num_slabs: 4,
            bytes: 4 * SLAB_BYTES as u64,
        };
        assert_eq!(figures.totals, twice);
        let text = figures.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "slabinfo - version: 2.1");
        assert_eq!(lines[2], lines[3]);
        let words: Vec<&str> = lines[2].split_whitespace().collect();
        let row = &figures.caches[0];
        let [objsize, per_slab, pages] = [row.objsize, row.objperslab, row.pagesperslab].map(|n| n.to_string());
        assert_eq!(words[..6], ["summed", "200", "256", &objsize, &per_slab, &pages]);
        assert_eq!(words[13..15], ["2", "2"], "{words:?}");
        assert_eq!(lines[4], "# total: 2 caches, 400 of 512 objects active, 4 of 4 slabs, 256.0 KiB");
        assert!(lines[5..].iter().all(|line| line.starts_with("# ")) && lines[6] == "# so it is");
    }
}
