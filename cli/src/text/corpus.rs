//! Which files the index holds: found under the paths given, or in Cargo's registry, and cut to a bounded size.
//!
//! Files are taken in the order of their paths, and where there are more than may be taken, at equal distances along
//! that order, so the same tree gives the same corpus. Hidden files, what `.gitignore` names, and files over 1 MiB stay
//! out. What cannot be read or is no UTF-8 text is counted, named up to a few, and left out.

use std::fs;
use std::path::{Path, PathBuf};

use ignore::WalkBuilder;

/// No file above this is taken: it is generated, or no text.
const LARGEST_FILE: u64 = 1 << 20;
/// And no more text than this altogether.
const LARGEST_CORPUS: u64 = 32 << 20;
/// How many of the files left out are named.
const NAMED: usize = 3;

/// The files to index, all of them readable UTF-8 when they were looked at.
#[derive(Debug, Default)]
pub(crate) struct Corpus {
    /// Where they were sought, for the reader of the report.
    pub(crate) origin: String,
    /// Their paths, sorted.
    pub(crate) files: Vec<String>,
    /// How many candidates there were before the size of the corpus was cut.
    pub(crate) found: usize,
    /// Bytes of text in `files`.
    pub(crate) bytes: u64,
    /// Files that could not be read or are no UTF-8.
    pub(crate) skipped: usize,
    /// The first few of those, each with its reason.
    pub(crate) skipped_named: Vec<String>,
}

impl Corpus {
    /// Collects the corpus from `paths`, or from the default place if there are none.
    ///
    /// The error is one line: a path that does not exist, or nothing to index.
    pub(crate) fn collect(paths: &[PathBuf], max_files: usize) -> Result<Corpus, String> {
        let mut corpus = Corpus::default();
        let mut candidates = Vec::new();
        if paths.is_empty() {
            corpus.origin = corpus.default_candidates(&mut candidates);
        } else {
            for path in paths {
                if !path.exists() {
                    return Err(format!(
                        "no such file or directory, and no command (index, scale, latency, torture, top, slabinfo, env, help): '{}'",
                        path.display()
                    ));
                }
                corpus.walk(path, None, true, &mut candidates);
            }
            corpus.origin = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ");
        }
        candidates.sort_unstable();
        candidates.dedup();
        corpus.found = candidates.len();
        corpus.take(candidates, max_files);
        if corpus.files.is_empty() {
            return Err(match corpus.found {
                0 if paths.is_empty() => {
                    "no .rs files in Cargo's registry or below the current directory; name a PATH".into()
                }
                0 => format!("no file found under {}", corpus.origin),
                _ => format!("no file of readable UTF-8 text with words in it under {}", corpus.origin),
            });
        }
        Ok(corpus)
    }

    /// The `.rs` files of Cargo's registry sources; where there are none, those below the working directory.
    fn default_candidates(&mut self, candidates: &mut Vec<PathBuf>) -> String {
        let home = std::env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
        if let Some(sources) = home.map(|home| home.join("registry").join("src")).filter(|path| path.is_dir()) {
            self.walk(&sources, Some("rs"), false, candidates);
            if !candidates.is_empty() {
                return format!("the .rs files of {}", sources.display());
            }
        }
        self.walk(Path::new("."), Some("rs"), true, candidates);
        "the .rs files here".into()
    }

    /// Adds the files under `root`; `ignores` says whether `.gitignore` and its like are heeded.
    fn walk(&mut self, root: &Path, extension: Option<&str>, ignores: bool, candidates: &mut Vec<PathBuf>) {
        for entry in WalkBuilder::new(root).standard_filters(ignores).require_git(false).build() {
            match entry {
                Ok(entry) => {
                    let wanted =
                        extension.is_none_or(|extension| entry.path().extension().is_some_and(|it| it == extension));
                    // An error of the entry's own, such as a malformed ignore file, says nothing about its text.
                    if wanted && entry.file_type().is_some_and(|kind| kind.is_file()) {
                        candidates.push(entry.into_path());
                    }
                }
                Err(error) => self.skip(error.to_string()),
            }
        }
    }

    /// Reads candidates at equal distances along their order until enough are taken.
    fn take(&mut self, candidates: Vec<PathBuf>, max_files: usize) {
        let found = candidates.len();
        let sizes = candidates.iter().filter_map(|path| fs::metadata(path).ok()).map(|file| file.len());
        let bytes: u64 = sizes.filter(|&size| size <= LARGEST_FILE).sum();
        // As many as are allowed, or as fit: at their mean size, so that the last of them are not left out.
        let fitting = (found as u64 * LARGEST_CORPUS).checked_div(bytes).map_or(found, |fitting| fitting as usize);
        let wanted = found.min(max_files).min(fitting.max(1));
        for (i, path) in candidates.into_iter().enumerate() {
            if i * wanted / found == (i + 1) * wanted / found {
                continue;
            }
            match readable(&path) {
                Ok(None) => {}
                Ok(Some((_, bytes))) if self.bytes + bytes > LARGEST_CORPUS => {}
                Ok(Some((name, bytes))) => {
                    self.bytes += bytes;
                    self.files.push(name);
                }
                Err(why) => self.skip(why),
            }
        }
    }

    fn skip(&mut self, why: String) {
        self.skipped += 1;
        if self.skipped_named.len() < NAMED {
            self.skipped_named.push(why.replace('\n', " "));
        }
    }

    /// What was taken and what was left out, in one or two lines.
    pub(crate) fn describe(&self) -> String {
        let mut lines = format!(
            "{} of {} files taken, {:.1} MiB of text: {}",
            self.files.len(),
            self.found,
            self.bytes as f64 / f64::from(1 << 20),
            self.origin
        );
        if self.skipped > 0 {
            let more = if self.skipped > self.skipped_named.len() { ", …" } else { "" };
            lines += &format!(
                "\n{} unreadable or not UTF-8, left out: {}{more}",
                self.skipped,
                self.skipped_named.join(", ")
            );
        }
        lines
    }
}

/// The file's name and size if it is text with a word in it; `None` if it is too large or empty of words.
fn readable(path: &Path) -> Result<Option<(String, u64)>, String> {
    let shown = path.display();
    let name = path.to_str().ok_or_else(|| format!("{shown} (its name is not UTF-8)"))?;
    let size = fs::metadata(path).map_err(|error| format!("{shown} ({error})"))?.len();
    if size > LARGEST_FILE {
        return Ok(None);
    }
    let bytes = fs::read(path).map_err(|error| format!("{shown} ({error})"))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| format!("{shown} (not UTF-8)"))?;
    Ok(super::words::words(text).next().map(|_| (name.to_owned(), text.len() as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("quietus-corpus-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory for the test");
        dir
    }

    #[test]
    fn bad_files_are_counted_and_named() {
        let dir = scratch("bad");
        fs::write(dir.join("good.txt"), "two words").expect("written");
        fs::write(dir.join("bad.txt"), [0xff, 0xfe, b'a', b'b']).expect("written");
        fs::write(dir.join("empty.txt"), "1 + 2").expect("written");
        let corpus = Corpus::collect(std::slice::from_ref(&dir), 100).expect("one file is good");
        assert_eq!((corpus.files.len(), corpus.found, corpus.skipped), (1, 3, 1));
        assert!(corpus.skipped_named[0].contains("bad.txt (not UTF-8)"), "{:?}", corpus.skipped_named);
        let _ = fs::remove_dir_all(&dir);
    }

    #[test]
    fn the_cut_is_even_and_deterministic() {
        let dir = scratch("cut");
        for n in 0..20 {
            fs::write(dir.join(format!("f{n:02}.rs")), "fn word").expect("written");
        }
        let corpus = Corpus::collect(std::slice::from_ref(&dir), 5).expect("files");
        assert_eq!((corpus.files.len(), corpus.found), (5, 20));
        let again = Corpus::collect(std::slice::from_ref(&dir), 5).expect("files");
        assert_eq!(corpus.files, again.files);
        assert!(corpus.files[0].ends_with("f03.rs") && corpus.files[4].ends_with("f19.rs"), "{:?}", corpus.files);
        let _ = fs::remove_dir_all(&dir);
    }

    #[test]
    fn what_is_missing_or_empty_is_an_error_of_one_line() {
        let error = Corpus::collect(&[PathBuf::from("/nonexistent")], 10).expect_err("no such path");
        assert!(error.contains("'/nonexistent'") && !error.contains('\n'), "{error}");
        let dir = scratch("none");
        assert!(Corpus::collect(std::slice::from_ref(&dir), 10).is_err());
        let _ = fs::remove_dir_all(&dir);
    }
}
