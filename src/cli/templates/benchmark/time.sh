#!/bin/sh
# Times a command, several times over, on the same input.
#
#   time.sh LINES RUNS COMMAND
#
# COMMAND is a line for `sh -c`; it reads LINES numbers from stdin, about a third of them distinct, and must print how many
# distinct ones there are. Writes the metrics best_s, mean_s and worst_s, in seconds.
set -eu
lines=$1 runs=$2 command=$3
trap 'rm -f input timings' EXIT

# The same numbers every time: a multiplicative generator, nothing random.
awk -v lines="$lines" 'BEGIN {
    x = 42
    for (n = 0; n < lines; n++) {
        x = x * 16807 % 2147483647
        print x % int(lines / 3)
    }
}' >input
expected=$(sort -u input | wc -l | tr -d ' ')

run=0
: >timings
while [ "$run" -lt "$runs" ]; do
    start_ns=$(date +%s%N)
    answer=$(sh -c "$command" <input | tr -d ' ')
    end_ns=$(date +%s%N)
    if [ "$answer" != "$expected" ]; then
        echo "time.sh: answered \`$answer\`, expected $expected" >&2
        exit 1
    fi
    echo "$start_ns $end_ns" >>timings
    run=$((run + 1))
done

# Whole seconds are taken off first: awk's numbers hold 15 digits, a time in nanoseconds has 19.
awk '
{
    split_at = length($1) - 9
    seconds = substr($2, 1, split_at) - substr($1, 1, split_at)
    took = seconds + (substr($2, split_at + 1) - substr($1, split_at + 1)) / 1e9
    if (NR == 1 || took < best) best = took
    if (took > worst) worst = took
    sum += took
}
END { printf "{\"best_s\": %.6f, \"mean_s\": %.6f, \"worst_s\": %.6f}\n", best, sum / NR, worst }' timings >"$PITON_METRICS_FILE"
cat "$PITON_METRICS_FILE"
