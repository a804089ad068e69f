#!/usr/bin/env bash
# The command line: the main job in short, its JSON, its error lines, and that a build without grace periods is caught.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo build --release -p quietus-cli
quietus="${CARGO_TARGET_DIR:-target}/release/quietus"

"$quietus" env
"$quietus" index --seconds 2 --reclaimer all
"$quietus" index --seconds 5 --reclaimer quietus --json "$work/out.json" .
grep -q '"verified": *true' "$work/out.json"
grep -q '"left_unreclaimed": *0' "$work/out.json"

refuses() {
    local code=0 lines
    "$quietus" "$@" > "$work/stdout" 2> "$work/stderr" || code=$?
    lines=$(wc -l < "$work/stderr")
    if [ "$code" != 2 ] || [ "$lines" != 1 ]; then
        echo "quietus $*: exit code $code, $lines lines, expected 2 and 1:"
        cat "$work/stderr"
        exit 1
    fi
    echo "quietus $*: $(cat "$work/stderr")"
}
refuses index /nonexistent
refuses index --no-such-option
refuses index --readers x
refuses nonsense
QUIETUS_RSEQ=perhaps refuses env

# Broken on purpose: every grace period is over at once. The verification must say so.
RUSTFLAGS="--cfg quietus_no_grace_periods" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/broken" \
    cargo build --release -p quietus-cli
code=0
"${CARGO_TARGET_DIR:-target}/broken/release/quietus" index --seconds 3 --reclaimer quietus . || code=$?
if [ "$code" != 1 ]; then
    echo "a build without grace periods exited with $code, expected 1"
    exit 1
fi
echo "a build without grace periods is caught: exit code 1"
