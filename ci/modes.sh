#!/usr/bin/env bash
# The tests again: without restartable sequences (as under valgrind, gVisor, old kernels), on the portable path, and what waits without membarrier.
set -euo pipefail
cd "$(dirname "$0")/.."
echo "--- glibc.pthread.rseq=0"
GLIBC_TUNABLES=glibc.pthread.rseq=0 cargo test --workspace
echo "--- --cfg quietus_portable"
RUSTFLAGS="--cfg quietus_portable" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/portable" cargo test --workspace
echo "--- without membarrier, and without both"
QUIETUS_MEMBARRIER=off cargo test -p quietus --test r --test contract
QUIETUS_MEMBARRIER=off QUIETUS_RSEQ=off cargo test -p quietus --test r --test contract
