//! The program from outside: exit codes, one line for each mistake, the shape of the JSON, and what happens when nobody
//! reads what it says.

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
    assert!(said.starts_with("quietus: error: "), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
}

#[test]
fn mistakes_are_refused_in_one_line() {
    let cases: [(&[&str], &[&str]); 18] = [
        (&["index", "/nonexistent"], &["'/nonexistent'"]),
        (&["/nonexistent"], &["'/nonexistent'"]),
        (
            &["index", "--frobnicate"],
            &["'--frobnicate'", "--reclaimer, --readers, --writers, --seconds, --alloc, --json, --plot"],
        ),
        (&["--readers", "x"], &["--readers 'x' is not a number", "1 to 1024"]),
        (&["index", "--writers", "5000"], &["--writers '5000' is out of range", "1 to 1024"]),
        (&["index", "--seconds", "-1"], &["--seconds '-1'", "0.1 to 3600"]),
        (&["index", "--reclaimer", "boehm"], &["'boehm'", "quietus, crossbeam, seize, sdd, leak, all"]),
        (&["index", "--alloc", "jemalloc"], &["'jemalloc'", "mimalloc, system"]),
        (&["index", "--json"], &["--json needs a value"]),
        (&["scale", "--mode", "gc"], &["'gc'", "cache, kvfree, box, linked, call"]),
        (&["scale", "--size", "65"], &["--size '65' is no power of two", "16, 32, 64"]),
        (&["scale", "--seconds", "1"], &["scale takes no '--seconds'", "--mode, --threads, --allocs, --loops, --size"]),
        (&["latency", "--flavor", "gc"], &["'gc'", "memb, qsbr, epoch, crossbeam"]),
        (&["latency", "--plot", "-"], &["--plot '-'", "the name of a file"]),
        (&["latency", "--size", "1"], &["latency takes no '--size'", "--flavor, --readers, --seconds, --json, --plot"]),
        (&["torture", "--faults", "rain"], &["--faults 'rain' is unknown", "churn, oversubscription, affinity"]),
        (
            &["torture", "--mode", "box"],
            &["torture takes no '--mode'", "--flavor, --seconds, --readers, --writers, --seed"],
        ),
        (&["env", "--readers", "2"], &["env takes no '--readers'"]),
    ];
    for (arguments, parts) in cases {
        refused(&quietus(arguments).output().expect("started"), parts);
    }
}

#[test]
fn a_file_that_cannot_be_written_is_refused_before_the_run() {
    let scratch = Scratch::new("unwritable");
    let file = scratch.path("no/such/directory/out");
    let commands = [
        &["index", "--json", &file, "src"][..],
        &["index", "--plot", &file, "src"],
        &["scale", "--json", &file],
        &["latency", "--json", &file],
        &["latency", "--plot", &file],
        &["torture", "--json", &file],
    ];
    for arguments in commands {
        refused(&quietus(arguments).output().expect("started"), &[arguments[1], &file]);
    }
}

#[test]
fn nothing_to_index_by_default_is_refused() {
    let scratch = Scratch::new("nowhere");
    let empty = scratch.path("empty");
    fs::create_dir(&empty).expect("created");
    let output = quietus(&["index"]).env("CARGO_HOME", &empty).current_dir(&empty).output().expect("started");
    refused(&output, &["no .rs files in Cargo's registry or below the current directory; name a PATH"]);
}

/// A short index over this directory.
fn short(dir: &Scratch, more: &[&str]) -> Command {
    let mut command = quietus(&["index", "--seconds", "0.1", "--readers", "1"]);
    if !more.contains(&"--reclaimer") {
        command.args(["--reclaimer", "crossbeam"]);
    }
    command.args(more).arg(dir.path(""));
    command
}

#[test]
fn json_on_standard_output_moves_the_table() {
    let scratch = Scratch::new("dash");
    let output = short(&scratch, &["--json", "-"]).output().expect("started");
    let (figures, said) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}");
    let figures: Value = serde_json::from_str(&figures).expect("nothing but JSON");
    assert_eq!(figures[0]["reclaimer"], "crossbeam");
    assert!(said.contains("peak RSS") && said.contains("Medians of the rounds"), "{said}");
}

/// The verdict is the last line, and the JSON has it too; the same seed is said again.
#[test]
fn torture_ends_with_a_verdict() {
    let scratch = Scratch::new("torture");
    for flavor in ["memb", "qsbr", "epoch"] {
        let json = scratch.path("torture.json");
        let asked =
            ["torture", "--flavor", flavor, "--seconds", "1", "--seed", "7", "--faults", "churn", "--json", &json];
        let output = quietus(&asked).output().expect("started");
        let (said, remarks) = (text(&output.stdout), text(&output.stderr));
        let figures: Value = serde_json::from_str(&fs::read_to_string(&json).expect("written")).expect("JSON");
        assert_eq!((&figures["flavor"], &figures["seed"]), (&flavor.into(), &7.into()));
        assert!(remarks.contains("seed 7, faults: churn\n"), "{remarks}");
        assert_eq!(said.lines().last(), Some("End of test: SUCCESS"), "{said}{remarks}");
        assert_eq!((output.status.code(), &figures["verdict"]), (Some(0), &"SUCCESS".into()), "{said}{remarks}");
        assert!(figures["counts"]["sections"].as_u64() > Some(0), "{figures}");
        assert!(figures["counts"]["threads come and gone"].as_u64() > Some(0), "{figures}");
    }
}

/// Where there is no terminal, one report at the end.
#[test]
fn top_reports_once() {
    let output = quietus(&["top", "--seconds", "0.3", "--interval", "0.1"]).output().expect("started");
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for name in
        ["time", "retired", "freed", "pending", "reserve", "fallbacks", "grace periods", "membarriers", "resident"]
    {
        let lines =
            said.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with("  "))).count();
        assert_eq!(lines, 1, "{name} in:\n{said}");
    }
    assert!(!said.contains('\x1b'), "{said}");
}

/// A leg that dies is a failure, with the same last line.
#[cfg(target_os = "linux")]
#[test]
fn a_torture_whose_process_dies_has_failed() {
    let torture = quietus(&["torture", "--seconds", "600"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("started");
    let mut legs = std::iter::repeat_with(|| children(torture.id()));
    let leg = legs.find_map(|legs| legs.first().copied()).expect("there is no end of looking");
    // SAFETY: signals a process that the one above has started, and has not waited for while it lives.
    assert_eq!(unsafe { libc::kill(leg as libc::pid_t, libc::SIGKILL) }, 0);
    let output = torture.wait_with_output().expect("ended");
    let said = text(&output.stdout);
    assert_eq!((output.status.code(), said.lines().last()), (Some(1), Some("End of test: FAILURE")), "{said}");
    assert!(said.contains("the process of the run died: signal: 9"), "{said}");
}

/// Standard error when standard output, or the file, is a full device: exit code 1 and one line at the end.
#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_written_is_said() {
    use std::process::Stdio;

    let full = || Stdio::from(fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it"));
    let scratch = Scratch::new("full");
    let json = scratch.path("out.json");
    let commands: [(Command, usize); 7] = [
        (quietus(&["env"]), 1),
        (quietus(&["--help"]), 1),
        (short(&scratch, &["--json", &json]), 7),
        (short(&scratch, &["--json", "-"]), 0),
        (quietus(&["scale"]), 2),
        (quietus(&["scale", "--json", "-"]), 0),
        (quietus(&["latency", "--seconds", "0.1"]), 2),
    ];
    for (mut command, lines) in commands {
        let output = command.stdout(full()).output().expect("started");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
        let last = said.lines().last().expect("a line");
        assert!(last.starts_with("quietus: error: standard output could not be written: "), "{said}");
        assert!(lines == 0 || said.lines().count() == lines, "{command:?}: {said}");
        assert_eq!(command.stderr(full()).stdout(full()).status().expect("started").code(), Some(1), "{command:?}");
    }
    let figures: Value = serde_json::from_str(&fs::read_to_string(&json).expect("written")).expect("JSON");
    assert_eq!(figures[0]["verified"], true, "the figures are there all the same");

    let output = short(&scratch, &["--json", "/dev/full"]).output().expect("started");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("quietus: error: --json '/dev/full' could not be written: "), "{said}");
    assert!(text(&output.stdout).contains("Medians"), "the table is there all the same");

    let output = quietus(&["latency", "--seconds", "0.1", "--plot", "/dev/full"]).output().expect("started");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("quietus: error: --plot '/dev/full' could not be written: "), "{said}");
    assert!(text(&output.stdout).contains("p99.9"), "the figures are there all the same");

    // Only what is said meanwhile gets lost, or the line that would say what was wrong.
    let output = short(&scratch, &[]).stderr(full()).output().expect("started");
    assert!(output.status.success() && text(&output.stdout).contains("Medians"));
    assert_eq!(quietus(&["--frobnicate"]).stderr(full()).status().expect("started").code(), Some(2));
}

/// A pipe that nobody reads any more ends the program without a word.
#[cfg(unix)]
#[test]
fn a_reader_that_stops_early_is_no_mistake() {
    let scratch = Scratch::new("closed");
    let commands = [
        quietus(&["env"]),
        quietus(&["--help"]),
        short(&scratch, &[]),
        short(&scratch, &["--json", "-"]),
        quietus(&["scale"]),
        quietus(&["scale", "--json", "-"]),
        quietus(&["latency", "--seconds", "0.1"]),
    ];
    for mut command in commands {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = command.stdout(writer).output().expect("started");
        let said = text(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
        assert!(!said.contains("panicked") && !said.contains("error"), "{command:?}: {said}");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        assert!(command.stderr(writer).status().expect("started").success(), "{command:?}");
    }
}

/// The processes whose parent this is.
#[cfg(target_os = "linux")]
fn children(of: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("Linux has it").flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|&process| state(process).is_some_and(|(parent, _)| parent == of)).collect()
}

/// A process's parent, and whether it lives, if there is such a process.
#[cfg(target_os = "linux")]
fn state(process: u32) -> Option<(u32, bool)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let lives = !matches!(fields.next()?, "Z" | "X");
    Some((fields.next()?.parse().ok()?, lives))
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_ends_with_the_program_that_started_it() {
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    let scratch = Scratch::new("orphan");
    let soon = |done: &mut dyn FnMut() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !done() {
            assert!(Instant::now() < deadline, "it did not come to that");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        let mut command =
            quietus(&["index", "--seconds", "600", "--reclaimer", "leak", "--readers", "1", "--writers", "1"]);
        let mut program = command.arg(scratch.path("")).stderr(Stdio::null()).spawn().expect("started");
        let mut runs = Vec::new();
        soon(&mut || {
            runs = children(program.id());
            !runs.is_empty()
        });
        // SAFETY: signals a process of this test's, which has not been waited for.
        assert_eq!(unsafe { libc::kill(program.id() as libc::pid_t, signal) }, 0);
        program.wait().expect("it is over");
        soon(&mut || runs.iter().all(|&run| state(run).is_none_or(|(_, lives)| !lives)));
    }
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
    for arguments in [
        &["--help"][..],
        &["index", "--help"],
        &["scale", "--help"],
        &["latency", "--help"],
        &["slabinfo", "--help"],
        &["env", "--help"],
        &["--version"],
    ] {
        let output = quietus(arguments).output().expect("started");
        assert!(output.status.success() && output.stderr.is_empty() && !output.stdout.is_empty(), "{arguments:?}");
    }
    let help = text(&quietus(&["index", "--help"]).output().expect("started").stdout);
    for option in ["--reclaimer", "--readers", "--writers", "--seconds", "--alloc", "--json", "--plot"] {
        assert!(help.contains(option), "{option} is not in the help");
    }
    for part in ["Time: 3 rounds × reclaimers × --seconds", "Exit code: 0 if"] {
        assert!(help.contains(part), "{part} is not in the help");
    }
    assert!(!help.contains("__run"));
}

/// Runs a short index and checks all that is promised of its figures.
fn indexes(test: &str, reclaimer: &str, more: &[&str], switches: &[(&str, &str)]) {
    let scratch = Scratch::new(test);
    fs::write(scratch.path("bad.rs"), [0xff, 0xfe, b'x', b'y']).expect("written");
    let (json, dir) = (scratch.path("out.json"), scratch.path(""));
    let run = |seconds| {
        let mut command = quietus(&["index", "--seconds", seconds, "--reclaimer", reclaimer, "--json", &json]);
        let output = command.args(more).arg(&dir).envs(switches.iter().copied()).output().expect("started");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let figures: Value = serde_json::from_str(&fs::read_to_string(&json).expect("written")).expect("JSON");
        (output, figures)
    };
    // On a busy machine not each thread gets its turn in a short run: then a longer one.
    let (mut output, mut figures) = run("0.2");
    for seconds in ["2", "20"] {
        let (row, probed) = (&figures[0], reclaimer == "leak" || figures[0]["grace_period_ns"]["p99"].is_u64());
        if row["queries_per_s"] == 0.0 || row["updates_per_s"] == 0.0 || !probed {
            (output, figures) = run(seconds);
        }
    }
    let said = text(&output.stderr);
    assert!(said.contains("1 unreadable or not UTF-8") && said.contains("bad.rs"), "{said}");
    assert!(text(&output.stdout).contains(reclaimer), "the table: {}", text(&output.stdout));
    let [row] = &figures.as_array().expect("an array")[..] else { panic!("not one row: {figures}") };
    assert_eq!((&row["reclaimer"], &row["verified"]), (&reclaimer.into(), &true.into()));
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
fn index_draws_a_picture() {
    let scratch = Scratch::new("picture");
    let plot = scratch.path("plot.svg");
    let output = short(&scratch, &["--plot", &plot, "--reclaimer", "sdd,seize"]).output().expect("started");
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    let picture = fs::read_to_string(&plot).expect("written");
    assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"), "{picture}");
    for part in ["\nseize\n", "\nsdd\n", "queries per second", "1 reader, "] {
        assert!(picture.contains(part), "{part} is not in:\n{picture}");
    }
    assert!(!picture.contains("crossbeam"), "only those asked for: {picture}");
}

#[test]
fn index_with_seize() {
    indexes("seize", "seize", &[], &[]);
}

#[test]
fn index_with_sdd() {
    indexes("sdd", "sdd", &["--writers", "3"], &[]);
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

#[test]
fn scale_in_every_mode() {
    for mode in ["cache", "kvfree", "box", "linked", "call"] {
        let command = ["scale", "--mode", mode, "--threads", "3", "--allocs", "1000", "--loops", "2", "--json", "-"];
        let output = quietus(&command).output().expect("started");
        let said = text(&output.stderr);
        assert!(output.status.success() && said.contains("yes: all freed"), "{mode}: {said}");
        let figures: Value = serde_json::from_str(&text(&output.stdout)).expect("nothing but JSON");
        assert_eq!((&figures["mode"], &figures["threads"]), (&mode.into(), &3.into()));
        assert_eq!((&figures["objects"], &figures["verified"]), (&6_000.into(), &true.into()));
        assert_eq!(figures["size"].is_null(), mode == "kvfree", "{figures}");
        assert!(figures["submit_ns_per_op"].as_f64() > Some(0.0), "{figures}");
        assert!(figures["peak_unreclaimed_bytes"].as_u64() > Some(0), "{figures}");
    }
}

#[test]
fn scale_without_help_of_the_kernel() {
    let mut command = quietus(&["scale", "--mode", "kvfree", "--allocs", "1000", "--size", "128"]);
    let output = command.envs([("QUIETUS_RSEQ", "off"), ("QUIETUS_MEMBARRIER", "off")]).output().expect("started");
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn latency_of_every_flavour() {
    let scratch = Scratch::new("latency");
    let plot = scratch.path("plot.svg");
    for flavor in ["memb", "qsbr", "epoch", "crossbeam"] {
        let command =
            ["latency", "--flavor", flavor, "--readers", "2", "--seconds", "0.2", "--json", "-", "--plot", &plot];
        let output = quietus(&command).output().expect("started");
        let said = text(&output.stderr);
        assert!(output.status.success() && said.contains("p99.9"), "{flavor}: {said}");
        let figures: Value = serde_json::from_str(&text(&output.stdout)).expect("nothing but JSON");
        assert_eq!((&figures["flavor"], &figures["readers"]), (&flavor.into(), &2.into()));
        let at = |key: &str| figures[key].as_u64().expect("a whole number");
        assert!(at("count") > 0 && figures["verified"] == true, "{figures}");
        let quantiles = ["p50_ns", "p99_ns", "p999_ns", "max_ns"].map(at);
        assert!(quantiles[0] > 0 && quantiles.is_sorted(), "{figures}");
        let picture = fs::read_to_string(&plot).expect("written");
        assert!(
            picture.starts_with("<svg") && picture.contains(&format!("synchronize, {flavor}, beside 2")),
            "{picture}"
        );
    }
}
