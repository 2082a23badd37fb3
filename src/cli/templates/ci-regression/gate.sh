#!/bin/sh
# Measures, reports, and compares with baseline.json; see study.toml. Exit codes are piton's: 0 fine, 4 worse, 3 nothing
# worked, 75 interrupted.
#
#   gate.sh [--accept]
#
# PITON is the program to use, if it is not the one in PATH.
set -eu
cd "$(dirname "$0")"
piton=${PITON:-piton}

# A new study every time: the results are to be of the program as it is now.
rm -rf study.redb artifacts report
code=0
"$piton" run study.toml || code=$?
# Also of a study that went wrong: report/junit.xml says which cases failed and why.
"$piton" export study.redb --to report
[ "$code" = 0 ] || exit "$code"

if [ "${1:-}" = --accept ]; then
    exec "$piton" compare study.redb --write-baseline baseline.json --metric comparisons
fi
# Times are left out: they are another machine's. One percent more comparisons is let pass, a case that fails or is gone is not.
exec "$piton" compare study.redb --baseline baseline.json --metric comparisons --tolerance comparisons=1%
