// Multiply and accumulate in three pipeline stages: operands, product, sum.
module mac #(parameter WIDTH = 8, parameter SUM = 20) (
    input  wire                    clk,
    input  wire                    reset,
    input  wire                    valid,
    input  wire signed [WIDTH-1:0] a,
    input  wire signed [WIDTH-1:0] b,
    output reg  signed [SUM-1:0]   sum
);
    reg signed [WIDTH-1:0]   a_in, b_in;
    reg signed [2*WIDTH-1:0] product;
    reg                      valid_in, valid_product;

    always @(posedge clk) begin
        a_in <= a;
        b_in <= b;
        product <= a_in * b_in;
        valid_in <= valid & ~reset;
        valid_product <= valid_in & ~reset;
        if (reset) sum <= 0;
        else if (valid_product) sum <= sum + product;
    end
endmodule
