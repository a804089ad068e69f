#!/usr/bin/env bash
# The torture tests under AddressSanitizer. Needs only the installed toolchain.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "skipped: AddressSanitizer is run on x86-64 Linux only"
    exit 0
fi
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/asan"
export QUIETUS_TORTURE_SECONDS="${QUIETUS_TORTURE_SECONDS:-2}"
cargo test --target x86_64-unknown-linux-gnu -p quietus --test torture --test contract
cargo test --target x86_64-unknown-linux-gnu -p quietus-slab --tests
# These give objects up on purpose (a grace period that is taken back, no page left) and count them: not LeakSanitizer's business.
# Not s4_syscalls, which counts system calls and page faults: the sanitizer makes some of its own.
kvfree=(--lib)
for test in kvfree/tests/*.rs; do
    test=$(basename "$test" .rs)
    [ "$test" = s4_syscalls ] || kvfree+=(--test "$test")
done
ASAN_OPTIONS=detect_leaks=0 cargo test --target x86_64-unknown-linux-gnu -p quietus-kvfree "${kvfree[@]}"
