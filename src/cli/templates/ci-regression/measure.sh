#!/bin/sh
# Runs a sorting program on a workload, checks its answer, and writes the metrics comparisons, comparisons_per_item and
# time_s.
#
#   measure.sh PROGRAM.awk WORKLOAD SIZE
set -eu
program=$1 workload=$2 size=$3

# The same numbers every time: a multiplicative generator, nothing random.
awk -v workload="$workload" -v size="$size" 'BEGIN {
    x = 42
    for (n = 0; n < size; n++) {
        x = x * 16807 % 2147483647
        if (workload == "random") print x
        else if (workload == "sorted") print n
        else if (workload == "reversed") print size - n
        else if (workload == "few-values") print x % 10
        else exit 2
    }
}' >input.txt

start_ns=$(date +%s%N)
awk -f "$program" input.txt >sorted.txt 2>said.txt
end_ns=$(date +%s%N)
cat said.txt >&2

sort -n input.txt | cmp - sorted.txt || {
    echo "measure.sh: the answer is wrong" >&2
    exit 1
}
awk -v took_ns="$((end_ns - start_ns))" -v size="$size" '
$1 == "comparisons:" {
    printf "{\"comparisons\": %d, \"comparisons_per_item\": %.4f, \"time_s\": %.6f}\n", $2, $2 / size, took_ns / 1e9
}' said.txt >"$PITON_METRICS_FILE"
