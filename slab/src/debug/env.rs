//! `QUIETUS_SLAB_DEBUG`, which switches debugging on without a change to the program, and what the other variables may be.
//!
//! Read once, when the first cache is made; asked by [`flags`](super::flags) for each.
//!
//! The value is the kernel's `slab_debug`: letters, then names of caches, separated by commas; several such groups by semicolons. No
//! letters: all checks; no names: all caches; `-`: none. A cache takes the first group that names it, else the last one that names none.

use super::flags::DebugFlags;
use crate::lock::once;
use std::fmt;
use std::io::Write;
use std::sync::OnceLock;

const DEBUG: &str = "QUIETUS_SLAB_DEBUG";
const SWITCHES: [&str; 2] = ["QUIETUS_RSEQ", "QUIETUS_SLAB_WORKERS"];

/// A variable of the environment whose value is not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvError {
    variable: &'static str,
    value: String,
    allowed: &'static str,
}

impl EnvError {
    fn new(variable: &'static str, value: &std::ffi::OsStr, allowed: &'static str) -> Self {
        EnvError { variable, value: value.to_string_lossy().into_owned(), allowed }
    }
    /// Its name.
    pub fn variable(&self) -> &'static str {
        self.variable
    }
}

impl fmt::Display for EnvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is '{}'; allowed: {}", self.variable, self.value.escape_debug(), self.allowed)
    }
}

impl std::error::Error for EnvError {}

/// Are the variables that this crate reads understood? Programs that want to refuse others call this first and end; else a value
/// that is not understood is as none, and one of `QUIETUS_SLAB_DEBUG` is complained about on standard error, in one line.
pub fn environment() -> Result<(), EnvError> {
    for variable in SWITCHES {
        if let Some(value) =
            std::env::var_os(variable).filter(|v| !["on", "off", "auto", "0"].iter().any(|known| v == known))
        {
            return Err(EnvError::new(variable, &value, "on, off, auto"));
        }
    }
    value().map_or(Ok(()), |value| parse(&value).map(drop))
}

/// An empty variable is as none.
fn value() -> Option<std::ffi::OsString> {
    std::env::var_os(DEBUG).filter(|value| !value.is_empty())
}

/// What the environment asks for in a cache of this name.
pub(crate) fn flags_of(name: &str) -> DebugFlags {
    static RULES: OnceLock<Rules> = OnceLock::new();
    let rules = once(&RULES, || {
        let Some(value) = value() else { return Rules::default() };
        parse(&value).unwrap_or_else(|error| {
            // A program without standard error goes on, too.
            let _ = writeln!(std::io::stderr(), "quietus-slab: {error}; nothing is checked");
            Rules::default()
        })
    });
    rules.of(name)
}

#[derive(Debug, Default, PartialEq)]
struct Rules {
    general: DebugFlags,
    named: Vec<(String, DebugFlags)>,
}

impl Rules {
    fn of(&self, name: &str) -> DebugFlags {
        self.named.iter().find(|(pattern, _)| matches(pattern, name)).map_or(self.general, |&(_, flags)| flags)
    }
}

fn parse(value: &std::ffi::OsStr) -> Result<Rules, EnvError> {
    const ALLOWED: &str =
        "letters of FZPUHX (none: FZPU) or '-', then names after commas, '*' for any part; groups after semicolons";
    let wrong = || EnvError::new(DEBUG, value, ALLOWED);
    let text = value.to_str().ok_or_else(wrong)?;
    let mut rules = Rules::default();
    for group in text.split(';') {
        let mut parts = group.split(',');
        let flags = letters(parts.next().unwrap_or_default()).ok_or_else(wrong)?;
        let mut named = false;
        for name in parts {
            if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
                return Err(wrong());
            }
            named = true;
            rules.named.push((name.to_owned(), flags));
        }
        if !named {
            rules.general = flags;
        }
    }
    Ok(rules)
}

/// `None`: one of them is none of ours.
fn letters(text: &str) -> Option<DebugFlags> {
    match text {
        "" => return Some(DebugFlags::ALL),
        "-" => return Some(DebugFlags::NONE),
        _ => {}
    }
    text.chars().try_fold(DebugFlags::NONE, |flags, c| {
        let known = DebugFlags::LETTERS.iter().find(|(letter, _)| c.eq_ignore_ascii_case(letter))?;
        Some(flags | known.1)
    })
}

/// Does a name match a pattern, in which `*` stands for anything?
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Result<Rules, String> {
        parse(text.as_ref()).map_err(|error| error.to_string())
    }

    #[test]
    fn groups_are_read_as_the_kernel_does() {
        let r = rules("FZ,points,kmalloc-*;-,kmalloc-64;u").unwrap();
        let of = |name| r.of(name).to_string();
        assert_eq!([of("points"), of("kmalloc-64"), of("pointsx"), of("")], ["FZ", "FZ", "U", "U"]);
        assert_eq!(rules("").unwrap().of("any"), DebugFlags::ALL);
        assert_eq!(rules(",dentry").unwrap().of("dentry"), DebugFlags::ALL);
        assert_eq!(rules(",dentry").unwrap().of("inode"), DebugFlags::NONE);
        assert_eq!(rules("-").unwrap().of("any"), DebugFlags::NONE);
        assert_eq!(rules("fzpuhx").unwrap().of("any").to_string(), "FZPUHX");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in ["Q", "FZ-", "--", "F Z", "F,", "F,a b", "F,,a", "F;Q,a", "T", "A", "O", "1"] {
            let error = rules(text).unwrap_err();
            assert!(error.starts_with(&format!("{DEBUG} is '{text}'; allowed: ")) && !error.contains('\n'), "{error}");
        }
        assert!(rules("F\n").unwrap_err().contains("'F\\n'"));
    }

    #[test]
    fn stars_stand_for_any_part() {
        for (pattern, name, yes) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("*", "", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "a1c2b", false),
            ("a*a", "a", false),
            ("*a*", "bab", true),
        ] {
            assert_eq!(matches(pattern, name), yes, "{pattern} {name}");
        }
    }
}
