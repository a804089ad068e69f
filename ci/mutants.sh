#!/usr/bin/env bash
# Plants each bug in a copy of the tree and shows which test catches it.
#   ci/mutants.sh            all of them
#   ci/mutants.sh quick      those whose tests are short
#   ci/mutants.sh PATTERN    those whose name contains PATTERN
set -euo pipefail
. "$(dirname "$0")/plant.sh"
pattern="${1:-}"
missed=0

# mutant NAME quick|slow FILE PERL-EXPRESSION COMMAND...
mutant() {
    local name=$1 speed=$2
    shift 2
    case "$pattern" in
        "") ;;
        quick) [ "$speed" = quick ] || return 0 ;;
        *) [[ "$name" == *"$pattern"* ]] || return 0 ;;
    esac
    plant "$@"
    printf '%-7s %s: %s\n' "$verdict" "$name" "$detail"
    [ "$verdict" = caught ] || missed=1
}

loom() { RUSTFLAGS="--cfg quietus_loom" CARGO_TARGET_DIR="$CARGO_TARGET_DIR/loom" cargo test --release -p quietus --test ordering_loom "$@"; }
export -f loom

. ci/mutants.list

[ "$missed" = 0 ] && echo "every mutant was caught"
exit "$missed"
