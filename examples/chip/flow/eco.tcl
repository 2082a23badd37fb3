# Greedy changes of single cells, each kept only if it helps.
#   resize   the cells of the worst path get the drive strength that helps most
#   vt_swap  the same with the threshold voltage (ASAP7: _R to _L)
#   recover  cells get a smaller drive strength wherever the worst slack does not suffer
source $::env(PITON_STUDY_DIR)/flow/setup.tcl

# A cell's name in three parts: function, drive strength, and the rest (ASAP7: kit and threshold voltage).
proc parts {ref} {
    if {[regexp {^(.+?)(_X|X|x)([0-9p]+f?)(_ASAP7_75t_[A-Z]+)?$} $ref -> function sep drive rest]} {
        return [list $function$sep $drive $rest]
    }
    return {}
}

# Drive strengths as numbers: p is a decimal point, and xp5 is a half.
proc strength {drive} { string map {p . f {}} [expr {[string index $drive 0] eq "p" ? "0$drive" : $drive}] }

proc named {pattern} {
    set names {}
    foreach cell [get_lib_cells -quiet */$pattern] { lappend names [get_property $cell name] }
    lsort -unique $names
}

# What may stand in a cell's place.
proc alternatives {ref eco} {
    set parts [parts $ref]
    if {$parts eq {}} { return {} }
    lassign $parts head drive rest
    if {$eco eq "vt_swap"} {
        set other [regsub {_R$} $ref {_L}]
        return [expr {$other ne $ref && [named $other] ne {} ? [list $other] : {}}]
    }
    set found {}
    foreach name [named $head*$rest] {
        set other [parts $name]
        if {$name eq $ref || [lindex $other 0] ne $head || [lindex $other 2] ne $rest} continue
        if {$eco eq "recover" && [strength [lindex $other 1]] >= [strength $drive]} continue
        lappend found [list [strength [lindex $other 1]] $name]
    }
    set names {}
    foreach pair [lsort -real -index 0 $found] { lappend names [lindex $pair 1] }
    return $names
}

proc ref {cell} { get_property [get_cells $cell] ref_name }
proc swap {cell to} { replace_cell [get_cells $cell] [lindex [get_lib_cells */$to] 0] }

# The cells of the worst path, in its order.
proc worst_cells {} {
    set cells {}
    foreach point [get_property [lindex [find_timing_paths -path_delay max] 0] points] {
        set pin [get_property [get_property $point pin] full_name]
        if {[set at [string last / $pin]] > 0} {
            set cell [string range $pin 0 [expr {$at - 1}]]
            if {$cell ni $cells} { lappend cells $cell }
        }
    }
    return $cells
}

set eco $::env(ECO)
set moves 0
if {$eco eq "recover"} {
    set floor [worst_slack -max]
    set names {}
    foreach cell [get_cells *] { lappend names [get_property $cell full_name] }
    foreach cell [lsort $names] {
        if {$moves >= 4 * $::env(MOVES)} break
        set was [ref $cell]
        foreach to [alternatives $was $eco] {
            swap $cell $to
            if {[worst_slack -max] >= $floor} { incr moves; break }
            swap $cell $was
        }
    }
} else {
    while {$moves < $::env(MOVES)} {
        set best [worst_slack -max]
        set choice {}
        foreach cell [worst_cells] {
            set was [ref $cell]
            foreach to [alternatives $was $eco] {
                swap $cell $to
                set slack [worst_slack -max]
                # A change that only just helps is noise.
                if {$slack > $best + 0.01} { set best $slack; set choice [list $cell $to] }
            }
            swap $cell $was
        }
        if {$choice eq {}} break
        swap {*}$choice
        incr moves
    }
}
write_verilog netlist.v
puts "ECO done: $eco, $moves cells"
