//! What the options take, with the bounds, and how to say so.

use std::str::FromStr;
use std::thread;

/// As many as may run at the same time.
pub(super) fn processors() -> usize {
    thread::available_parallelism().map_or(1, |processors| processors.get())
}

/// Readers and writers together are more than the processors on a small machine: what a section costs whose thread is
/// not running has to show.
pub(super) fn half_the_processors() -> usize {
    (processors() / 2).max(2)
}

const THREADS: &str = "1 to 1024";
const SECONDS: &str = "0.1 to 3600";
const FILES: &str = "1 to 100000";
const REPEATS: &str = "1 to 1000000";
const SEEDS: &str = "0 to 18446744073709551615";
const SIZES: &str = "16, 32, 64, 128, 256, 512, 1024, 2048, 4096";

/// What an option takes, for whoever gave it something else. Where the values have names, clap lists them.
pub(crate) fn allowed(option: &str) -> Option<&'static str> {
    match option {
        "--readers" | "--writers" | "--threads" => Some(THREADS),
        "--seconds" | "--interval" => Some(SECONDS),
        "--max-files" => Some(FILES),
        "--allocs" | "--loops" => Some(REPEATS),
        "--size" => Some(SIZES),
        "--seed" => Some(SEEDS),
        "--plot" => Some("the name of a file"),
        "--json" => Some("the name of a file, or -"),
        _ => None,
    }
}

/// A number of threads.
pub(super) fn threads(value: &str) -> Result<usize, &'static str> {
    between(value, 1, 1024)
}

/// A number of files.
pub(super) fn files(value: &str) -> Result<usize, &'static str> {
    between(value, 1, 100_000)
}

/// How often.
pub(super) fn repeats(value: &str) -> Result<u64, &'static str> {
    between(value, 1, 1_000_000)
}

/// The size of an object, in bytes.
pub(super) fn size(value: &str) -> Result<usize, &'static str> {
    let size: usize = between(value, 16, 4096)?;
    if size.is_power_of_two() { Ok(size) } else { Err("is no power of two") }
}

/// What chance begins with.
pub(super) fn seed(value: &str) -> Result<u64, &'static str> {
    between(value, 0, u64::MAX)
}

/// A time in seconds.
pub(super) fn seconds(value: &str) -> Result<f64, &'static str> {
    between(value, 0.1, 3600.0)
}

/// The number, or what is wrong with it; negative ones are numbers too, wherever they are not allowed.
fn between<T: FromStr + PartialOrd>(value: &str, least: T, most: T) -> Result<T, &'static str> {
    match value.parse::<T>() {
        Ok(number) if least <= number && number <= most => Ok(number),
        Err(_) if value.parse::<f64>().is_err() => Err("is not a number"),
        Err(_) if value.contains(['.', 'e', 'E']) => Err("is not a whole number"),
        _ => Err("is out of range"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_bounds() {
        assert_eq!((threads("1"), threads("1024")), (Ok(1), Ok(1024)));
        for bad in ["0", "1025", "x", "-1", "1.5", ""] {
            assert!(threads(bad).is_err(), "{bad}");
        }
        for bad in ["0", "x", "NaN", "inf", "1e9"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        for listed in SIZES.split(", ") {
            assert!(size(listed).is_ok(), "{listed}");
        }
        assert_eq!([size("48"), size("8"), size("8192")].map(|bad| bad.is_err()), [true; 3]);
        assert_eq!((repeats("1000000"), repeats("0")), (Ok(1_000_000), Err("is out of range")));
    }
}
