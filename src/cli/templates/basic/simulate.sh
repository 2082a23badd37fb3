#!/bin/sh
# Moves a mass to position 1 under a proportional-derivative controller with a limited force, for 10 simulated seconds,
# and writes how well that went to report.txt.
#
#   simulate.sh MASS KP KD [KP_SCALE KD_SCALE]
#
# A trial runs in a directory of its own: whatever it writes to the working directory stays with its results.
set -eu

awk -v mass="$1" -v kp="$2" -v kd="$3" -v kp_scale="${4:-1}" -v kd_scale="${5:-1}" '
BEGIN {
    kp *= kp_scale
    kd *= kd_scale
    step_s = 0.0001
    limit = 50
    for (n = 0; n < 100000; n++) {
        force = kp * (1 - x) - kd * v
        if (force > limit) force = limit
        if (force < -limit) force = -limit
        v += force / mass * step_s
        x += v * step_s
        error = x > 1 ? x - 1 : 1 - x
        if (x > 1 && error > overshoot) overshoot = error
        # Late errors weigh more, and force is not free.
        cost += (error * n * step_s + 0.0001 * force * force) * step_s
    }
    printf "kp: %.4f\nkd: %.4f\n", kp, kd
    printf "overshoot: %.6f\n", overshoot
    printf "cost: %.6f\n", cost
}' >report.txt
