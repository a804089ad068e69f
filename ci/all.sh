#!/usr/bin/env bash
# The whole of CI, in order, with the time each part took.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0
part() {
    local start=$SECONDS
    echo "==> $*"
    bash "$@"
    echo "==> $* took $((SECONDS - start)) s"
}
part ci/lint.sh
part ci/test.sh
part ci/modes.sh
part ci/loom.sh
part ci/sanitize.sh
part ci/cli.sh
part ci/embed.sh
part ci/mutants.sh quick
echo "==> all of CI took $SECONDS s"
