"""One trial: gradient descent fits a curve of adsorption to what was measured.

    descent.py RATE MOMENTUM EPOCHS

The data are Misra1a of NIST's reference data sets for nonlinear regression: the volume that a monolayer adsorbs, by pressure
(D. Misra, 1978). The model is y = b1 (1 - exp(-b2 x)); its least residual sum of squares is certified as 0.12455138894, at
b1 = 238.94 and b2 = 0.00055016. Descent begins where NIST says that it is hard, at b1 = 500 and b2 = 0.0001, and goes down the
logarithms of both. An epoch is 200 steps, and each is reported. Nothing is random, and no package is needed.
"""

import json
import math
import os
import sys

PRESSURE = [77.6, 114.9, 141.1, 190.8, 239.9, 289.0, 332.8, 378.4, 434.8, 477.3, 536.8, 593.1, 689.1, 760.0]
VOLUME = [10.07, 14.73, 17.94, 23.93, 29.61, 35.18, 40.02, 44.82, 50.76, 55.05, 61.01, 66.40, 75.47, 81.78]
START = (math.log(500), math.log(0.0001))
# Whoever leaps further comes back to the fence: no sum of squares overflows.
FENCE = ((math.log(1), math.log(1e5)), (math.log(1e-7), math.log(1)))
STEPS = 200


def residuals(place):
    """What the curve says beyond what was measured, and how that changes with the logarithms of both parameters."""
    b1, b2 = math.exp(place[0]), math.exp(place[1])
    for x, y in zip(PRESSURE, VOLUME):
        left = math.exp(-b2 * x)
        curve = b1 * (1 - left)
        yield curve - y, curve, b1 * b2 * x * left


def main():
    rate, momentum, epochs = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    place, speed = list(START), [0.0, 0.0]
    reports = os.open(os.environ["PITON_PROGRESS_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for epoch in range(1, epochs + 1):
        for _ in range(STEPS):
            slope = [0.0, 0.0]
            for error, by_first, by_second in residuals(place):
                slope[0] += error * by_first
                slope[1] += error * by_second
            for i, (low, high) in enumerate(FENCE):
                speed[i] = momentum * speed[i] - rate * slope[i]
                place[i] = min(high, max(low, place[i] + speed[i]))
        squares = sum(error**2 for error, _, _ in residuals(place))
        # The whole line at once, so that a kill leaves no half of one. The last one is the trial's result.
        os.write(reports, (json.dumps({"step": epoch, "squares": squares}) + "\n").encode())


if __name__ == "__main__":
    main()
