#!/usr/bin/env bash
# The tests again: without restartable sequences (as under valgrind, gVisor, old kernels), and on the portable path.
set -euo pipefail
cd "$(dirname "$0")/.."
echo "--- glibc.pthread.rseq=0"
GLIBC_TUNABLES=glibc.pthread.rseq=0 cargo test --workspace
echo "--- --cfg quietus_portable"
RUSTFLAGS="--cfg quietus_portable" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/portable" cargo test --workspace
