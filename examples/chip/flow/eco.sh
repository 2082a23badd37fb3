#!/bin/sh
# An engineering change of the parent's netlist, then timing: eco.sh LIBRARIES DESIGN CLOCK_PS ECO MOVES
set -eu
export LIBRARIES="$1" DESIGN="$2" CLOCK_PS="$3" ECO="$4" MOVES="$5" NETLIST="$PITON_PARENT_DIR/netlist.v"
flow=$PITON_STUDY_DIR/flow
sta -no_init -no_splash -exit "$flow/eco.tcl" >eco.log 2>&1
# Only a change that was carried out whole leaves a netlist; it exits 0 in any case.
if ! grep -q '^ECO done' eco.log; then
    grep -E '^Error' eco.log >&2 || tail -n 5 eco.log >&2
    exit 3
fi
exec "$flow/measure.sh" "$LIBRARIES" "$DESIGN" "$CLOCK_PS" netlist.v
