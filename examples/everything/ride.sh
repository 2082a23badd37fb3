#!/bin/sh
# Rides a quarter of a car over a bumpy road: ./ride.sh MASS SPEED SPRING DAMPER [--long]
# Prints each second how much it shook so far, and how far the spring travels, reports how much the car shakes, and leaves the ride in trace.txt.
set -eu
command -v awk >/dev/null || exit 3
length=4
if [ "${5:-}" = --long ]; then length=12; fi
scale=$(sed -n 's/.*"spring_scale":\([0-9.e-]*\).*/\1/p' params.json)
tyre=$(sed -n 's/.*"tyre":"\([a-z]*\)".*/\1/p' params.json)
awk -v mass="$1" -v speed="$2" -v spring="$3" -v damper="$4" -v seconds="$length" -v scale="${scale:-1}" \
    -v tyre="${tyre:-soft}" -v metrics="$PITON_METRICS_FILE" '
BEGIN {
    spring *= scale; dt = 0.0005
    if (tyre == "hard") damper *= 1.1
    for (t = 0; t < seconds; t += dt) {
        # Bumps of three lengths, the same for everybody.
        x = t * speed
        road = 0.02 * sin(x * 0.9) + 0.01 * sin(x * 2.3 + 1) + 0.005 * sin(x * 5.7 + 2)
        force = spring * (road - z) + damper * ((road - before) / dt - v)
        before = road
        a = force / mass
        v += a * dt; z += v * dt
        if (z > 1 || z < -1) { print "the wheel left the road" > "/dev/stderr"; exit 1 }
        shake += a * a * dt
        if (road - z > travel) travel = road - z
        if (n % 2000 == 1999) printf "ridden %d s, shake %.6g\n", (n + 1) / 2000, sqrt(shake / (t + dt))
        if (n++ % 400 == 0) printf "%.4f %.6f %.6f\n", t, road, z > "trace.txt"
    }
    printf "travel %.3f mm\n", travel * 1000
    printf "{\"shake\": %.6g}\n", sqrt(shake / seconds) > metrics
}'
