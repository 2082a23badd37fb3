"""A program that proposes a stage's trials: ``sampling = { ask = ["python3", "propose.py"] }``.

::

    from piton_study import proposer

    def propose(question):
        draw, space = question.problem.random, question.problem.space
        return {name: draw.uniform(of["min"], of["max"]) for name, of in space.items()}

    proposer.serve(propose)

The optimiser needs no memory of its own: one that starts anew is asked and told everything again, in the order of the first time. It
then says the same, if :attr:`Problem.random` (or :attr:`Problem.seed`) is all that is random in it.
"""

import json
import os
import sys
from dataclasses import dataclass, field
from random import Random
from typing import Any, Callable, Dict, IO, Iterable, List, Mapping, Optional

__all__ = ["Problem", "Question", "Result", "serve"]


@dataclass(frozen=True)
class Problem:
    """What is to be optimised; the same for all questions."""

    study: str
    stage: str
    #: Another one for each stage and study; all that may be random follows from it.
    seed: int
    #: By the param's name: ``{"type": "float" | "int", "min": …, "max": …, "log": …}`` or ``{"type": "choice", "values": […]}``.
    space: Mapping[str, Dict[str, Any]]
    #: ``{"metric": …, "goal": "minimize" | "maximize"}``, in their order.
    objectives: List[Dict[str, str]]
    #: Constants that every trial sees.
    params: Mapping[str, Any]
    trial_budget: int
    #: How many proposals may be without a result.
    parallel: int
    #: Made from the seed.
    random: Random = field(repr=False, compare=False)
    #: The whole message.
    message: Mapping[str, Any] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Result:
    """What came of a trial."""

    #: Of which question; ``None`` for one that was made elsewhere and imported.
    ask: Optional[int]
    params: Mapping[str, Any]
    #: ``succeeded``, ``failed`` or ``pruned``.
    state: str
    metrics: Mapping[str, Any]
    #: The whole message.
    message: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def succeeded(self) -> bool:
        return self.state == "succeeded"

    @property
    def imported(self) -> bool:
        return bool(self.message.get("imported"))


@dataclass(frozen=True)
class Question:
    """What is asked: the params of the next trial."""

    ask: int
    case: str
    #: The survivor that it derives from, and its params.
    parent: str
    parent_params: Mapping[str, Any]
    problem: Problem
    #: All that is known, in the order in which it was told.
    results: List[Result]
    #: The whole message.
    message: Mapping[str, Any] = field(repr=False, compare=False)


#: The params of the next trial; ``None`` ends the stage.
Propose = Callable[[Question], Optional[Mapping[str, Any]]]


def serve(
    propose: Propose,
    *,
    start: Optional[Callable[[Problem], None]] = None,
    tell: Optional[Callable[[Result], None]] = None,
    lines: Optional[Iterable[str]] = None,
    out: Optional[IO[str]] = None,
) -> None:
    """Answers piton's questions until it has no more.

    ``start`` hears of the problem before anything else, ``tell`` of each result. What they print goes to standard error: standard
    output is the answers'.
    """
    out = out if out is not None else _answers()
    problem: Optional[Problem] = None
    results: List[Result] = []
    for line in lines if lines is not None else sys.stdin:
        message = json.loads(line)
        kind = message["type"]
        if kind == "start":
            problem, results = _problem(message), []
            if start is not None:
                start(problem)
        elif kind == "tell":
            result = Result(message["ask"], message["params"], message["state"], message["metrics"] or {}, message)
            results.append(result)
            if tell is not None:
                tell(result)
        elif kind == "ask":
            if problem is None:
                raise ValueError("piton asked before it said what it is about")
            asked = Question(
                message["ask"], message["case"], message["parent"], message["parent_params"], problem, results, message
            )
            params = propose(asked)
            answer = {"done": True} if params is None else {"ask": asked.ask, "params": dict(params)}
            out.write(json.dumps(answer, default=_plain) + "\n")
            out.flush()


def _problem(message: Mapping[str, Any]) -> Problem:
    return Problem(
        study=message["study"],
        stage=message["stage"],
        seed=message["seed"],
        space=message["space"],
        objectives=message["objectives"],
        params=message["params"],
        trial_budget=message["trial_budget"],
        parallel=message["parallel"],
        random=Random(message["seed"]),
        message=message,
    )


def _plain(value: Any) -> Any:
    """Numbers of numpy and others."""
    return value.item() if hasattr(value, "item") else float(value)


def _answers() -> IO[str]:
    """Standard output for the answers alone; whatever else is printed joins standard error."""
    sys.stdout.flush()
    own = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return own
