#!/usr/bin/env bash
# The README's test command, and what is behind a feature.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test --workspace
cargo test --release -p quietus --test r r_3_ # what a processor does seldom it does oftener in optimised code
cargo test -p quietus --features epoch --test contract
cargo test -p quietus --features epoch --doc
# Each asserts what it prints.
for example in stack map tokio_config crossbeam_readers; do
    cargo run --features epoch --example "$example"
done
