#!/bin/sh
# Timing of the parent's netlist at a corner: corner.sh LIBRARIES DESIGN CLOCK_PS DERATE
set -eu
cp "$PITON_PARENT_DIR/netlist.v" netlist.v
exec "$PITON_STUDY_DIR/flow/measure.sh" "$1" "$2" "$3" netlist.v "$4"
