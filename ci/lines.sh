#!/usr/bin/env bash
# Shows that the test of each line of the requirements fails when the line is broken: plants each break of lines.list in a copy of
# the tree and runs that one test, which passes without it.
#   ci/lines.sh              all of them
#   ci/lines.sh PATTERN      those whose line or test begins with PATTERN: s4, s4.2, s4_12_barrier_on
# Prints "line  test  caught|MISSED|STALE|BROKEN|FAILS" (FAILS: without any break); exit status 1 if any is not caught.
set -euo pipefail
. "$(dirname "$0")/plant.sh"
export MUTANT_SECONDS="${MUTANT_SECONDS:-90}"
pattern="${1:-}"
missed=0
declare -A sound

# line NUMBER TEST FILE PERL-EXPRESSION COMMAND...: the command is completed by the name of the test.
line() {
    local number=$1 test=$2 file=$3 change=$4
    shift 4
    [[ -z "$pattern" || "$number." == "${pattern%.}."* || ( "$pattern" != *.* && ( "$number" == "$pattern"* || "$test" == "$pattern"* ) ) ]] || return 0
    local command=("$@" "$test")
    local key="${command[*]}"
    if [ -z "${sound[$key]:-}" ]; then
        # It has to run, and to pass, without the break. This also builds what it needs, so it may take longer.
        MUTANT_SECONDS=600 try "${command[@]}"
        if [ "$code" = 0 ] && grep -qE "^test .*$test.* ok$" "$copy/log"; then sound[$key]=yes; else sound[$key]=no; fi
    fi
    if [ "${sound[$key]}" = yes ]; then plant "$file" "$change" "${command[@]}"; else verdict=FAILS detail="$key, without any break"; fi
    printf '%-6s %-62s %s\n' "$number" "$test" "$verdict"
    [ "$verdict" = caught ] && return 0
    printf '       %s\n       %s\n' "$file: $change" "$detail"
    missed=1
}

. ci/lines.list

[ "$missed" = 0 ] && echo "every break was caught"
exit "$missed"
