#!/usr/bin/env python3
"""Runs a study with halving and without, and prints what each cost and found: `compare.py STUDY.toml [DIR]`.

The stores are made in DIR (default: the current directory), with copies of the inputs. `[stage.halving]` must come last in the study
file. CPU time is what piton's own accounting has for the trials.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

PITON = os.environ.get("PITON", "piton")
RATIOS = ["CPU seconds", "steps reported", "steps needed"]


def main():
    study, into = Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else ".")
    halving = study.read_text(encoding="utf-8")
    texts = {"halving": halving, "full": halving.split("[stage.halving]")[0]}
    figures = {}
    for name, text in texts.items():
        folder = into / name
        folder.mkdir(parents=True, exist_ok=True)
        for path in tomllib.loads(text)["study"]["inputs"]:
            shutil.copy(study.parent / path, folder)
        (folder / "study.toml").write_text(text, encoding="utf-8")
        subprocess.run([PITON, "run", "study.toml"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        dump = subprocess.run([PITON, "dump", "study.redb", "--format", "json"], cwd=folder, check=True, stdout=subprocess.PIPE)
        figures[name] = figures_of(json.loads(dump.stdout), folder, tomllib.loads(text)["stage"][0]["objective"][0])
    print(f"{'':24}{'halving':>14}{'full':>14}{'ratio':>8}")
    for what, full in figures["full"].items():
        less = figures["halving"][what]
        ratio = f"{less / full:.2f}" if what in RATIOS else ""
        print(f"{what:24}{show(less):>14}{show(full):>14}{ratio:>8}")


def figures_of(dump, folder, objective):
    def reported(trial):
        """The steps of all attempts, each once."""
        files = folder.glob(f"artifacts/*/*/{trial['case']}/progress.jsonl")
        return {json.loads(line)["step"] for file in files for line in file.read_text(encoding="utf-8").splitlines()}

    def needed(trial):
        """Those after the one that decided of a pruned trial are not."""
        return trial["pruned"]["step"] if trial["state"] == "pruned" else len(reported(trial))

    trials = dump["trials"]
    ended = [trial for trial in trials if trial["state"] == "succeeded"]
    best = {"minimize": min, "maximize": max}[objective["goal"]]
    winner = best(ended, key=lambda trial: trial["metrics"][objective["metric"]])
    return {
        "CPU seconds": sum(attempt["cpu_s"] for trial in trials for attempt in trial["attempts"]),
        "steps reported": sum(len(reported(trial)) for trial in trials),
        "steps needed": sum(needed(trial) for trial in trials),
        "trials to their end": len(ended),
        "pruned": sum(trial["state"] == "pruned" for trial in trials),
        "failed": sum(trial["state"] == "failed" for trial in trials),
        "winner": winner["case"],
        f"best {objective['metric']}": winner["metrics"][objective["metric"]],
    }


def show(value):
    return f"{value:.10g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
