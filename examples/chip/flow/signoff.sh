#!/bin/sh
# Sign-off of the parent's netlist: signoff.sh DESIGN CLOCK_PS (CORNER LIBRARIES DERATE)...
# A circuit is as good as its worst corner, so that one's slack counts as wns_ps; wns_<corner>_ps tell of each.
set -eu
design=$1 clock_ps=$2
shift 2
cp "$PITON_PARENT_DIR/netlist.v" netlist.v
while [ $# -gt 0 ]; do
    mkdir "$1"
    (cd "$1" && "$PITON_STUDY_DIR/flow/measure.sh" "$2" "$design" "$clock_ps" ../netlist.v "$3")
    # Corner, metric, value: a line each.
    tr -d '{}"' <"$1/metrics.json" | tr ',' '\n' | sed "s/^ */$1 /; s/:/ /"
    shift 3
done >corners.txt
awk '
    { known = $2 in value }
    $2 == "wns_ps" { each = each ", \"wns_" $1 "_ps\": " $3 }
    $2 ~ /^(wns|tns)_ps$/ && known && $3 + 0 >= value[$2] + 0 { next }
    $2 == "power_uw" && known && $3 + 0 <= value[$2] + 0 { next }
    { if (!known) order[++count] = $2; value[$2] = $3 }
    END {
        for (n = 1; n <= count; n++) text = text (n > 1 ? ", " : "") "\"" order[n] "\": " value[order[n]]
        print "{" text each "}"
    }
' corners.txt >metrics.json.new
mv metrics.json.new metrics.json
