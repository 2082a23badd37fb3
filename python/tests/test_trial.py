"""What a trial has, without one: by its variables and files alone."""

import json
import os
import subprocess
import sys

import pytest

import piton_study


def test_outside_of_a_trial_scripts_can_be_tried_by_hand(capsys, monkeypatch):
    for name in [name for name in os.environ if name.startswith("PITON_")]:
        monkeypatch.delenv(name)
    assert piton_study.params(rate=0.5) == {"rate": 0.5}
    piton_study.report(1, loss=2)
    piton_study.metrics(loss=2.5, label="a")
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == [{"step": 1, "loss": 2}, {"loss": 2.5, "label": "a"}]
    for what in (piton_study.params, lambda: piton_study.scratch_dir, lambda: piton_study.parent_dir):
        with pytest.raises(piton_study.NotInTrial):
            what()
    with pytest.raises(AttributeError):
        piton_study.no_such_thing


def test_a_report_spoils_no_other_and_is_not_spoiled_by_one_that_was_cut_off(tmp_path, monkeypatch):
    path = tmp_path / "study" / "stage" / "case" / "progress.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"step": 1, "loss": 3}\n{"step": 2, "lo')
    monkeypatch.setenv("PITON_PROGRESS_FILE", str(path))
    piton_study.report(2, loss=2)
    piton_study.report(3, loss=float("nan"), **{"val/loss": True})
    lines = path.read_text().split("\n")
    assert lines[1] == '{"step": 2, "lo' and json.loads(lines[2]) == {"step": 2, "loss": 2}
    assert lines[3:] == ['{"step": 3, "loss": NaN, "val/loss": 1}', ""]
    for bad in (lambda: piton_study.report(1.5, loss=1), lambda: piton_study.report(4, loss="low")):
        with pytest.raises(TypeError):
            bad()
    # A link leads elsewhere.
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        piton_study.report(5, loss=1)
    assert not (tmp_path / "elsewhere").exists()


def test_numbers_of_other_libraries_are_numbers(tmp_path, monkeypatch):
    numpy = pytest.importorskip("numpy") if sys.version_info < (3, 10) else __import__("numpy")
    path = tmp_path / "metrics.json"
    monkeypatch.setenv("PITON_METRICS_FILE", str(path))
    piton_study.metrics(a=numpy.float32(0.5), b=numpy.int64(3), c=numpy.array(1.5), d=numpy.bool_(True))
    piton_study.metrics(d=7, e="text")
    assert json.loads(path.read_text()) == {"a": 0.5, "b": 3, "c": 1.5, "d": 7, "e": "text"}
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_the_package_needs_nothing_and_imports_nothing_large():
    script = "import sys, piton_study; print([name for name in ('optuna', 'pandas', 'numpy', 'polars') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
