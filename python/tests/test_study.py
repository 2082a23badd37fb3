"""A study looked at, and run."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

import piton_study
from piton_study import PitonError, Study


def test_trials_are_plain_dicts_with_what_the_dump_has(small):
    trials = small.trials()
    assert [trial["case"] for trial in trials] == ["small_0_0", "small_0_1", "small_0_2", "small_0_3", "small_1_0"]
    assert all(type(trial) is dict for trial in trials)
    assert trials[3]["params"] == {"word": "<b>&\u2028", "x": 4} and trials[3]["survivor"]
    assert trials[3]["metrics"]["y"] == 16 and trials[3]["metrics"]["label"] == "<b>&\u2028"
    # What it reported last, and did not leave otherwise.
    assert trials[3]["metrics"]["loss"] == 2
    assert trials[2]["failure"]["kind"] == "exit_code" and trials[2]["metrics"] == {}


def test_status_and_best_are_those_of_the_program(small):
    assert small.status()["status"] == "completed"
    assert small.best()["case"] == "small_1_0" and small.best()["params"]["x"] == 4
    first = small.best("first")
    assert first["objectives"] == [{"metric": "y", "goal": "maximize", "value": 16.0}] and first["rank"] == 1
    with pytest.raises(PitonError, match="no stage `third`") as refused:
        small.best("third")
    assert refused.value.code == 2


def test_tables_have_a_column_for_each_param_and_metric(small):
    rows = small.trials().rows()
    assert rows[0]["param.x"] == 1 and rows[0]["metric.y"] == 1 and rows[0]["attempts"] == 1
    pandas, polars = small.trials().to_pandas(), small.trials().to_polars()
    assert list(pandas["param.x"]) == polars["param.x"].to_list() == [1, 2, 3, 4, 4]
    assert pandas["metric.y"].isna().tolist() == [False, False, True, False, False]
    assert polars["failure_kind"].to_list()[2] == "exit_code"


def test_a_notebook_shows_how_it_stands_and_text_stays_text(small, tmp_path):
    shown = small._repr_html_()
    assert "<td>first</td><td>closed</td><td>3</td><td>1</td>" in shown and "small_0_3: y = 16" in shown
    gone = Study(tmp_path / "<i>gone.redb")
    assert "&lt;i&gt;gone.redb" in gone._repr_html_()
    with pytest.raises(PitonError):
        gone.trials()
    assert repr(gone).startswith("Study(")


def test_a_store_whose_name_looks_like_an_option_is_a_store(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.link(small.store, "--json")
    assert Study("--json").status()["study"] == "small"


def test_what_is_wrong_with_a_study_is_said(tmp_path, capfd):
    (tmp_path / "bad.toml").write_text('[study]\nname = "bad name"\n')
    with pytest.raises(PitonError, match="has a character that names cannot have") as refused:
        piton_study.run(tmp_path / "bad.toml")
    assert refused.value.code == 2 and "bad name" in capfd.readouterr().err


def test_params_are_set_with_their_types(tmp_path):
    command = "cp $PITON_PARAMS_FILE seen.json; echo '{{}}' > metrics.json"
    (tmp_path / "s.toml").write_text(
        f'[study]\nname = "typed"\n[params]\na = 1\nb = true\nc = "x"\nd = 1.5\n'
        f'[[stage]]\nname = "s"\ncommand = "{command}"\ntrial_budget = 1\nsurvivor_count = 1\n'
    )
    given = {"a": 7, "b": False, "c": "y = z", "d": 1e-300}
    study = piton_study.run(tmp_path / "s.toml", set=given, store=tmp_path / "other.redb", artifacts=tmp_path / "art")
    assert study.trials()[0]["params"] == given and study.store.endswith("other.redb")


def test_who_shows_the_progress_and_fails_leaves_no_engine_behind(tmp_path):
    (tmp_path / "s.toml").write_text(
        '[study]\nname = "shown"\n[[stage]]\nname = "s"\ncommand = "true"\ntrial_budget = 50\nsurvivor_count = 1\n'
        '[stage.sweep]\nx = { min = 1, max = 50, type = "int" }\n'
    )

    def show(line):
        raise ValueError(line)

    with pytest.raises(ValueError):
        piton_study.run(tmp_path / "s.toml", progress=show)
    status = Study(tmp_path / "s.redb").status()
    assert not status["engine"]["alive"]


RUN = """
import sys, piton_study
try:
    piton_study.run("s.toml", workers=1)
except KeyboardInterrupt:
    sys.exit("ended by Ctrl-C")
"""


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 1), (signal.SIGTERM, -signal.SIGTERM)])
def test_signals_are_passed_on_and_nothing_finished_is_lost(tmp_path, number, code):
    (tmp_path / "s.toml").write_text(
        textwrap.dedent(
            """
            [study]
            name = "asked"
            [[stage]]
            name = "s"
            command = "touch {study_dir}/begun_{x}; while test ! -e {study_dir}/go; do sleep 0.02; done"
            trial_budget = 3
            survivor_count = 1
            [stage.sweep]
            x = [1, 2, 3]
            """
        )
    )
    # In a session of its own: only the one process is signalled, and not the engine.
    child = subprocess.Popen([sys.executable, "-c", RUN], cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until(lambda: (tmp_path / "begun_1").exists())
    child.send_signal(number)
    study = Study(tmp_path / "s.redb")
    until(lambda: study.status()["draining"])
    (tmp_path / "go").touch()
    _, said = child.communicate()
    assert child.returncode == code, said
    assert ("ended by Ctrl-C" in said) == (number == signal.SIGINT), said
    status = study.status()
    assert (status["status"], status["stages"][0]["succeeded"]) == ("interrupted", 1)
    assert not (tmp_path / "begun_2").exists()
    assert piton_study.run(tmp_path / "s.toml").status()["status"] == "completed"
    assert all(len(trial["attempts"]) == 1 for trial in study.trials())


def test_a_run_that_somebody_else_stops_is_interrupted(tmp_path):
    from piton_study._program import find

    # The first trial asks its engine to stop, and ends once that was heard.
    heard = f"{find()} status {tmp_path}/s.redb --json | grep -q '.draining.:true'"
    command = f"kill -TERM $(cat {tmp_path}/pid); until {heard}; do sleep 0.02; done"
    (tmp_path / "s.toml").write_text(
        f'[study]\nname = "stopped"\n[[stage]]\nname = "s"\ncommand = "{command}"\n'
        "trial_budget = 2\nsurvivor_count = 1\n[stage.sweep]\nx = [1, 2]\n"
    )
    program = tmp_path / "piton"
    program.write_text(f'#!/bin/sh\necho $$ > {tmp_path}/pid\nexec {find()} "$@"\n')
    program.chmod(0o755)
    with pytest.raises(piton_study.Interrupted) as interrupted:
        piton_study.run(tmp_path / "s.toml", workers=1, program=program)
    assert interrupted.value.code == 75 and "piton run" in str(interrupted.value)


def until(holds):
    deadline = time.monotonic() + 300
    while True:
        try:
            if holds():
                return
        except PitonError:
            # The store is not made yet.
            pass
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
