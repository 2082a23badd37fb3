#!/bin/sh
# Trains a network of one hidden layer to be sin(3x) between -1 and 1, by stochastic gradient descent with momentum.
#
#   train.sh EPOCHS UNITS RATE MOMENTUM SEED [WEIGHTS]
#
# Begins with random weights from SEED, or goes on from the file WEIGHTS. Leaves weights.txt, and the metrics loss (mean
# squared error on points it was not trained on), train_loss and epochs (all it was trained for). Fails if it diverges.
set -eu

awk -v epochs="$1" -v units="$2" -v rate="$3" -v momentum="$4" -v seed="$5" -v weights="${6:-}" '
# The same numbers with every awk: a multiplicative generator.
function uniform() { state = state * 16807 % 2147483647; return state / 2147483647 }
function tanh(z,    t) {
    if (z > 20) return 1
    if (z < -20) return -1
    t = exp(2 * z)
    return (t - 1) / (t + 1)
}
function output(x,    j, y) {
    y = c
    for (j = 1; j <= units; j++) { hidden[j] = tanh(a[j] * x + b[j]); y += w[j] * hidden[j] }
    return y
}
function mean_loss(from,    i, x, sum) {
    for (i = from; i < 200; i += 2) { x = i / 100 - 0.995; sum += (output(x) - sin(3 * x)) ^ 2 }
    return sum / 100
}
function step(name, j, gradient) {
    speed[name, j] = momentum * speed[name, j] - rate * gradient
    return speed[name, j]
}
BEGIN {
    state = seed % 2147483646 + 1
    for (j = 1; j <= 10; j++) uniform()
    if (weights != "") {
        getline <weights
        trained = $1; state = $2; c = $3; speed["c", 0] = $4
        for (j = 1; j <= units; j++) {
            getline <weights
            a[j] = $1; b[j] = $2; w[j] = $3; speed["a", j] = $4; speed["b", j] = $5; speed["w", j] = $6
        }
    } else for (j = 1; j <= units; j++) {
        a[j] = 4 * uniform() - 2; b[j] = 2 * uniform() - 1; w[j] = uniform() - 0.5
    }
    for (n = 0; n < epochs * 100; n++) {
        # Trained on every second point, tested on the others.
        x = 2 * int(uniform() * 100) / 100 - 0.995
        error = output(x) - sin(3 * x)
        if (error > 1e3 || error < -1e3 || error != error) {
            print "train.sh: diverged after " n " steps" >"/dev/stderr"
            exit 1
        }
        for (j = 1; j <= units; j++) {
            back = error * w[j] * (1 - hidden[j] * hidden[j])
            w[j] += step("w", j, error * hidden[j])
            a[j] += step("a", j, back * x)
            b[j] += step("b", j, back)
        }
        c += step("c", 0, error)
    }
    printf "%d %d %.17g %.17g\n", trained + epochs, state, c, speed["c", 0] >"weights.txt"
    for (j = 1; j <= units; j++)
        printf "%.17g %.17g %.17g %.17g %.17g %.17g\n", a[j], b[j], w[j], speed["a", j], speed["b", j], speed["w", j] >"weights.txt"
    printf "{\"loss\": %.6e, \"train_loss\": %.6e, \"epochs\": %d}\n", mean_loss(1), mean_loss(0), trained + epochs
}' >metrics.new
mv metrics.new "$PITON_METRICS_FILE"
cat "$PITON_METRICS_FILE"
