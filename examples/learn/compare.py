#!/usr/bin/env python3
"""Runs the study with halving and without, and prints what each cost and found: `compare.py [DIR]`.

The stores are made in DIR (default: the current directory). CPU time is what piton's own accounting has for the trials.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

EPOCHS = 243
COSTS = ["CPU seconds", "epochs trained", "epochs to its end"]
PITON = os.environ.get("PITON", "piton")


def main():
    here, into = Path(__file__).resolve().parent, Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    into.mkdir(parents=True, exist_ok=True)
    halving = (here / "study.toml").read_text(encoding="utf-8")
    texts = {"halving": halving, "full": halving.split("[stage.halving]")[0]}
    figures = {}
    for name, text in texts.items():
        folder = into / name
        folder.mkdir(exist_ok=True)
        shutil.copy(here / "train.py", folder)
        (folder / "study.toml").write_text(text, encoding="utf-8")
        subprocess.run([PITON, "run", "study.toml"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        dump = subprocess.run([PITON, "dump", "study.redb", "--format", "json"], cwd=folder, check=True, stdout=subprocess.PIPE)
        figures[name] = figures_of(json.loads(dump.stdout), folder)
    print(f"{'':24}{'halving':>12}{'full':>12}{'ratio':>8}")
    for what in figures["full"]:
        one, other = figures["halving"][what], figures["full"][what]
        ratio = f"{one / other:.2f}" if what in COSTS else ""
        print(f"{what:24}{show(one):>12}{show(other):>12}{ratio:>8}")
    print("regret:", figures["halving"]["best loss"] - figures["full"]["best loss"])


def figures_of(dump, folder):
    trials = dump["trials"]
    epochs = 0
    for reports in folder.glob("artifacts/*/*/*/progress.jsonl"):
        epochs += len({json.loads(line)["step"] for line in reports.read_text(encoding="utf-8").splitlines()})
    ended = [trial for trial in trials if trial["state"] == "succeeded"]
    winner = min(ended, key=lambda trial: trial["metrics"]["loss"])
    return {
        "CPU seconds": sum(attempt["cpu_s"] for trial in trials for attempt in trial["attempts"]),
        "epochs trained": epochs,
        "epochs to its end": sum(EPOCHS if trial["state"] == "succeeded" else trial["pruned"]["step"] if trial["state"] == "pruned" else 0 for trial in trials),
        "trials to their end": len(ended),
        "pruned": sum(trial["state"] == "pruned" for trial in trials),
        "failed": sum(trial["state"] == "failed" for trial in trials),
        "winner": winner["case"],
        "best loss": winner["metrics"]["loss"],
    }


def show(value):
    return f"{value:.5f}" if isinstance(value, float) and value < 1 else f"{value:.1f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
