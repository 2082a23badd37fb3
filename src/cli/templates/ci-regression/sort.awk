# The program under test: sorts the numbers it reads by merging, and says on stderr how many comparisons that took.
{ value[NR] = $1 + 0 }

function less(i, j) { comparisons++; return value[j] < value[i] }

function sort(from, to,    middle, i, j, k) {
    if (from >= to) return
    middle = int((from + to) / 2)
    sort(from, middle)
    sort(middle + 1, to)
    # In order already: nothing to merge.
    if (!less(middle, middle + 1)) return
    for (k = from; k <= to; k++) old[k] = value[k]
    i = from
    j = middle + 1
    for (k = from; k <= to; k++) {
        if (j > to) value[k] = old[i++]
        else if (i > middle) value[k] = old[j++]
        else { comparisons++; if (old[j] < old[i]) value[k] = old[j++]; else value[k] = old[i++] }
    }
}

END {
    sort(1, NR)
    for (k = 1; k <= NR; k++) print value[k]
    printf "comparisons: %d\n", comparisons >"/dev/stderr"
}
