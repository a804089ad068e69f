//! `quietus slabinfo` from outside: the kernel's columns, the totals, the JSON, and what the environment may not say, for every command.

use std::process::{Command, Output};

use serde_json::Value;

fn quietus(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quietus"));
    command.args(arguments);
    for name in ["QUIETUS_RSEQ", "QUIETUS_MEMBARRIER", "QUIETUS_SLAB_WORKERS", "QUIETUS_SLAB_DEBUG"] {
        command.env_remove(name);
    }
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Exit code 2 and one line on standard error that holds all of these.
fn refused(output: &Output, parts: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.starts_with("quietus: error: ") && parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
}

/// The cache's line in the kernel's columns: name, then numbers, at places where the format has words between.
fn columns(text: &str, name: &str) -> Vec<u64> {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in:\n{text}"));
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    assert_eq!((words[5], words[6], words[10], words[11]), (":", "tunables", ":", "slabdata"), "{line}");
    let numbers = words.iter().filter_map(|word| word.parse().ok()).collect::<Vec<u64>>();
    assert_eq!(numbers.len(), 11, "{line}");
    numbers
}

/// Runs it with standard output for the JSON. Returns the figures and the text.
fn figures(switches: &[(&str, &str)]) -> (Value, String) {
    let mut command = quietus(&["slabinfo", "--threads", "3", "--seconds", "0.2", "--json", "-"]);
    let output = command.envs(switches.iter().copied()).output().expect("started");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    (serde_json::from_slice(&output.stdout).expect("nothing but JSON"), said)
}

#[test]
fn caches_are_shown_as_the_kernel_does() {
    let (figures, said) = figures(&[]);
    assert!(said.contains("slabinfo - version: 2.1\n# name            <active_objs> <num_objs> <objsize>"), "{said}");
    assert!(said.contains("# inodes is also dentries\n") && !said.contains("\ndentries "), "{said}");
    assert!(said.contains("# parts was chained to whole") && !said.contains("\nparts "), "{said}");
    let caches = figures["caches"].as_array().expect("an array");
    for (name, held, bytes) in
        [("points", 600, 64), ("names", 600, 24), ("inodes", 1_200, 96), ("whole", 1_100, 48), ("sessions", 600, 128)]
    {
        let row = caches.iter().find(|row| row["name"] == name).expect("in the JSON");
        let keys = ["active_objs", "num_objs", "objsize", "objperslab", "pagesperslab", "limit", "batchcount"];
        let more = ["sharedfactor", "active_slabs", "num_slabs", "sharedavail"];
        let numbers: Vec<u64> = keys.iter().chain(&more).map(|key| row[*key].as_u64().expect("a number")).collect();
        assert_eq!(numbers, columns(&said, name), "{name}");
        assert_eq!((numbers[0], numbers[2]), (held, bytes), "{name}");
        assert!(numbers[3] == (64 << 10) / bytes && numbers[1] == numbers[3] * numbers[9] && numbers[1] >= held);
    }
    assert!(
        caches.iter().any(|row| row["name"] == "kmalloc-6144" && row["active_objs"].as_u64() >= Some(90)),
        "{said}"
    );
}

#[test]
fn totals_add_up() {
    let (figures, said) = figures(&[]);
    let caches = figures["caches"].as_array().expect("an array");
    let totals = &figures["totals"];
    for key in ["active_objs", "num_objs", "active_slabs", "num_slabs"] {
        let sum: u64 = caches.iter().filter_map(|row| row[key].as_u64()).sum();
        assert_eq!(totals[key].as_u64(), Some(sum), "{key}");
    }
    assert_eq!(totals["caches"].as_u64(), Some(caches.len() as u64));
    assert_eq!(totals["bytes"].as_u64(), totals["num_slabs"].as_u64().map(|slabs| slabs << 16));
    let count = |key: &str| figures[key].as_u64().expect("a number");
    assert_eq!(count("made"), count("freed") + count("retired") + count("held"));
    assert_eq!((count("held"), count("threads"), &figures["verified"]), (3 * 7 * 200, 3, &true.into()));
    assert!(count("retired") > 0 && said.contains("# verified: yes") && said.contains("# total: "), "{said}");
}

/// Checked caches are neither merged nor chained, and everything is accounted for all the same; so it is without threads and sequences.
#[test]
fn it_is_verified_in_every_position() {
    let (checked, said) = figures(&[("QUIETUS_SLAB_DEBUG", "FZU")]);
    assert_eq!(checked["verified"], true);
    assert!(said.contains("# parts could not be chained: cache parts is checked (FZU)"), "{said}");
    assert_eq!((columns(&said, "dentries")[0], columns(&said, "parts")[0]), (600, 500));
    let (portable, _) = figures(&[("QUIETUS_SLAB_WORKERS", "off"), ("QUIETUS_RSEQ", "off")]);
    assert_eq!(portable["verified"], true);
}

#[test]
fn mistakes_are_refused() {
    let cases: [(&[&str], &[&str]); 4] = [
        (&["slabinfo", "--threads", "0"], &["--threads '0' is out of range", "1 to 1024"]),
        (&["slabinfo", "--seconds", "soon"], &["--seconds 'soon' is not a number", "0.1 to 3600"]),
        (&["slabinfo", "--frobnicate"], &["slabinfo takes no '--frobnicate'", "--threads, --seconds, --json"]),
        (&["slabinfo", "--json", "/nonexistent/out"], &["--json '/nonexistent/out' cannot be written"]),
    ];
    for (arguments, parts) in cases {
        refused(&quietus(arguments).output().expect("started"), parts);
    }
}

#[test]
fn variables_that_are_not_understood_are_refused_by_every_command() {
    let variables = [
        ("QUIETUS_SLAB_DEBUG", "Q", "letters of FZPUHX"),
        ("QUIETUS_SLAB_WORKERS", "perhaps", "on, off, auto"),
        ("QUIETUS_RSEQ", "1", "on, off, auto"),
        ("QUIETUS_MEMBARRIER", "", "on, off, auto"),
    ];
    let commands = ["env", "slabinfo", "scale", "latency", "torture", "top", "index"]; // those first that are over soon
    for (name, value, allowed) in variables {
        for command in commands {
            let output = quietus(&[command]).env(name, value).output().expect("started");
            refused(&output, &[&format!("{name} is '{value}'"), allowed]);
        }
    }
}
