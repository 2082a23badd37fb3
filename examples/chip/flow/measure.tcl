source $::env(PITON_STUDY_DIR)/flow/setup.tcl
if {$::env(DERATE) != 1} { set_timing_derate -late $::env(DERATE) }
puts "METRIC wns_ps [rounded [worst_slack -max]]"
puts "METRIC tns_ps [rounded [total_negative_slack]]"
# The fourth number of a design's power is its total, in watts.
set watts [lindex [sta::design_power [sta::cmd_corner]] 3]
if {[string is double -strict $watts] && $watts == $watts} { puts "METRIC power_uw [format %.3g [expr {$watts * 1e6}]]" }
