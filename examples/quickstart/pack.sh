#!/bin/sh
# One trial of the quickstart: lay a table out, pack it, measure, and prove that nothing was lost.
#
#   pack.sh TABLE EVERY CODEC LEVEL LAYOUT CODES
#
# TABLE   lines of fields between semicolons, the first field a hexadecimal code
# EVERY   take every EVERY-th line only (1: the whole table)
# CODEC   gzip | bzip2 | xz | xz-text (xz told that its input is text)
# LEVEL   1 to 9
# LAYOUT  rows: as it comes | columns: all first fields, then all second fields, ...
# CODES   plain: as they come | delta: each code as its distance from the one before
#
# Leaves `packed` in the working directory and writes these metrics:
#   bytes       size of `packed`
#   memory_mib  the smallest limit on the packer's memory (address space, MiB) under which it succeeds
#   ratio       size of the table divided by bytes
set -eu

if [ $# -ne 6 ]; then
    sed -n '4p' "$0" >&2
    exit 2
fi
table=$1 every=$2 codec=$3 level=$4 layout=$5 codes=$6

# The same bytes on every machine: no locale, no options from the environment.
export LC_ALL=C
unset GZIP BZIP BZIP2 XZ_OPT XZ_DEFAULTS || true

# Gaps between the rungs are wide on purpose: what a packer needs may differ by a page from run to run, and on a coarse
# scale the answer is the same every time.
limits_mib="4 6 8 12 16 24 40 64 112 224 400 800 1600"

# From stdin to stdout, like the four below.
pack() {
    case $codec in
    gzip) gzip -n "-$level" ;;
    bzip2) bzip2 "-$level" ;;
    xz) xz -T1 "-$level" ;;
    xz-text) xz -T1 "--lzma2=preset=$level,lc=4,pb=0" ;;
    *) echo "pack.sh: no codec \`$codec\`" >&2 && exit 2 ;;
    esac
}

unpack() { "${codec%-text}" -dc; }

lay_out() {
    case $layout in
    rows) cat ;;
    columns) awk -F ';' '
        { for (i = 1; i <= NF; i++) cell[i, NR] = $i; if (NF > width) width = NF }
        END { for (i = 1; i <= width; i++) for (row = 1; row <= NR; row++) print cell[i, row] }' ;;
    *) echo "pack.sh: no layout \`$layout\`" >&2 && exit 2 ;;
    esac
}

# `width` columns back to rows.
lay_back() {
    case $layout in
    rows) cat ;;
    columns) awk -v width="$width" '
        { cell[NR] = $0 }
        END {
            rows = NR / width
            for (row = 1; row <= rows; row++) {
                line = cell[row]
                for (i = 1; i < width; i++) line = line ";" cell[i * rows + row]
                print line
            }
        }' ;;
    esac
}

encode() {
    case $codes in
    plain) cat ;;
    delta) awk '
        function number(hex,   i, n) {
            for (i = 1; i <= length(hex); i++) n = n * 16 + index("0123456789ABCDEF", substr(hex, i, 1)) - 1
            return n
        }
        BEGIN { FS = OFS = ";" }
        { code = number($1); $1 = code - last; last = code; print }' ;;
    *) echo "pack.sh: no codes \`$codes\`" >&2 && exit 2 ;;
    esac
}

decode() {
    case $codes in
    plain) cat ;;
    delta) awk '
        BEGIN { FS = OFS = ";" }
        { last += $1; $1 = sprintf("%04X", last); print }' ;;
    esac
}

size_of() { wc -c <"$1" | tr -d ' '; }

command -v "${codec%-text}" >/dev/null || {
    echo "pack.sh: \`${codec%-text}\` is not installed" >&2
    exit 127
}
trap 'rm -f sampled coded laid packer.log' EXIT

# Files rather than pipes between the steps: in sh a pipe hides the failure of all but its last command.
awk -v every="$every" 'NR % every == 0' "$table" >sampled
width=$(awk -F ';' 'NR == 1 { print NF }' sampled)
encode <sampled >coded
lay_out <coded >laid

# The first rung on which the packer gets by is its memory. Too little fails at once, so the search costs next to nothing.
memory_mib=
for limit_mib in $limits_mib; do
    # shellcheck disable=SC3045 # not POSIX, but every sh of Debian has it: dash, bash and busybox
    if (ulimit -v $((limit_mib * 1024)) && pack <laid >packed 2>packer.log); then
        memory_mib=$limit_mib
        break
    fi
done
if [ -z "$memory_mib" ]; then
    cat packer.log >&2
    exit 1
fi

# A small result that cannot be read back is worth nothing.
unpack <packed >laid
lay_back <laid >coded
decode <coded | cmp - sampled

table_bytes=$(size_of sampled)
bytes=$(size_of packed)
ratio=$(awk -v a="$table_bytes" -v b="$bytes" 'BEGIN { printf "%.4f", a / b }')
echo "$table_bytes bytes packed to $bytes by $codec -$level ($layout, $codes), within $memory_mib MiB"
printf '{"bytes": %d, "memory_mib": %d, "ratio": %s}\n' "$bytes" "$memory_mib" "$ratio" >"$PITON_METRICS_FILE"
