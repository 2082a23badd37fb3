"""piton from Python: in a trial, about a study, and as a proposer.

In a trial::

    import piton_study

    rate = piton_study.params()["rate"]
    for step in range(1, 11):
        piton_study.report(step, loss=1 / (rate * step))
    piton_study.metrics(loss=0.1)

About a study: ``Study("study.redb").trials()``, ``run("study.toml")``. A proposer: ``piton_study.proposer.serve``.

Everything goes by the files and variables that a trial has, and by the JSON that the program ``piton`` prints. Nothing here reads or
writes a store, and nothing is needed but Python itself.
"""

from pathlib import Path
from typing import Any, Optional

from ._program import Interrupted, PitonError
from ._study import Study, Trials, run
from ._trial import NotInTrial, metrics, params, report
from . import _trial, proposer

__all__ = [
    "Interrupted",
    "NotInTrial",
    "PitonError",
    "Study",
    "Trials",
    "case",
    "metrics",
    "params",
    "parent_dir",
    "proposer",
    "report",
    "run",
    "scratch_dir",
    "seed",
]

#: The case's name.
case: str
#: A number for whatever is random: another one for each trial, the same in every attempt.
seed: int
#: A directory that is kept across attempts, for a checkpoint of the trial's own.
scratch_dir: Path
#: The directory of the parent's successful attempt; ``None`` in the first stage.
parent_dir: Optional[Path]


def __getattr__(name: str) -> Any:
    # Looked up when they are asked for, so that the package can be imported outside of a trial.
    look = _trial.LOOKED_UP.get(name)
    if look is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return look()
