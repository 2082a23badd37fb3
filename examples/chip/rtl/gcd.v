// Greatest common divisor by subtraction: a small control unit around two registers, a comparator and a subtractor.
module gcd #(parameter WIDTH = 16) (
    input  wire             clk,
    input  wire             reset,
    input  wire             start,
    input  wire [WIDTH-1:0] a,
    input  wire [WIDTH-1:0] b,
    output reg  [WIDTH-1:0] result,
    output reg              done
);
    reg [WIDTH-1:0] x, y;
    reg             busy;

    wire             x_less = x < y;
    wire [WIDTH-1:0] larger = x_less ? y : x;
    wire [WIDTH-1:0] smaller = x_less ? x : y;
    wire [WIDTH-1:0] difference = larger - smaller;

    always @(posedge clk) begin
        done <= 1'b0;
        if (reset) begin
            busy <= 1'b0;
        end else if (!busy) begin
            if (start) begin
                x <= a;
                y <= b;
                busy <= 1'b1;
            end
        end else if (smaller == 0) begin
            result <= larger;
            done <= 1'b1;
            busy <= 1'b0;
        end else begin
            x <= difference;
            y <= smaller;
        end
    end
endmodule
