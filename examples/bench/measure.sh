#!/usr/bin/env bash
# measure.sh PROGRAM ARGUMENT...: runs a program once and writes what that cost as the metric `cost`, and what was counted as `meter`.
#
# `instructions` where this machine lets `perf` count them, since they hardly vary; otherwise `cpu_ms`, milliseconds of processor time.
# METER=blocks counts the basic blocks that are run, by what the compiler puts in: the same on every machine, and no measure of speed.
# A study has one meter: where it may go on elsewhere, or its builds are to count, set METER, for example in [env].
set -euo pipefail

instructions() {
    perf stat -x, -e instructions:u -o perf.csv -- "$@" >answer.txt || return
    awk -F, '$3 ~ /^instructions/ && $1 ~ /^[0-9]+$/ { print $1; found = 1 } END { exit !found }' perf.csv
}

meter=${METER:-}
if [[ -z $meter ]]; then
    meter=cpu_ms
    if command -v perf >/dev/null && instructions true >/dev/null 2>&1; then meter=instructions; fi
fi

case $meter in
    instructions) cost=$(instructions "$@") ;;
    blocks)
        BLOCKS=blocks.txt "$@" >answer.txt
        cost=$(cat blocks.txt)
        ;;
    cpu_ms)
        TIMEFORMAT='%3U %3S'
        { time "$@" >answer.txt 2>errors.txt; } 2>took.txt
        cost=$(awk '{ print ($1 + $2) * 1000 }' took.txt)
        ;;
    *)
        echo "measure.sh: there is no meter \`$meter\`" >&2
        exit 2
        ;;
esac
cat answer.txt
printf '{"cost": %s, "meter": "%s"}\n' "$cost" "$meter" >"$PITON_METRICS_FILE"
