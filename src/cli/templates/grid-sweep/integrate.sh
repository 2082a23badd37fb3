#!/bin/sh
# Integrates the orbit of a planet around a star of mass 1, from its point nearest to the star.
#
#   integrate.sh METHOD STEPS ORBITS ECCENTRICITY
#
# STEPS are those of one orbit. Writes the path, thinned out, to orbit.csv, and the metrics energy_error (the largest relative
# error of the energy, which should stay what it was), evaluations (of the force: the cost), and closing_error (how far from
# its start the planet ends).
set -eu

awk -v method="$1" -v steps="$2" -v orbits="$3" -v e="$4" '
function accelerate(px, py,    r3) {
    evaluations++
    r3 = (px * px + py * py) ^ 1.5
    ax = -px / r3
    ay = -py / r3
}
function energy() { return (vx * vx + vy * vy) / 2 - 1 / sqrt(x * x + y * y) }
function euler() {
    accelerate(x, y)
    x += h * vx; y += h * vy
    vx += h * ax; vy += h * ay
}
function symplectic() {
    accelerate(x, y)
    vx += h * ax; vy += h * ay
    x += h * vx; y += h * vy
}
function leapfrog() {
    x += h / 2 * vx; y += h / 2 * vy
    accelerate(x, y)
    vx += h * ax; vy += h * ay
    x += h / 2 * vx; y += h / 2 * vy
}
function rk4(    x1, y1, x2, y2, x3, y3, x4, y4, a1, b1, a2, b2, a3, b3) {
    accelerate(x, y); a1 = ax; b1 = ay; x1 = vx; y1 = vy
    x2 = vx + h / 2 * a1; y2 = vy + h / 2 * b1
    accelerate(x + h / 2 * x1, y + h / 2 * y1); a2 = ax; b2 = ay
    x3 = vx + h / 2 * a2; y3 = vy + h / 2 * b2
    accelerate(x + h / 2 * x2, y + h / 2 * y2); a3 = ax; b3 = ay
    x4 = vx + h * a3; y4 = vy + h * b3
    accelerate(x + h * x3, y + h * y3)
    x += h / 6 * (x1 + 2 * x2 + 2 * x3 + x4); y += h / 6 * (y1 + 2 * y2 + 2 * y3 + y4)
    vx += h / 6 * (a1 + 2 * a2 + 2 * a3 + ax); vy += h / 6 * (b1 + 2 * b2 + 2 * b3 + ay)
}
BEGIN {
    h = 2 * atan2(0, -1) / steps
    x = 1 - e
    vy = sqrt((1 + e) / (1 - e))
    before = energy()
    print "orbit,x,y" >"orbit.csv"
    for (n = 0; n < steps * orbits; n++) {
        if (method == "euler") euler()
        else if (method == "symplectic") symplectic()
        else if (method == "leapfrog") leapfrog()
        else if (method == "rk4") rk4()
        else {
            print "integrate.sh: no method is called " method >"/dev/stderr"
            exit 2
        }
        error = energy() / before - 1
        if (error < 0) error = -error
        if (error > worst) worst = error
        if (n % (steps / 50) == 0) printf "%.2f,%.6f,%.6f\n", n / steps, x, y >"orbit.csv"
    }
    closing = sqrt((x - 1 + e) ^ 2 + y ^ 2)
    printf "{\"energy_error\": %.6e, \"evaluations\": %d, \"closing_error\": %.6f}\n", worst, evaluations, closing
}' >"$PITON_METRICS_FILE"
cat "$PITON_METRICS_FILE"
