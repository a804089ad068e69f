#!/usr/bin/env bash
# The command line: the main job in short, its JSON, its error lines, and that a build without grace periods is caught.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo build --release -p quietus-cli
quietus="${CARGO_TARGET_DIR:-target}/release/quietus"

"$quietus" env
"$quietus" index --seconds 2 --reclaimer all --plot "$work/index.svg"
for reclaimer in quietus crossbeam seize sdd leak; do
    grep -qx "$reclaimer" "$work/index.svg"
done
"$quietus" index --seconds 5 --reclaimer quietus --json "$work/out.json" .
grep -q '"verified": *true' "$work/out.json"
grep -q '"left_unreclaimed": *0' "$work/out.json"

# Every key that a command promises is in its JSON.
has() {
    local file=$1 key
    shift
    for key in "$@"; do
        grep -q "\"$key\":" "$file" || { echo "no $key in:"; cat "$file"; exit 1; }
    done
}

for mode in cache kvfree box linked call; do
    "$quietus" scale --mode "$mode" --threads 3 --loops 4 --json "$work/scale.json"
    has "$work/scale.json" mode threads submit_ns_per_op total_ns_per_op grace_periods peak_unreclaimed_bytes \
        mean_unreclaimed_bytes retire_ns p50 p99 p999 p9999 max worker_cpu_ms objects fallbacks
    grep -q '"verified": true' "$work/scale.json"
done
"$quietus" scale --size 256 --allocs 100 --loops 1000

for flavor in memb qsbr epoch crossbeam; do
    "$quietus" latency --flavor "$flavor" --seconds 1 --readers 2 --json "$work/latency.json" --plot "$work/latency.svg"
    has "$work/latency.json" flavor readers count p50_ns p99_ns p999_ns max_ns
    grep -q '"verified": true' "$work/latency.json"
    grep -q 'time of a call' "$work/latency.svg"
done

# The verdict of a torture is its last line, and in the JSON.
for flavor in memb qsbr epoch; do
    "$quietus" torture --flavor "$flavor" --seconds 3 --faults all --json "$work/torture.json" |
        tee "$work/torture"
    [ "$(tail -n 1 "$work/torture")" = "End of test: SUCCESS" ]
    has "$work/torture.json" flavor readers writers seconds seed faults counts doors pipe circulation failures verdict
    grep -q '"verdict": "SUCCESS"' "$work/torture.json"
done
"$quietus" top --seconds 1 > "$work/top"
for line in sections pending reserve fallbacks 'grace periods' membarriers worker resident; do
    grep -q "^$line " "$work/top" || { echo "no $line in:"; cat "$work/top"; exit 1; }
done

"$quietus" slabinfo --threads 4 --json "$work/slabinfo.json" | tee "$work/slabinfo"
[ "$(head -n 1 "$work/slabinfo")" = "slabinfo - version: 2.1" ]
[ "$(tail -n 1 "$work/slabinfo")" = "# verified: yes: every object is accounted for" ]
grep -qx '# inodes is also dentries' "$work/slabinfo"
for cache in points names inodes whole sessions; do
    grep -Eq "^$cache +([0-9]+ +){5}: tunables +([0-9]+ +){3}: slabdata +[0-9]+ +[0-9]+ +[0-9]+\$" "$work/slabinfo"
done
has "$work/slabinfo.json" threads seconds made freed retired held caches name aliases active_objs num_objs objsize \
    objperslab pagesperslab limit batchcount sharedfactor active_slabs num_slabs sharedavail totals bytes verified
grep -q '"verified": true' "$work/slabinfo.json"
QUIETUS_SLAB_DEBUG=FZPU "$quietus" slabinfo --seconds 0.5 | grep -q '^# verified: yes'

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
refuses index --reclaimer quietus,nonsense
refuses index --json "$work/none/out.json"
refuses index --plot "$work/none/out.svg"
refuses scale --mode nonsense
refuses scale --threads 0
refuses scale --size 100
refuses scale --readers 2
refuses scale --json "$work/none/out.json"
refuses latency --flavor nonsense
refuses latency --readers 0
refuses latency --seconds x
refuses latency --mode cache
refuses latency --json "$work/none/out.json"
refuses latency --plot "$work/none/out.svg"
refuses torture --flavor crossbeam
refuses torture --faults churn,nonsense
refuses torture --seed -1
refuses torture --mode box
refuses torture --json "$work/none/out.json"
refuses top --interval 0
refuses top --readers 2
refuses slabinfo --threads 0
refuses slabinfo --seconds x
refuses slabinfo --readers 2
refuses slabinfo --json "$work/none/out.json"
QUIETUS_RSEQ=perhaps refuses env
for command in index scale latency torture top slabinfo env; do
    QUIETUS_SLAB_DEBUG=Q refuses "$command"
    QUIETUS_SLAB_WORKERS=perhaps refuses "$command"
done

# Broken on purpose: every grace period is over at once. The verification must say so.
RUSTFLAGS="--cfg quietus_no_grace_periods" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/broken" \
    cargo build --release -p quietus-cli
# Three seconds are enough almost always, but a slow machine, or one processor, may take longer to meet the first case.
caught() {
    local code=0 seconds
    for seconds in 3 30 120; do
        "${CARGO_TARGET_DIR:-target}/broken/release/quietus" "$1" --seconds "$seconds" "${@:2}" || code=$?
        [ "$code" = 0 ] || break
    done
    if [ "$code" != 1 ]; then
        echo "quietus $*: a build without grace periods exited with $code, expected 1"
        exit 1
    fi
}
caught index --reclaimer quietus .
caught latency
for flavor in memb qsbr epoch; do
    caught torture --flavor "$flavor" | tee "$work/torture"
    [ "$(tail -n 1 "$work/torture")" = "End of test: FAILURE" ]
done
echo "a build without grace periods is caught: exit code 1"
