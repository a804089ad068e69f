# Sourced by mutants.sh and lines.sh: a copy of the tree in which bugs are planted, one at a time.
# Sets $copy, and CARGO_TARGET_DIR to a place of its own. Nothing in the tree itself is touched.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf - | tar -xf - -C "$copy"
find "$copy" -name '*.rs' -exec touch {} + # newer than what the last run has built, perhaps from a changed file
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}/mutants" CARGO_INCREMENTAL=1

# try COMMAND...: runs it in the copy, its output in $copy/log; the answer in $code.
try() {
    code=0
    # Building takes as long as it takes: it is no hang. What does not build says so again below.
    [ "$1" != cargo ] || (cd "$copy" && "$@" --no-run) > "$copy/log" 2>&1 || true
    (cd "$copy" && timeout "${MUTANT_SECONDS:-300}" "$@") > "$copy/log" 2>&1 || code=$?
}

# plant FILE PERL-EXPRESSION COMMAND...: changes the file, tries the command, and puts the file back.
# The answer in $verdict: caught, MISSED (the command succeeds), STALE (the change no longer applies), BROKEN (it does not build);
# what there is to say about it in $detail.
plant() {
    local file=$1 change=$2
    shift 2
    detail=
    cp "$copy/$file" "$copy/saved"
    perl -0pi -e "$change" "$copy/$file"
    if cmp -s "$copy/$file" "$copy/saved"; then
        verdict=STALE detail="the change no longer applies to $file"
        return 0
    fi
    try "$@"
    mv "$copy/saved" "$copy/$file"
    touch "$copy/$file" # newer than what was built from the changed one
    if [ "$code" = 0 ]; then
        verdict=MISSED detail="$* passed"
    elif grep -q "^error" "$copy/log" && ! grep -qE "^test .*(FAILED|panicked)|test result: FAILED|test failed" "$copy/log"; then
        verdict=BROKEN detail="does not build: $(grep -A6 -m1 "^error" "$copy/log" || true)"
    elif [ "$code" = 124 ]; then
        verdict=caught detail="$* (hangs)"
    else
        verdict=caught
        detail="$(sed -nE '/^test .*FAILED/{s/^test //p;q}' "$copy/log") ($*)"
    fi
}
