#!/usr/bin/env bash
# crossbeam-skiplist on quietus's crossbeam-epoch beside crossbeam-skiplist on its own, both on mimalloc: one program, built twice, run by turns.
#   compat/bench/bench.sh [ROUNDS [SECONDS]]       5 rounds of half a second, unless said otherwise
# Prints medians, with the lowest and the highest: million operations a second of wall time, nanoseconds of processor time an operation, peak
# resident set. ratio: ours / theirs (of the processor time: theirs / ours, so that above 1 is better for us; of memory: below 1).
set -euo pipefail
cd "$(dirname "$0")"
rounds=${1:-5} seconds=${2:-0.5}
target=$(realpath -m "${CARGO_TARGET_DIR:-../../target}")/skiplist-bench
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# build NAME: a copy of the package, since the two builds have different lock files.
build() {
    mkdir -p "$work/$1"
    cp -r Cargo.toml src "$work/$1/"
    [ "$1" = theirs ] || printf '[patch.crates-io]\ncrossbeam-epoch = { path = "%s" }\n' "$(realpath ../crossbeam-epoch)" >> "$work/$1/Cargo.toml"
    (cd "$work/$1" && CARGO_TARGET_DIR="$target/$1" cargo build --quiet --release)
    cp "$target/$1/release/skiplist-bench" "$work/$1.bin"
}
build theirs
build ours

# workload, threads, keys; half of the keys are there.
runs="read:1:100000 read:2:100000 read:8:100000
mixed:1:100000 mixed:2:100000 mixed:8:100000
churn:1:100000 churn:2:100000 churn:8:100000
churn:1:1000 churn:2:1000 churn:8:1000
large:1:1000 large:2:1000 large:8:1000"
for run in $runs; do
    IFS=: read -r workload threads keys <<< "$run"
    for _ in $(seq "$rounds"); do
        for who in theirs ours; do
            echo "$run $who $("$work/$who.bin" "$workload" "$threads" "$seconds" "$keys")"
        done
    done
done > "$work/results"

awk '
    { key = $1 SUBSEP $2; n[key]++; if (!($1 in seen)) { seen[$1]; order[++runs] = $1 }
      ops[key, n[key]] = $3 / 1e6; cpu[key, n[key]] = $4; rss[key, n[key]] = $5 / 1024 }
    function sorted(a, key,    i, j, t, c) {
        c = n[key]
        for (i = 1; i <= c; i++) s[i] = a[key, i]
        for (i = 2; i <= c; i++) for (j = i; j > 1 && s[j - 1] > s[j]; j--) { t = s[j]; s[j] = s[j - 1]; s[j - 1] = t }
        low = s[1]; high = s[c]
        return c % 2 ? s[(c + 1) / 2] : (s[c / 2] + s[c / 2 + 1]) / 2
    }
    function column(a, run, format, invert,    t, o, cell) {
        t = sorted(a, run SUBSEP "theirs"); cell = sprintf(format " (" format "–" format ")", t, low, high)
        o = sorted(a, run SUBSEP "ours")
        return cell " | " sprintf(format " (" format "–" format ")", o, low, high) " | " sprintf("%.2f", invert ? t / o : o / t)
    }
    END {
        print "| run | Mops/s: theirs | ours | ratio | ns CPU/op: theirs | ours | ratio | peak MiB: theirs | ours | ratio |"
        print "| --- | --- | --- | ---: | --- | --- | ---: | --- | --- | ---: |"
        for (i = 1; i <= runs; i++)
            print "| " order[i] " | " column(ops, order[i], "%.2f", 0) " | " column(cpu, order[i], "%.0f", 1) " | " column(rss, order[i], "%.1f", 0) " |"
    }' "$work/results"
