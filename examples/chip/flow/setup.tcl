# What every timing script begins with.
foreach library $::env(LIBRARIES) { read_liberty $::env(PITON_STUDY_DIR)/$library }
read_verilog $::env(NETLIST)
link_design $::env(DESIGN)
set_cmd_units -time ps -power uW
create_clock -name clk -period $::env(CLOCK_PS) [get_ports clk]
set inputs {}
foreach port [all_inputs] {
    if {[get_property $port full_name] ne "clk"} { lappend inputs $port }
}
set_input_delay 0 -clock clk $inputs
set_output_delay 0 -clock clk [all_outputs]

# The order in which numbers are added up is chance, and shows in their last digits.
proc rounded {value} { format %.1f $value }
