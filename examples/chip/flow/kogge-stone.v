// All carries in log2(WIDTH) steps (Kogge and Stone, 1973): the fastest adder, and the largest.
// Its name comes before that of the default, so it is the one that is taken.
(* techmap_celltype = "$lcu" *)
module _80_kogge_stone_lcu #(parameter WIDTH = 2) (input [WIDTH-1:0] P, G, input CI, output [WIDTH-1:0] CO);
    localparam STEPS = $clog2(WIDTH);
    // A row for each step.
    wire [(STEPS+1)*WIDTH-1:0] p, g;
    assign p[WIDTH-1:0] = P;
    assign g[WIDTH-1:0] = {G[WIDTH-1:1], G[0] | (P[0] & CI)};
    genvar s, i;
    generate
        for (s = 0; s < STEPS; s = s + 1) begin : steps
            for (i = 0; i < WIDTH; i = i + 1) begin : bits
                if (i >= (1 << s)) begin
                    assign g[(s+1)*WIDTH+i] = g[s*WIDTH+i] | (p[s*WIDTH+i] & g[s*WIDTH+i-(1<<s)]);
                    assign p[(s+1)*WIDTH+i] = p[s*WIDTH+i] & p[s*WIDTH+i-(1<<s)];
                end else begin
                    assign g[(s+1)*WIDTH+i] = g[s*WIDTH+i];
                    assign p[(s+1)*WIDTH+i] = p[s*WIDTH+i];
                end
            end
        end
    endgenerate
    assign CO = g[STEPS*WIDTH +: WIDTH];
endmodule
