// The arithmetic of a small processor between registers: eight operations on two words.
module alu #(parameter WIDTH = 16) (
    input  wire             clk,
    input  wire [2:0]       op,
    input  wire [WIDTH-1:0] a,
    input  wire [WIDTH-1:0] b,
    output reg  [WIDTH-1:0] y,
    output reg              zero
);
    reg [2:0]       op_in;
    reg [WIDTH-1:0] a_in, b_in, next;

    wire subtracts = op_in[0];
    wire [WIDTH-1:0] sum = a_in + (subtracts ? ~b_in : b_in) + subtracts;

    always @* begin
        case (op_in)
            3'd0, 3'd1: next = sum;
            3'd2: next = a_in & b_in;
            3'd3: next = a_in | b_in;
            3'd4: next = a_in ^ b_in;
            3'd5: next = {{(WIDTH-1){1'b0}}, $signed(a_in) < $signed(b_in)};
            3'd6: next = a_in << b_in[3:0];
            default: next = a_in >> b_in[3:0];
        endcase
    end

    always @(posedge clk) begin
        op_in <= op;
        a_in <= a;
        b_in <= b;
        y <= next;
        zero <= next == 0;
    end
endmodule
