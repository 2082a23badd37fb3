#!/bin/sh
# From sta.log and a netlist to metrics.json: judge.sh LIBRARIES NETLIST. Refuses what cannot be true.
set -eu
libraries="" netlist=$2
for library in $1; do libraries="$libraries $PITON_STUDY_DIR/$library"; done
if grep -E '^Error:|black box' sta.log >&2; then
    echo "timing analysis failed, though it exited 0" >&2
    exit 3
fi
# The room there is, if the study says so.
room=$(sed -n 's/.*"core_um2": *\([0-9.]*\).*/\1/p' "$PITON_PARAMS_FILE")
# shellcheck disable=SC2086 # a list of files
awk '
    # Areas of the cells, out of the library; then the cells of the netlist.
    FILENAME != netlist && /^[ \t]*cell[ \t]*\(/ { gsub(/[()"{]/, " "); cell = $2; next }
    FILENAME != netlist && /^[ \t]*area[ \t]*:/ && cell != "" { gsub(/[:;]/, " "); area[cell] = $2; cell = ""; next }
    FILENAME != netlist { next }
    /^ +[A-Za-z0-9_\\]+ [^ ]+ \(/ && ($1 in area) { sum += area[$1]; cells++ }
    END { printf "METRIC area_um2 %.6g\nMETRIC cells %d\n", sum, cells }
' netlist="$netlist" $libraries "$netlist" >>sta.log
awk '
    $1 == "METRIC" { value[$2] = $3 }
    END {
        split("wns_ps tns_ps power_uw area_um2 cells", names)
        for (n = 1; n in names; n++) {
            name = names[n]
            if (!(name in value) || value[name] !~ /^-?[0-9.]+(e[-+]?[0-9]+)?$/) {
                # A power that is not a number is left out; all else has to be there.
                if (name == "power_uw") continue
                print "no " name " in sta.log" >"/dev/stderr"; exit 3
            }
            if (value[name] > 1e15 || value[name] < -1e15) { print name " of " value[name] " cannot be true" >"/dev/stderr"; exit 3 }
            text = text (text == "" ? "" : ", ") "\"" name "\": " value[name]
        }
        if (room > 0) text = text ", \"utilization\": " sprintf("%.4g", value["area_um2"] / room)
        if (value["cells"] == 0) { print "the netlist has no cells" >"/dev/stderr"; exit 3 }
        print "{" text "}"
    }
' room="${room:-0}" sta.log >metrics.json.new
mv metrics.json.new metrics.json
