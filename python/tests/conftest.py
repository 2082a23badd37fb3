"""A study that was run once, for all tests that only look."""

from pathlib import Path

import pytest

import piton_study

TRIAL = """
import sys
import piton_study as piton

found = piton.params()
if found["x"] == 3:
    sys.exit("no such luck")
for step in (1, 2):
    piton.report(step, loss=found["x"] / step)
piton.metrics(y=found["x"] ** 2, label=found["word"])
piton.metrics(seed=piton.seed)
if piton.parent_dir is not None:
    assert (piton.parent_dir / "metrics.json").exists()
    assert piton.case.startswith("small_1_")
(piton.scratch_dir / "kept").touch()
"""

STUDY = """
[study]
name = "small"
[params]
word = "<b>&\\u2028"
[[stage]]
name = "first"
command = ["python3", "{study_dir}/trial.py"]
trial_budget = 4
survivor_count = 1
[stage.sweep]
x = [1, 2, 3, 4]
[[stage.objective]]
metric = "y"
goal = "maximize"
[[stage]]
name = "second"
command = ["python3", "{study_dir}/trial.py"]
trial_budget = 1
survivor_count = 1
[[stage.objective]]
metric = "y"
goal = "minimize"
"""


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> piton_study.Study:
    dir: Path = tmp_path_factory.mktemp("small")
    (dir / "trial.py").write_text(TRIAL)
    (dir / "study.toml").write_text(STUDY)
    lines: list = []
    study = piton_study.run(dir / "study.toml", workers=2, progress=lines.append)
    assert any("closed" in line for line in lines), lines
    return study
