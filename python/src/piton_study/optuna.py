"""Optuna as the proposer of a stage, whatever its sweep and its objectives::

    sampling = { ask = ["python3", "-m", "piton_study.optuna"], parallel = 2 }

``--sampler NAME`` takes another sampler of ``optuna.samplers`` than ``TPESampler``, ``--options JSON`` gives it arguments. Results that
``piton import`` brought in come first: Optuna starts warm. It needs no storage, since piton tells it everything again.

``examples/optuna/proposer.py`` is the same without this package, to read and to change.
"""

import argparse
import json
import sys
from typing import Any, Dict, List, Optional

from . import proposer
from .proposer import Problem, Question, Result

try:
    import optuna
except ImportError:
    sys.exit("piton_study.optuna needs Optuna: pip install optuna")


class Optuna:
    """A study of Optuna's, made of what piton says."""

    def __init__(self, sampler: str = "TPESampler", options: Optional[Dict[str, Any]] = None) -> None:
        self._sampler = sampler
        self._options = options or {}
        self._asked: Dict[int, Any] = {}

    def start(self, problem: Problem) -> None:
        options = {"seed": problem.seed, **self._options}
        if self._sampler == "TPESampler" and problem.parallel > 1:
            options.setdefault("constant_liar", True)
        self._space = {name: _distribution(values) for name, values in problem.space.items()}
        self._metrics = [objective["metric"] for objective in problem.objectives]
        if not self._metrics:
            sys.exit(f"stage `{problem.stage}` has no objective for Optuna to go by")
        directions: List[Any] = [objective["goal"] for objective in problem.objectives]
        sampler = getattr(optuna.samplers, self._sampler)(**options)
        self._study = optuna.create_study(sampler=sampler, directions=directions)

    def propose(self, question: Question) -> Dict[str, Any]:
        trial = self._study.ask(self._space)
        self._asked[question.ask] = trial
        return dict(trial.params)

    def tell(self, result: Result) -> None:
        values: List[Any] = [result.metrics.get(metric) for metric in self._metrics]
        trial = None if result.ask is None else self._asked.pop(result.ask, None)
        if trial is not None and trial.params != dict(result.params):
            # Recorded by another version, say: what was really tried counts.
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            trial = None
        if trial is None:
            if result.succeeded and None not in values:
                made = optuna.trial.create_trial(
                    params=dict(result.params), distributions=self._space, values=values
                )
                self._study.add_trial(made)
        elif result.succeeded and None not in values:
            self._study.tell(trial, values)
        elif result.state == "pruned":
            # Optuna has intermediate values of one objective only, and none that is worse than any.
            for rung in result.message.get("rungs", []) if len(self._metrics) == 1 else []:
                if rung["value"] is not None:
                    trial.report(rung["value"], rung["rung"])
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)


def _distribution(values: Dict[str, Any]) -> Any:
    if values["type"] == "choice":
        return optuna.distributions.CategoricalDistribution(values["values"])
    kind: Any = {"int": optuna.distributions.IntDistribution, "float": optuna.distributions.FloatDistribution}
    return kind[values["type"]](values["min"], values["max"], log=values["log"])


def main(arguments: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(prog="piton_study.optuna", description="Optuna as a proposer of piton's.")
    parser.add_argument("--sampler", default="TPESampler", help="a class of optuna.samplers [default: TPESampler]")
    parser.add_argument("--options", type=json.loads, default={}, metavar="JSON", help="arguments of the sampler")
    given = parser.parse_args(arguments)
    if not hasattr(optuna.samplers, given.sampler):
        parser.error(f"optuna.samplers has no {given.sampler}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    own = Optuna(given.sampler, given.options)
    proposer.serve(own.propose, start=own.start, tell=own.tell)


if __name__ == "__main__":
    main()
