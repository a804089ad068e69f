#!/usr/bin/env bash
# Plants each bug in a copy of the tree and shows which test catches it.
#   ci/mutants.sh            all of them
#   ci/mutants.sh quick      those whose tests are short
#   ci/mutants.sh PATTERN    those whose name contains PATTERN
set -euo pipefail
cd "$(dirname "$0")/.."
pattern="${1:-}"
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf - | tar -xf - -C "$copy"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}/mutants" CARGO_INCREMENTAL=1
missed=0

# mutant NAME quick|slow FILE PERL-EXPRESSION COMMAND...
mutant() {
    local name=$1 speed=$2 file=$3 change=$4
    shift 4
    case "$pattern" in
        "") ;;
        quick) [ "$speed" = quick ] || return 0 ;;
        *) [[ "$name" == *"$pattern"* ]] || return 0 ;;
    esac
    cp "$copy/$file" "$copy/saved"
    perl -0pi -e "$change" "$copy/$file"
    if cmp -s "$copy/$file" "$copy/saved"; then
        echo "STALE   $name: the change no longer applies to $file"
        missed=1
        return 0
    fi
    local log="$copy/log" code=0
    (cd "$copy" && timeout "${MUTANT_SECONDS:-300}" "$@") > "$log" 2>&1 || code=$?
    mv "$copy/saved" "$copy/$file"
    if [ "$code" = 0 ]; then
        echo "MISSED  $name: $* passed"
        missed=1
    elif grep -q "^error" "$log" && ! grep -qE "^test .*(FAILED|panicked)|test result: FAILED|test failed" "$log"; then
        echo "BROKEN  $name: does not build"
        grep -A6 -m1 "^error" "$log"
        missed=1
    elif [ "$code" = 124 ]; then
        echo "caught  $name: $* (hangs)"
    else
        echo "caught  $name: $(grep -oE "^test .* FAILED|^test .* \.\.\. .*FAILED" "$log" | sed 's/^test //' | head -1) ($*)"
    fi
}

loom() { RUSTFLAGS="--cfg quietus_loom" CARGO_TARGET_DIR="$CARGO_TARGET_DIR/loom" cargo test --release -p quietus --test ordering_loom "$@"; }
export -f loom

. ci/mutants.list

[ "$missed" = 0 ] && echo "every mutant was caught"
exit "$missed"
