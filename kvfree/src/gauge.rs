//! [`Pressure`]: is memory short, as far as the kernel's files say? One small reader, of a directory that tests can put in its place.
//!
//! Handed to by [`pressure`](crate::pressure), which asks it now and then while something is pending; hands to nobody.
//!
//! | file | what it says |
//! | --- | --- |
//! | `/proc/pressure/memory` | `some avg10=`: how much of the last ten seconds somebody has waited for memory, in per cent |
//! | `/proc/self/cgroup` | `0::PATH`: the process's control group (version 2) |
//! | `/sys/fs/cgroup/PATH/memory.high`, `memory.current` | from where on the kernel throttles it, and what it uses; so for the groups that it lies in |

use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// When memory counts as short, and where to look. Nothing is looked at unless a `Kvfree` or domain is given one of these.
///
/// ```
/// let pressure = quietus_kvfree::Pressure::system();
/// let reading = pressure.read();
/// println!("{:?} % of the time, {:?} % of the limit", reading.stalled, reading.used);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Pressure {
    root: PathBuf,
    stalled: f64,
    used: f64,
    every: Duration,
}

/// What the files say.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct Reading {
    /// How much of the last ten seconds somebody in the system has waited for memory, in per cent. `None`: not known.
    pub stalled: Option<f64>,
    /// How much of `memory.high` is in use, in per cent, in that of the process's control groups where it is most. `None`: no limit, or
    /// not known.
    pub used: Option<f64>,
    /// Files that could not be read, or understood. What they would have said counts as "no pressure".
    pub errors: u64,
}

impl Pressure {
    /// The system's files. Short: somebody has waited for memory for 10 % of the last ten seconds, or 95 % of `memory.high` are in use. Looked
    /// at once a second at most.
    pub fn system() -> Pressure {
        Pressure::at("/")
    }

    /// The same with files below `root`, for tests.
    pub fn at(root: impl Into<PathBuf>) -> Pressure {
        Pressure { root: root.into(), stalled: 10.0, used: 95.0, every: Duration::from_secs(1) }
    }

    /// Short from so many per cent of waiting on. Above 100: whatever the system says.
    pub fn stalled(mut self, percent: f64) -> Self {
        self.stalled = percent;
        self
    }

    /// Short from so many per cent of `memory.high` on. (The page cache counts, too.)
    pub fn used(mut self, percent: f64) -> Self {
        self.used = percent;
        self
    }

    /// Looks this far apart at the least. Only while something is pending.
    pub fn every(mut self, pause: Duration) -> Self {
        self.every = pause;
        self
    }

    pub(crate) fn pause(&self) -> Duration {
        self.every
    }

    /// Reads the files, now: some ten system calls, 30 µs or so.
    pub fn read(&self) -> Reading {
        let mut reading = Reading::default();
        let mut note = |found: io::Result<Option<f64>>| {
            found.unwrap_or_else(|_| {
                reading.errors += 1;
                None
            })
        };
        let stalled = note(self.read_stalled().map(Some));
        let used = note(self.read_used());
        Reading { stalled, used, ..reading }
    }

    /// Does a reading say that memory is short?
    pub fn is_short(&self, reading: &Reading) -> bool {
        reading.stalled.is_some_and(|percent| percent >= self.stalled)
            || reading.used.is_some_and(|percent| percent >= self.used)
    }

    fn read_stalled(&self) -> io::Result<f64> {
        let text = content(&self.root.join("proc/pressure/memory"))?;
        let some = text.lines().find_map(|line| line.strip_prefix("some "));
        let avg10 = some.and_then(|some| some.split(' ').find_map(|word| word.strip_prefix("avg10=")));
        let percent = avg10.and_then(|number| number.parse().ok());
        percent.filter(|percent| (0.0..=100.0).contains(percent)).ok_or_else(malformed)
    }

    /// In the process's group and all that it lies in, the worst.
    fn read_used(&self) -> io::Result<Option<f64>> {
        let groups = content(&self.root.join("proc/self/cgroup"))?;
        // None in a system with groups of version 1 only.
        let Some(group) = groups.lines().find_map(|line| line.strip_prefix("0::")) else { return Ok(None) };
        let group = Path::new(group.strip_prefix('/').ok_or_else(malformed)?);
        if group.components().any(|part| part.as_os_str() == "..") {
            return Ok(None); // outside of what this process can see
        }
        let mut worst = None;
        for group in group.ancestors() {
            let directory = self.root.join("sys/fs/cgroup").join(group);
            let high = match content(&directory.join("memory.high")) {
                Ok(high) => high,
                // The outermost group has none, nor has one without the controller.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if high.trim() == "max" {
                continue;
            }
            let (high, current) = (number(&high)?, number(&content(&directory.join("memory.current"))?)?);
            let percent = if high == 0.0 { 100.0 } else { 100.0 * current / high };
            worst = Some(percent.max(worst.unwrap_or(0.0)));
        }
        Ok(worst)
    }
}

/// A file that is no longer than such files are.
fn content(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(64 << 10).read_to_string(&mut text)?;
    Ok(text)
}

fn number(text: &str) -> io::Result<f64> {
    text.trim().parse::<u64>().map(|n| n as f64).map_err(|_| malformed())
}

fn malformed() -> io::Error {
    ErrorKind::InvalidData.into()
}
