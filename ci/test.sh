#!/usr/bin/env bash
# The README's test command, and what is behind a feature.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test --workspace
cargo test -p quietus --features epoch --test contract
cargo test -p quietus --features epoch --doc
