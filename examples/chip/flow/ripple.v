// Carries one after the other: the smallest adder, and the slowest.
// Its name comes before that of the default, so it is the one that is taken.
(* techmap_celltype = "$lcu" *)
module _80_ripple_lcu #(parameter WIDTH = 2) (input [WIDTH-1:0] P, G, input CI, output [WIDTH-1:0] CO);
    genvar i;
    generate
        for (i = 0; i < WIDTH; i = i + 1) begin : bits
            if (i == 0) assign CO[i] = G[i] | (P[i] & CI);
            else assign CO[i] = G[i] | (P[i] & CO[i-1]);
        end
    endgenerate
endmodule
