//! What was wrong with the command line or the environment, in one line: what it is, and, where that helps, what is allowed
//! instead.

use std::env;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use quietus::slab;

use crate::args::{self, Cli};

/// The variables the library looks at, and what they may be.
pub(crate) const SWITCHES: [&str; 3] = ["QUIETUS_RSEQ", "QUIETUS_MEMBARRIER", "QUIETUS_SLAB_WORKERS"];
const POSITIONS: [&str; 3] = ["on", "off", "auto"];

/// Checks the environment: a switch in no known position, or checks that are none, would be a run other than the one asked for.
pub(crate) fn check_environment() -> Result<(), String> {
    for name in SWITCHES {
        if let Some(value) = env::var_os(name) {
            if !POSITIONS.iter().any(|&position| value == position) {
                let value = value.to_string_lossy();
                return Err(format!("{name} is '{}'; allowed: {}", value.escape_debug(), POSITIONS.join(", ")));
            }
        }
    }
    slab::environment().map_err(|error| error.to_string())
}

/// clap's error, which takes several lines, in one.
pub(crate) fn one_line(error: &clap::Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        _ => String::new(),
    };
    // `--readers <N>` is `--readers` to whoever typed it.
    let option = text(ContextKind::InvalidArg).split([' ', '=']).next().unwrap_or_default().to_owned();
    let value = text(ContextKind::InvalidValue);
    let listed = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) if !values.is_empty() => Some(values.join(", ")),
        _ => None,
    };
    let allowed = listed.or_else(|| args::allowed(&option).map(str::to_owned)).unwrap_or_default();
    let line = match error.kind() {
        ErrorKind::UnknownArgument => match command(error).filter(|command| command != "index") {
            Some(command) => format!("{command} takes no '{option}'; allowed: {}", options(Some(&command))),
            None => format!("unknown option '{option}'; allowed: {}", options(None)),
        },
        ErrorKind::InvalidValue if value.is_empty() => format!("{option} needs a value; allowed: {allowed}"),
        ErrorKind::InvalidValue => format!("{option} '{value}' is unknown; allowed: {allowed}"),
        ErrorKind::ValueValidation => {
            let why = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            format!("{option} '{value}' {why}; allowed: {allowed}")
        }
        ErrorKind::ArgumentConflict => format!("{option} is given twice"),
        _ => error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    };
    line.replace('\n', " ")
}

/// The command clap was at: it says so only in its line on usage.
fn command(error: &clap::Error) -> Option<String> {
    let usage = error.get(ContextKind::Usage)?.to_string();
    let cli = Cli::command();
    let names = cli.get_subcommands().map(|command| command.get_name());
    names.filter(|name| usage.contains(&format!("quietus {name}"))).map(str::to_owned).next()
}

/// The options of this command, or of `index`, by name.
fn options(command: Option<&str>) -> String {
    let cli = Cli::command();
    let command = command.and_then(|name| cli.find_subcommand(name)).unwrap_or(&cli);
    let names = command.get_arguments().filter_map(|argument| argument.get_long());
    names.chain(["help", "version"]).map(|name| format!("--{name}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn complaint(arguments: &[&str]) -> String {
        let all = std::iter::once(&"quietus").chain(arguments);
        one_line(&Cli::try_parse_from(all).expect_err("wrong on purpose"))
    }

    #[test]
    fn each_mistake_in_one_line() {
        let cases: [(&[&str], &str); 32] = [
            (&["--readers", "x"], "--readers 'x' is not a number; allowed: 1 to 1024"),
            (&["--readers", "1.5"], "--readers '1.5' is not a whole number; allowed: 1 to 1024"),
            (&["--readers"], "--readers needs a value; allowed: 1 to 1024"),
            (&["--readers", "2", "--readers", "3"], "--readers is given twice"),
            (&["env", "--readers", "3"], "env takes no '--readers'; allowed: --help, --version"),
            (&["index", "--writers", "0"], "--writers '0' is out of range; allowed: 1 to 1024"),
            (&["--seconds", "-3"], "--seconds '-3' is out of range; allowed: 0.1 to 3600"),
            (&["--reclaimer", "gc"], "--reclaimer 'gc' is unknown; allowed: quietus, crossbeam, seize, sdd, leak, all"),
            (&["--reclaimer"], "--reclaimer needs a value; allowed: quietus, crossbeam, seize, sdd, leak, all"),
            (&["--json"], "--json needs a value; allowed: the name of a file, or -"),
            (&["scale", "--threads", "0"], "--threads '0' is out of range; allowed: 1 to 1024"),
            (&["scale", "--allocs", "1e9"], "--allocs '1e9' is not a whole number; allowed: 1 to 1000000"),
            (&["scale", "--loops"], "--loops needs a value; allowed: 1 to 1000000"),
            (
                &["scale", "--size", "48"],
                "--size '48' is no power of two; allowed: 16, 32, 64, 128, 256, 512, 1024, 2048",
            ),
            (&["scale", "--mode", "gc"], "--mode 'gc' is unknown; allowed: cache, kvfree, box, linked, call"),
            (&["scale", "--readers", "2"], "scale takes no '--readers'; allowed: --mode, --threads, --allocs, --loops"),
            (&["latency", "--flavor", "rcu"], "--flavor 'rcu' is unknown; allowed: memb, qsbr, epoch, crossbeam"),
            (&["latency", "--readers", "0"], "--readers '0' is out of range; allowed: 1 to 1024"),
            (&["latency", "--seconds", "0"], "--seconds '0' is out of range; allowed: 0.1 to 3600"),
            (&["latency", "--plot"], "--plot needs a value; allowed: the name of a file"),
            (&["latency", "--loops", "2"], "latency takes no '--loops'; allowed: --flavor, --readers, --seconds"),
            (&["torture", "--flavor", "crossbeam"], "--flavor 'crossbeam' is unknown; allowed: memb, qsbr, epoch"),
            (
                &["torture", "--faults", "churn,rain"],
                "--faults 'rain' is unknown; allowed: churn, oversubscription, affinity, signals, pages, norseq, nomembarrier, fork, all, none",
            ),
            (&["torture", "--seed", "-1"], "--seed '-1' is out of range; allowed: 0 to 18446744073709551615"),
            (
                &["torture", "--plot", "x"],
                "torture takes no '--plot'; allowed: --flavor, --seconds, --readers, --writers",
            ),
            (&["top", "--interval", "0"], "--interval '0' is out of range; allowed: 0.1 to 3600"),
            (&["top", "--readers", "2"], "top takes no '--readers'; allowed: --interval, --seconds, --help, --version"),
            (&["slabinfo", "--threads", "0"], "--threads '0' is out of range; allowed: 1 to 1024"),
            (&["slabinfo", "--seconds"], "--seconds needs a value; allowed: 0.1 to 3600"),
            (&["slabinfo", "--mode", "x"], "slabinfo takes no '--mode'; allowed: --threads, --seconds, --json, --help"),
            (&["index", "--threads", "2"], "unknown option '--threads'; allowed: --reclaimer, --readers"),
            (&["--frobnicate"], "unknown option '--frobnicate'; allowed: --reclaimer, --readers"),
        ];
        for (arguments, expected) in cases {
            let line = complaint(arguments);
            assert!(line.starts_with(expected) && !line.contains('\n'), "{arguments:?}: {line}");
        }
    }
}
