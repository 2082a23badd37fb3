#!/bin/sh
# Timing, power and area of a netlist: measure.sh LIBRARIES DESIGN CLOCK_PS NETLIST [DERATE]
# Writes metrics.json last, and by rename. OpenSTA exits 0 whatever happens, so it is its words that count.
set -eu
export LIBRARIES="$1" DESIGN="$2" CLOCK_PS="$3" NETLIST="$4" DERATE="${5:-1}"
flow=$PITON_STUDY_DIR/flow
sta -no_init -no_splash -exit "$flow/measure.tcl" >sta.log 2>&1
exec "$flow/judge.sh" "$LIBRARIES" "$NETLIST"
