//! Runs in short, and that a run which loses an object says so.

use clap::Parser;
use quietus::Domain;

use super::figures::Retire;
use super::modes::{Mode, Visitor, with};
use super::run::{account, run};
use super::{Figures, Run};
use crate::args::{Cli, Command, ModeName, ScaleArgs};
use crate::timing::nanoseconds;

fn args(arguments: &[&str]) -> ScaleArgs {
    let all = ["quietus", "scale", "--threads", "2", "--allocs", "700", "--loops", "3"];
    let cli = Cli::try_parse_from(all.iter().chain(arguments)).expect("allowed");
    let Some(Command::Scale(args)) = cli.command else { panic!("not scale: {cli:?}") };
    args
}

fn ran(mode: &str, more: &[&str]) -> (Figures, Vec<String>) {
    let arguments: Vec<&str> = ["--mode", mode].iter().chain(more).copied().collect();
    let args = args(&arguments);
    with(args.mode, args.size(), Run(&args)).expect("a size it has")
}

#[test]
fn every_object_is_freed() {
    // Not kvfree: the size classes belong to the whole process, and other tests use them.
    for mode in ["cache", "box", "linked", "call"] {
        let (figures, failures) = ran(mode, &[]);
        assert_eq!((figures.verified, failures), (true, vec![]), "{mode}");
        assert_eq!((figures.objects, figures.mode.name()), (4_200, mode));
        assert!(figures.submit_ns_per_op > 0.0 && figures.submit_ns_per_op <= figures.total_ns_per_op, "{figures:?}");
        assert_eq!(figures.retire_ns.samples, 2 * (2_100 / super::run::SAMPLED));
        assert!(figures.grace_periods > 0 && figures.looks > 0, "{figures:?}");
        assert_eq!(figures.batches > 0, mode != "call", "{figures:?}");
    }
}

/// Hands every mode's objects on but one.
struct Forgetful<'m, M>(&'m M);

impl<M: Mode> Mode for Forgetful<'_, M> {
    type Object = Option<M::Object>;

    fn allocate(&self, turn: u64) -> Self::Object {
        let object = self.0.allocate(turn);
        if turn == 1_234 {
            std::mem::forget(object);
            return None;
        }
        Some(object)
    }

    fn retire(&self, domain: &Domain, object: Self::Object) {
        if let Some(object) = object {
            self.0.retire(domain, object);
        }
    }

    fn left(&self, retired: u64) -> u64 {
        self.0.left(retired)
    }
}

#[test]
fn an_object_that_is_lost_is_a_failure() {
    struct Lose<'a>(&'a ScaleArgs);
    impl Visitor for Lose<'_> {
        type Output = (Figures, Vec<String>);
        fn visit<M: Mode>(self, mode: &M) -> Self::Output {
            run(&Forgetful(mode), &Domain::new(), self.0)
        }
    }
    for mode in ["cache", "box", "linked", "call"] {
        let args = args(&["--mode", mode]);
        let (figures, failures) = with(args.mode, args.size(), Lose(&args)).expect("a size it has");
        assert!(!figures.verified && figures.text().contains("FAILURE"), "{mode}");
        // One object in each of the two threads: seen by the mode's own account, and in the domain's books.
        let lines = ["2 of 4200 objects were not freed", "4200 objects went in, 4198 came out"];
        assert_eq!(failures, lines, "{mode}");
    }
}

#[test]
fn books_that_do_not_balance_are_a_failure() {
    let domain = Domain::builder().workers(false).build();
    let before = domain.stats();
    domain.defer(|| ());
    let after = domain.stats();
    assert_eq!(
        account(1, &before, &after, 0),
        ["1 objects are pending after the barrier", "1 objects went in, 0 came out"]
    );
    domain.barrier();
    assert_eq!(account(1, &before, &domain.stats(), 0), [""; 0]);
    assert_eq!(account(1, &before, &domain.stats(), 1), ["1 of 1 objects were not freed"]);
}

#[test]
fn quantiles_are_those_of_the_histogram() {
    let mut times = nanoseconds();
    // To three digits: a step of 10 from 10,000 on.
    (1..=20_000).for_each(|ns| times.saturating_record(ns));
    let retire = Retire::of(&times);
    let right = [
        (retire.p50, 10_000),
        (retire.p99, 19_800),
        (retire.p999, 19_980),
        (retire.p9999, 19_998),
        (retire.max, 20_000),
    ];
    assert!(right.into_iter().all(|(is, due)| (due..due + 16).contains(&is)), "{retire:?}");
    assert!(retire.p999 < retire.p9999 && retire.samples == 20_000, "{retire:?}");
}

#[test]
fn sizes_are_what_was_asked_for() {
    for size in ["16", "4096"] {
        let (figures, failures) = ran("cache", &["--size", size]);
        assert_eq!((figures.size, failures), (size.parse().ok(), vec![]));
    }
    struct Nothing;
    impl Visitor for Nothing {
        type Output = ();
        fn visit<M: Mode>(self, _: &M) {}
    }
    let refused = with(ModeName::Box, Some(48), Nothing);
    assert!(refused.expect_err("no such size").starts_with("--size '48' is not for box; allowed: 16, 32, "));
}

#[test]
fn the_json_has_the_promised_shape() {
    let (figures, _) = ran("cache", &[]);
    let json = serde_json::to_value(&figures).expect("plain data");
    assert_eq!(json["mode"], "cache");
    let numbers = [
        "threads",
        "objects",
        "submit_ns_per_op",
        "total_ns_per_op",
        "grace_periods",
        "peak_unreclaimed_bytes",
        "mean_unreclaimed_bytes",
        "fallbacks",
        "drain_ms",
        "clock_ns",
    ];
    for key in numbers {
        assert!(json[key].is_number(), "{key}: {json}");
    }
    for key in ["p50", "p99", "p999", "p9999", "max", "samples"] {
        assert!(json["retire_ns"][key].is_u64(), "{key}: {json}");
    }
    assert_eq!(json["worker_cpu_ms"].is_number(), cfg!(target_os = "linux"), "{json}");
    let text = figures.text();
    let (lines, _) = text.split_once("\n\n").expect("an empty line before the notes");
    assert!(lines.lines().all(|line| line.chars().count() < 60), "{text}");
    assert!(text.contains("too few for a p99.99: 68 samples") && text.contains("has been subtracted"), "{text}");
}
