#!/bin/sh
# Synthesis, then timing: synth.sh LIBRARY DESIGN CLOCK_PS TARGET_PS ABC ADDER FANOUT FLATTEN
set -eu
liberty=$PITON_STUDY_DIR/$1 design=$2 clock_ps=$3 target_ps=$4 abc=$5 adder=$6 fanout=$7 flatten=$8
flow=$PITON_STUDY_DIR/flow rtl=$PITON_STUDY_DIR/rtl
# A yosys that crashes leaves its files behind: here they are the attempt's.
export TMPDIR="$PWD"

# ABC: a word of a command is followed by a comma, a command by a semicolon.
sizing="buffer,-c,-N,$fanout;topo;upsize,-c;dnsize,-c"
case $abc in
area) script="strash;ifraig;scorr;dc2;dch;map,-a;topo;buffer,-c,-N,$fanout;topo;dnsize,-c" ;;
fast) script="strash;dch,-f;map,-B,0.9,-D,$target_ps;topo;$sizing" ;;
deep) script="strash;ifraig;scorr;dc2;strash;&get,-n;&st;&dch;&nf;&put;$sizing" ;;
*) echo "no ABC strategy is called $abc" >&2; exit 2 ;;
esac
case $adder in
ripple | kogge-stone) map="-map +/techmap.v -map $flow/$adder.v" ;;
brent-kung) map="" ;; # the default of yosys
*) echo "no adder is called $adder" >&2; exit 2 ;;
esac
case $flatten in true) flatten=-flatten ;; *) flatten="" ;; esac

cat >synth.ys <<YS
read_verilog $rtl/$design.v
hierarchy -check -top $design
synth $flatten -top $design -run begin:fine
alumacc
memory_map
opt
techmap $map
techmap
opt -fast
check -assert
dfflibmap -liberty $liberty
abc -liberty $liberty -D $target_ps -script +$script
splitnets -ports -format _
opt_clean -purge
write_verilog -noattr -noexpr netlist.v
YS
# A library that was cut off can make yosys hang.
"$flow/whole.sh" "$liberty"
code=0
yosys -q -s synth.ys 2>tool.log || code=$?
cat tool.log >&2
[ "$code" = 0 ] || exec "$flow/explain.sh" "$code" "$liberty"
exec "$flow/measure.sh" "$1" "$design" "$clock_ps" netlist.v
