#!/usr/bin/env bash
# Strangers' structures on compat/crossbeam-epoch, unchanged: crossbeam-skiplist's and crossbeam-deque's own tests, as they are in the package
# registry, first on the crossbeam-epoch of the registry, then on ours; our own lints and tests; and a program that takes the README's two lines.
#   ci/embed.sh                  once, in the usual mode
#   ci/embed.sh 20               the suites on ours twenty times
#   ci/embed.sh --modes [N]      also without restartable sequences, without membarrier, and on the portable path
#   ci/embed.sh --asan [N]       also our own tests and crossbeam-skiplist's under AddressSanitizer (needs only the installed toolchain)
# A suite that runs another number of tests than it is known to have fails, one that runs none included.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
repeats=1 modes=no asan=no
for arg in "$@"; do
    case $arg in
        --modes) modes=yes ;;
        --asan) asan=yes ;;
        *[!0-9]* | '' | 0) echo "usage: ci/embed.sh [--modes] [--asan] [REPEATS]" >&2; exit 2 ;;
        *) repeats=$arg ;;
    esac
done
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/embed
unset CARGO_TARGET_DIR
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ours="patch.crates-io.crossbeam-epoch.path=\"$root/compat/crossbeam-epoch\""
# The skiplist is a root package here, so its own lints apply: this one is younger than its code.
allow="-A dangerous_implicit_autorefs"

# The two packages, as the registry has them.
mkdir -p "$work/fetch/src"
cat > "$work/fetch/Cargo.toml" <<'EOF'
[package]
name = "fetch"
version = "0.0.0"
edition = "2021"
[dependencies]
crossbeam-skiplist = "=0.1.3"
crossbeam-deque = "=0.8.8"
[workspace]
EOF
touch "$work/fetch/src/lib.rs"
(cd "$work/fetch" && cargo vendor --quiet "$work/vendor" > /dev/null)

# workspace NAME: the two as members, so that no lock file of theirs says which crossbeam-epoch it is.
workspace() {
    mkdir "$work/$1"
    cp -r "$work/vendor/crossbeam-skiplist" "$work/vendor/crossbeam-deque" "$work/$1/"
    printf '[workspace]\nresolver = "2"\nmembers = ["crossbeam-skiplist", "crossbeam-deque"]\n' > "$work/$1/Cargo.toml"
}
workspace theirs
workspace ours

# expect_ours CARGO-ARGUMENTS...: the crossbeam-epoch that the package in this directory gets must be the one of the patch.
expect_ours() {
    cargo "$@" tree -i crossbeam-epoch 2> /dev/null | grep -qF "($root/compat/crossbeam-epoch)" || {
        echo "the patch was not taken:" >&2
        cargo "$@" tree -i crossbeam-epoch >&2
        exit 1
    }
}

# counted EXPECTED CARGO-ARGUMENTS...: runs tests, which must pass, and be that many.
counted() {
    local expected=$1 log="$work/log" passed
    shift
    if ! timeout "${EMBED_SECONDS:-600}" cargo "$@" > "$log" 2>&1; then
        cat "$log"
        echo "FAILED: cargo $*" >&2
        exit 1
    fi
    passed=$(awk '/^test result: ok\./ { n += $4 } END { print n + 0 }' "$log")
    if [ "$passed" != "$expected" ]; then
        cat "$log"
        echo "FAILED: $passed tests ran, not $expected: cargo $*" >&2
        exit 1
    fi
}

# suites NAME WHERE CARGO-ARGUMENTS...: both suites in that workspace.
suites() {
    local name=$1 where=$2
    shift 2
    cd "$work/$where"
    counted 78 "$@" test -p crossbeam-skiplist --tests
    counted 40 "$@" test -p crossbeam-skiplist --doc
    counted 38 "$@" test -p crossbeam-deque --tests
    counted 34 "$@" test -p crossbeam-deque --doc
    cd "$root"
    echo "$name: 78 + 40 and 38 + 34 passed"
}

echo "--- formatting, lints, docs, own tests"
(
    cd compat/crossbeam-epoch
    export CARGO_TARGET_DIR="$target/own"
    cargo fmt --check
    cargo clippy --quiet --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps
    cargo test --quiet
    cargo check --quiet --no-default-features --features alloc,nightly,loom
)
cp -r compat/bench "$work/bench" # a copy: its lock file is not kept
cp rustfmt.toml "$work/bench/"
(cd "$work/bench" && cargo fmt --check && CARGO_TARGET_DIR="$target/bench" cargo clippy --quiet --all-targets -- -D warnings)

echo "--- a program of a stranger's, with the two lines and without"
mkdir -p "$work/stack/src"
cp compat/crossbeam-epoch/examples/stack.rs "$work/stack/src/main.rs"
printf '[package]\nname = "stack"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\ncrossbeam-epoch = "0.9"\n[workspace]\n' \
    > "$work/stack/Cargo.toml"
cp "$work/stack/Cargo.toml" "$work/stack/without"
(
    cd "$work/stack"
    export CARGO_TARGET_DIR="$target/stack"
    cargo run --quiet
    # As in the README: the lines are added to a program that has its lock file already, and the lock file is told.
    printf '[patch.crates-io]\ncrossbeam-epoch = { path = "%s" }\n' "$root/compat/crossbeam-epoch" >> Cargo.toml
    cargo update --quiet -p crossbeam-epoch
    expect_ours
    cargo run --quiet
    # And back.
    cp without Cargo.toml
    cargo run --quiet
    if grep -q 0.9.99 Cargo.lock; then echo "without the lines it is still ours" >&2; exit 1; fi
)

export RUSTFLAGS="$allow"
echo "--- the suites"
CARGO_TARGET_DIR="$target/theirs" suites "on crossbeam-epoch" theirs
(cd "$work/ours" && expect_ours --config "$ours")
for i in $(seq "$repeats"); do
    CARGO_TARGET_DIR="$target/ours" suites "on ours, $i of $repeats" ours --config "$ours"
done

if [ "$modes" = yes ]; then
    echo "--- modes"
    for mode in GLIBC_TUNABLES=glibc.pthread.rseq=0 QUIETUS_RSEQ=off QUIETUS_MEMBARRIER=off; do
        (export "${mode?}" CARGO_TARGET_DIR="$target/ours" && suites "$mode" ours --config "$ours")
    done
    (
        export RUSTFLAGS="$allow --cfg quietus_portable" RUSTDOCFLAGS="--cfg quietus_portable" CARGO_TARGET_DIR="$target/portable"
        suites "--cfg quietus_portable" ours --config "$ours"
    )
fi

if [ "$asan" = yes ]; then
    echo "--- AddressSanitizer"
    if [ "$(uname -sm)" != "Linux x86_64" ]; then
        echo "skipped: AddressSanitizer is run on x86-64 Linux only"
        exit 0
    fi
    # What is retired when the process ends is reachable through blocks only, which LeakSanitizer does not look at.
    export RUSTC_BOOTSTRAP=1 RUSTFLAGS="$allow -Zsanitizer=address" ASAN_OPTIONS=detect_leaks=0 CARGO_TARGET_DIR="$target/asan"
    (cd compat/crossbeam-epoch && cargo test --quiet --target x86_64-unknown-linux-gnu --tests)
    cd "$work/ours"
    for i in $(seq "$repeats"); do
        counted 78 --config "$ours" test --target x86_64-unknown-linux-gnu -p crossbeam-skiplist --tests
        echo "under AddressSanitizer, $i of $repeats: 78 passed"
    done
fi
