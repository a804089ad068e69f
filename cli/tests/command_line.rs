//! The program from outside: exit codes, one line for each mistake, the shape of the JSON.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

fn quietus(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quietus"));
    command.args(arguments).env_remove("QUIETUS_RSEQ").env_remove("QUIETUS_MEMBARRIER");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A directory of a test's own, with some text in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("quietus-cli-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a directory for the test");
        for n in 0..30 {
            let words: String = (0..n + 2).map(|m| format!("word{} of_all ", m * n % 17)).collect();
            fs::write(dir.join(format!("f{n}.rs")), format!("fn only{n}() {{ {words} }}")).expect("written");
        }
        Scratch(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a path in UTF-8").to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Exit code 2 and one line on standard error that holds all of these.
fn refused(output: &Output, parts: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("quietus: error: ") && said.contains("allowed: "), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
}

#[test]
fn mistakes_are_refused_in_one_line() {
    let cases: [(&[&str], &[&str]); 10] = [
        (&["index", "/nonexistent"], &["'/nonexistent'"]),
        (&["/nonexistent"], &["'/nonexistent'"]),
        (
            &["index", "--frobnicate"],
            &["'--frobnicate'", "--reclaimer, --readers, --writers, --seconds, --alloc, --json"],
        ),
        (&["--readers", "x"], &["--readers 'x' is not a number", "1 to 1024"]),
        (&["index", "--writers", "5000"], &["--writers '5000' is out of range", "1 to 1024"]),
        (&["index", "--seconds", "-1"], &["--seconds '-1'", "0.1 to 3600"]),
        (&["index", "--reclaimer", "boehm"], &["'boehm'", "quietus, crossbeam, leak, all"]),
        (&["index", "--alloc", "jemalloc"], &["'jemalloc'", "mimalloc, system"]),
        (&["index", "--json"], &["--json needs a value"]),
        (&["env", "--readers", "2"], &["env takes no '--readers'"]),
    ];
    for (arguments, parts) in cases {
        refused(&quietus(arguments).output().expect("started"), parts);
    }
}

#[test]
fn a_file_that_cannot_be_written_is_refused_before_the_run() {
    let scratch = Scratch::new("unwritable");
    let json = scratch.path("no/such/directory/out.json");
    let output = quietus(&["index", "--json", &json, &scratch.path("")]).output().expect("started");
    refused(&output, &["--json", &json]);
}

#[test]
fn switches_in_no_known_position_are_refused() {
    for (name, value) in [("QUIETUS_RSEQ", "yes"), ("QUIETUS_MEMBARRIER", "1")] {
        for command in [&["env"][..], &["index"], &[]] {
            let output = quietus(command).env(name, value).output().expect("started");
            refused(&output, &[name, &format!("'{value}'"), "on, off, auto"]);
        }
    }
}

#[test]
fn help_is_no_mistake() {
    for arguments in [&["--help"][..], &["index", "--help"], &["env", "--help"], &["--version"]] {
        let output = quietus(arguments).output().expect("started");
        assert!(output.status.success() && output.stderr.is_empty() && !output.stdout.is_empty(), "{arguments:?}");
    }
    let help = text(&quietus(&["index", "--help"]).output().expect("started").stdout);
    for option in ["--reclaimer", "--readers", "--writers", "--seconds", "--alloc", "--json"] {
        assert!(help.contains(option), "{option} is not in the help");
    }
    assert!(!help.contains("__run"));
}

/// Runs a short index and checks all that is promised of its figures.
fn indexes(test: &str, reclaimer: &str, more: &[&str], switches: &[(&str, &str)]) {
    let scratch = Scratch::new(test);
    fs::write(scratch.path("bad.rs"), [0xff, 0xfe, b'x', b'y']).expect("written");
    let (json, dir) = (scratch.path("out.json"), scratch.path(""));
    let mut command = quietus(&["index", "--seconds", "0.2", "--reclaimer", reclaimer, "--json", &json]);
    let output = command.args(more).arg(&dir).envs(switches.iter().copied()).output().expect("started");
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 unreadable or not UTF-8") && said.contains("bad.rs"), "{said}");
    assert!(text(&output.stdout).contains(reclaimer), "the table: {}", text(&output.stdout));

    let figures: Value = serde_json::from_str(&fs::read_to_string(&json).expect("written")).expect("JSON");
    let rows = figures.as_array().expect("an array");
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!(row["reclaimer"], reclaimer);
    assert_eq!(row["verified"], true);
    for number in ["queries_per_s", "updates_per_s", "peak_unreclaimed_bytes", "peak_rss_bytes"] {
        assert!(row[number].as_f64().is_some(), "{number}: {row}");
    }
    assert!(row["queries_per_s"].as_f64() > Some(0.0) && row["updates_per_s"].as_f64() > Some(0.0), "{row}");
    for quantile in ["p50", "p99", "p999"] {
        assert!(row["retire_ns"][quantile].is_u64(), "{row}");
    }
    if reclaimer == "leak" {
        assert!(row["grace_period_ns"]["p50"].is_null() && row["drain_ms"].is_null(), "{row}");
    } else {
        assert!(row["grace_period_ns"]["p99"].is_u64() && row["drain_ms"].is_number(), "{row}");
        assert_eq!(row["left_unreclaimed"], 0);
    }
}

#[test]
fn index_with_quietus() {
    indexes("quietus", "quietus", &[], &[]);
}

#[test]
fn index_with_quietus_without_help_of_the_kernel() {
    let off = [("QUIETUS_RSEQ", "off"), ("QUIETUS_MEMBARRIER", "off")];
    indexes("switches", "quietus", &["--writers", "4"], &off);
}

#[test]
fn index_with_crossbeam() {
    indexes("crossbeam", "crossbeam", &["--readers", "1", "--writers", "3"], &[]);
}

#[test]
fn index_without_reclamation_on_the_system_allocator() {
    indexes("leak", "leak", &["--alloc", "system"], &[]);
}

#[test]
fn one_file_of_one_word_is_enough() {
    let scratch = Scratch::new("one");
    fs::write(scratch.path("one.txt"), "word").expect("written");
    let file = scratch.path("one.txt");
    let output = quietus(&["index", "--seconds", "0.1", "--reclaimer", "crossbeam", &file]).output().expect("started");
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn the_environment_is_shown() {
    let output = quietus(&["env"]).output().expect("started");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    for part in ["rseq", "membarrier", "CPUs", "nodes", "page", "block"] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
}
