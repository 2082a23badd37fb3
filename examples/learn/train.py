"""One trial: a small neural network learns where a pendulum will be in a second.

    train.py RATE MOMENTUM DECAY WIDTH BATCH EPOCHS

The data are solutions of the equation of a pendulum with friction, integrated here. The loss is the root mean square error on
starts that the network was not trained with; each epoch is reported. Plain Python, no package is needed.

A trial that was cut off goes on from its checkpoint in the scratch directory, with the same numbers as if nothing had happened.
"""

import json
import math
import os
import random
import sys

GRAVITY, FRICTION, SECOND, STEPS = 9.81, 0.25, 1.0, 20
TRAINED, TESTED = 480, 120
CHECKPOINT_EVERY = 27


def after_a_second(angle, speed):
    """The pendulum's state a second later, by the Runge-Kutta method of fourth order; its length is a metre."""
    def slope(angle, speed):
        return speed, -GRAVITY * math.sin(angle) - FRICTION * speed

    h = SECOND / STEPS
    for _ in range(STEPS):
        a1, s1 = slope(angle, speed)
        a2, s2 = slope(angle + h / 2 * a1, speed + h / 2 * s1)
        a3, s3 = slope(angle + h / 2 * a2, speed + h / 2 * s2)
        a4, s4 = slope(angle + h * a3, speed + h * s3)
        angle += h / 6 * (a1 + 2 * a2 + 2 * a3 + a4)
        speed += h / 6 * (s1 + 2 * s2 + 2 * s3 + s4)
    return angle, speed


def examples(count, draw):
    """Starts and what comes of them, scaled to about -1 to 1. The same for all trials."""
    made = []
    for _ in range(count):
        angle, speed = draw.uniform(-2, 2), draw.uniform(-2, 2)
        later = after_a_second(angle, speed)
        made.append((angle / 2, speed / 2, later[0] / 2, later[1] / 6))
    return made


class Network:
    """Two numbers in, a hidden layer of tanh, two numbers out. A unit is [in, in, bias, out, out], with its momentum."""

    def __init__(self, width, draw):
        self.units = [[draw.gauss(0, 1), draw.gauss(0, 1), draw.gauss(0, 0.5)] + [draw.gauss(0, 0.5) / math.sqrt(width) for _ in range(2)]
                      for _ in range(width)]
        self.moved = [[0.0] * 5 for _ in range(width)]
        self.bias, self.bias_moved = [0.0, 0.0], [0.0, 0.0]

    def answer(self, x, y):
        hidden = [math.tanh(a * x + b * y + c) for a, b, c, _, _ in self.units]
        first = self.bias[0] + sum(h * unit[3] for h, unit in zip(hidden, self.units))
        second = self.bias[1] + sum(h * unit[4] for h, unit in zip(hidden, self.units))
        return hidden, first, second

    def learn(self, batch, rate, momentum, decay):
        """A step of stochastic gradient descent."""
        slopes = [[0.0] * 5 for _ in self.units]
        bias = [0.0, 0.0]
        for x, y, want_first, want_second in batch:
            hidden, first, second = self.answer(x, y)
            e, f = (first - want_first) / len(batch), (second - want_second) / len(batch)
            bias[0] += e
            bias[1] += f
            for h, unit, slope in zip(hidden, self.units, slopes):
                inner = (e * unit[3] + f * unit[4]) * (1 - h * h)
                slope[0] += inner * x
                slope[1] += inner * y
                slope[2] += inner
                slope[3] += e * h
                slope[4] += f * h
        for weights, moved, slope in zip([*self.units, self.bias], [*self.moved, self.bias_moved], [*slopes, bias]):
            for i, s in enumerate(slope):
                moved[i] = momentum * moved[i] - rate * (s + decay * weights[i])
                weights[i] += moved[i]

    def error(self, tested):
        total = 0.0
        for x, y, want_first, want_second in tested:
            _, first, second = self.answer(x, y)
            total += (first - want_first) ** 2 + (second - want_second) ** 2
        return math.sqrt(total / (2 * len(tested)))


def main():
    rate, momentum, decay = map(float, sys.argv[1:4])
    width, batch, epochs = map(int, sys.argv[4:7])
    seed = int(os.environ["PITON_SEED"])
    data = random.Random(1)
    trained, tested = examples(TRAINED, data), examples(TESTED, data)
    network = Network(width, random.Random(seed))

    checkpoint = os.path.join(os.environ["PITON_SCRATCH_DIR"], "checkpoint.json")
    epoch = 0
    if os.path.exists(checkpoint):
        with open(checkpoint, encoding="utf-8") as file:
            kept = json.load(file)
        epoch = kept.pop("epoch")
        vars(network).update(kept)

    reports = os.open(os.environ["PITON_PROGRESS_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    while epoch < epochs:
        epoch += 1
        # Follows from the seed and the epoch alone, so an epoch that is trained once more is the same.
        order = random.Random(seed * 1000 + epoch).sample(trained, len(trained))
        try:
            for at in range(0, len(order), batch):
                network.learn(order[at:at + batch], rate, momentum, decay)
            loss = network.error(tested)
        except OverflowError:
            loss = math.inf
        # At once, so that a kill leaves no half of a line. A loss that is not finite is worse than any.
        line = json.dumps({"step": epoch, "loss": loss if math.isfinite(loss) else None})
        os.write(reports, (line + "\n").encode())
        if not math.isfinite(loss):
            sys.exit("it diverged")
        if epoch % CHECKPOINT_EVERY == 0 and epoch < epochs:
            # Reports first: a trial that goes on from its checkpoint must not have lost what led there.
            os.fsync(reports)
            with open(checkpoint + ".new", "w", encoding="utf-8") as file:
                json.dump({"epoch": epoch, **vars(network)}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(checkpoint + ".new", checkpoint)


if __name__ == "__main__":
    main()
