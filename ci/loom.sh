#!/usr/bin/env bash
# The lettered pairs of docs/ORDERING.md under loom; then random schedules of kvfree under shuttle.
set -euo pipefail
cd "$(dirname "$0")/.."
RUSTFLAGS="--cfg quietus_loom" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/loom" \
    cargo test --release -p quietus --test ordering_loom --test blocks_loom --test kvfree_loom "$@"
RUSTFLAGS="--cfg quietus_shuttle" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/shuttle" \
    cargo test --release -p quietus-kvfree --test schedule_shuttle "$@"
