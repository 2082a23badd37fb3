"""Proposers: the protocol, a program of one's own, and Optuna."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import piton_study
from piton_study import proposer

START = {
    "type": "start", "protocol": 1, "study": "s", "stage": "t", "stage_index": 0, "seed": 5, "trial_budget": 3, "parallel": 1,
    "params": {}, "space": {"x": {"type": "float", "min": 0, "max": 1, "log": False}},
    "objectives": [{"metric": "y", "goal": "minimize"}],
}  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]


def asked(number):
    return {"type": "ask", "ask": number, "case": f"s_0_{number}", "parent": "s", "parent_params": {}, "of_a_later_piton": 1}


def told(number, **more):
    return {"type": "tell", "ask": number, "params": {"x": 0.5}, "state": "succeeded", "metrics": {"y": 1}, **more}


def test_questions_are_answered_in_their_order_with_all_results_known():
    seen = []

    def propose(question):
        seen.append((question.ask, [result.params["x"] for result in question.results if result.succeeded]))
        return {"x": question.problem.random.random()} if question.ask < 2 else None

    messages = [START, told(None, imported=True), asked(0), told(0), asked(1), told(1, state="failed", metrics=None), asked(2)]
    out, heard = io.StringIO(), []
    proposer.serve(propose, tell=heard.append, lines=map(json.dumps, messages), out=out)
    answers = [json.loads(line) for line in out.getvalue().splitlines()]
    import random

    draw = random.Random(5)
    assert answers == [{"ask": 0, "params": {"x": draw.random()}}, {"ask": 1, "params": {"x": draw.random()}}, {"done": True}]
    assert seen == [(0, [0.5]), (1, [0.5, 0.5]), (2, [0.5, 0.5])]
    assert [result.imported for result in heard] == [True, False, False]


STUDY = """
[study]
name = "hill"
seed = 3
[run]
workers = 2
[[stage]]
name = "climb"
command = '''echo '{{"height": {x}}}' > metrics.json'''
sampling = { ask = [%s], parallel = 2 }
trial_budget = 6
survivor_count = 1
[stage.sweep]
x = { min = 0.0, max = 5.0 }
[[stage.objective]]
metric = "height"
goal = "maximize"
"""

CLIMBER = """
from piton_study import proposer

def propose(question):
    print("not an answer")
    best = max((result.metrics["height"] for result in question.results), default=0.5)
    return {"x": min(best + question.problem.random.random(), 5)}

proposer.serve(propose)
"""


def test_a_program_of_ones_own_may_print_and_climbs(tmp_path):
    (tmp_path / "climb.py").write_text(CLIMBER)
    (tmp_path / "study.toml").write_text(STUDY % json.dumps([sys.executable, "climb.py"])[1:-1])
    study = piton_study.run(tmp_path / "study.toml")
    heights = [trial["metrics"]["height"] for trial in study.trials()]
    assert len(heights) == 6 and max(heights) > heights[0] > 0.5
    assert (tmp_path / "artifacts/hill/0_climb/proposer/stderr.log").read_text().count("not an answer") >= 6


def branin(tmp_path, name, ask):
    """The example of Optuna, with another proposer and fewer trials."""
    dir = tmp_path / name
    shutil.copytree(ROOT / "examples/optuna", dir, ignore=shutil.ignore_patterns("artifacts", "*.redb*"))
    text = (dir / "study.toml").read_text()
    before = 'ask = ["python3", "proposer.py"]'
    assert before in text and "= 40" in text
    ask = ", ".join(map(json.dumps, ask))
    (dir / "study.toml").write_text(text.replace(before, f"ask = [{ask}]").replace("= 40", "= 12"))
    return dir


def test_optuna_proposes_what_the_example_proposes_and_starts_warm(tmp_path):
    pytest.importorskip("optuna") if sys.version_info < (3, 10) else __import__("optuna")
    own = branin(tmp_path, "own", [sys.executable, "-m", "piton_study.optuna"])
    example = branin(tmp_path, "example", [sys.executable, "proposer.py"])
    tried = [[trial["params"] for trial in piton_study.run(dir / "study.toml").trials()] for dir in (own, example)]
    assert tried[0] == tried[1] and len(tried[0]) == 12

    warm = branin(tmp_path, "warm", [sys.executable, "-m", "piton_study.optuna", "--options", '{"n_startup_trials": 12}'])
    from piton_study._program import find

    command = [find(), "import", "study.redb", "--from-store", own / "study.redb", "--stage", "search", "--study", "study.toml", "--yes"]
    subprocess.run(command, cwd=warm, check=True, capture_output=True)
    values = [trial["metrics"]["value"] for trial in piton_study.run(warm / "study.toml").trials()]
    first = [trial["params"] for trial in piton_study.Study(warm / "study.redb").trials()]
    assert first != tried[0] and len(values) == 12


def test_another_sampler_is_taken_by_its_name(tmp_path):
    pytest.importorskip("optuna") if sys.version_info < (3, 10) else __import__("optuna")
    from piton_study.optuna import Optuna, main

    own = Optuna("RandomSampler")
    out = io.StringIO()
    messages = [START, asked(0), told(0), asked(1), told(1, state="pruned", rungs=[{"rung": 3, "step": 3, "value": None}])]
    proposer.serve(own.propose, start=own.start, tell=own.tell, lines=map(json.dumps, messages), out=out)
    first = json.loads(out.getvalue().splitlines()[0])["params"]["x"]
    # What was really tried counts, and not what was proposed.
    assert [trial.params["x"] for trial in own._study.get_trials() if trial.state.name == "COMPLETE"] == [0.5] != [first]
    with pytest.raises(SystemExit):
        main(["--sampler", "NoSuchSampler"])
