"""A study, looked at and run. What is here is what the program says as JSON, and no second idea of it."""

import html
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from typing import Any, Callable, Deque, Dict, Iterator, List, Mapping, Optional

from ._program import PathLike, PitonError, ask, failed, find


class Trials(List[Dict[str, Any]]):
    """Trials as the program's dump has them, in their order."""

    def rows(self) -> List[Dict[str, Any]]:
        """Flat rows with the columns of ``piton dump --format csv``: ``param.NAME`` and ``metric.NAME`` among them."""
        rows = []
        for trial in self:
            attempts = trial["attempts"]
            last = attempts[-1] if attempts else {}
            row = {name: trial[name] for name in ("id", "stage", "case", "parent", "state", "survivor")}
            row["attempts"] = len(attempts)
            row.update((name, last.get(name)) for name in ("wall_s", "cpu_s", "peak_rss_bytes", "dir"))
            row["failure_kind"] = (trial["failure"] or {}).get("kind")
            row.update((f"param.{name}", value) for name, value in trial["params"].items())
            row.update((f"metric.{name}", value) for name, value in trial["metrics"].items())
            rows.append(row)
        return rows

    def to_pandas(self) -> Any:
        """A pandas ``DataFrame`` of :meth:`rows`."""
        import pandas

        return pandas.DataFrame(self.rows())

    def to_polars(self) -> Any:
        """A polars ``DataFrame`` of :meth:`rows`."""
        import polars

        return polars.DataFrame(self.rows(), infer_schema_length=None)


class Study:
    """A study's store. Nothing is opened before something is asked, and looking never disturbs an engine."""

    def __init__(self, store: PathLike, *, program: Optional[PathLike] = None) -> None:
        self.store = os.fspath(store)
        self._program = program

    def __repr__(self) -> str:
        return f"Study({self.store!r})"

    def trials(self) -> Trials:
        """All trials, each a plain dict: ``case``, ``state``, ``params``, ``metrics``, ``survivor``, ``attempts`` and what else a dump has."""
        return Trials(self._trials())

    def _trials(self) -> Iterator[Dict[str, Any]]:
        # Not `splitlines`: a text may hold what Python takes for the end of a line.
        for line in self._ask("dump", "--format", "jsonl").split("\n"):
            found: Dict[str, Any] = json.loads(line) if line else {}
            if found.pop("type", None) == "trial":
                yield found

    def status(self) -> Dict[str, Any]:
        """How it stands: ``piton status --json``."""
        found: Dict[str, Any] = json.loads(self._ask("status", "--json"))
        return found

    def best(self, stage: Optional[str] = None) -> Dict[str, Any]:
        """The winner: ``piton best --json``. It is an error if no trial has succeeded yet."""
        named = () if stage is None else (f"--stage={stage}",)
        found: Dict[str, Any] = json.loads(self._ask("best", "--json", *named))
        return found

    def _ask(self, *command: str) -> str:
        return ask(*command, "--", self.store, program=self._program)

    def _repr_html_(self) -> str:
        """How it stands, for a notebook. A study that cannot be read says so."""
        try:
            status = self.status()
        except (PitonError, OSError) as error:
            return f"<pre>{html.escape(str(error))}</pre>"
        counts = ("succeeded", "failed", "pruned", "running", "pending")
        titles = ("stage", "status", *counts, "best")
        rows = []
        for stage in status["stages"]:
            best = stage["best"]
            words = f"{best['case']}: {best['metric']} = {best['value']}" if best else ""
            cells = (stage["name"], stage["status"], *(stage.get(count, 0) for count in counts), words)
            rows.append("".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells))
        head = "".join(f"<th>{title}</th>" for title in titles)
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        name, state = html.escape(status["study"]), html.escape(status["status"])
        return f"<p><b>{name}</b>: {state}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


#: Signals that are passed on to the engine.
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(
    study: PathLike,
    *,
    store: Optional[PathLike] = None,
    artifacts: Optional[PathLike] = None,
    set: Optional[Mapping[str, Any]] = None,
    workers: Optional[int] = None,
    drain_for: Optional[str] = None,
    progress: Optional[Callable[[str], None]] = None,
    program: Optional[PathLike] = None,
) -> Study:
    """Runs a study, or goes on with it if its store exists; ``piton run``.

    Its progress comes line by line, to standard error or to ``progress``. SIGINT (Ctrl-C, or a notebook's stop button), SIGTERM and
    SIGHUP are passed on while this waits in the main thread: the first one lets running trials finish, another one ends them. After that this process
    gets its signal. An aborted study, bad usage or a damaged store is a :class:`PitonError`; a run that somebody else interrupted is
    :class:`piton_study.Interrupted`.
    """
    study = os.fspath(study)
    command = ["run"]
    options = {"--store": store, "--artifacts": artifacts, "--workers": workers, "--drain-for": drain_for}
    for option, value in options.items():
        if value is not None:
            command.append(f"{option}={value if isinstance(value, (int, str)) else os.fspath(value)}")
    command += [f"--set={name}={_as_written(value)}" for name, value in (set or {}).items()]
    line = [os.fspath(program) if program else find(), *command, "--json", "--", study]
    place = os.fspath(store) if store is not None else f"{os.path.splitext(study)[0]}.redb"
    show = progress if progress is not None else _to_stderr
    last: Deque[str] = deque(maxlen=20)
    with _PassOn() as passing:
        engine = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        passing.to(engine)
        try:
            assert engine.stderr is not None
            for said in engine.stderr:
                text = said.decode("utf-8", "replace").rstrip("\n")
                last.append(text)
                show(text)
        except BaseException:
            # Whoever shows the lines failed: no engine goes on unseen.
            engine.send_signal(signal.SIGTERM)
            deque(engine.stderr or (), maxlen=0)
            raise
        finally:
            code = engine.wait()
    if passing.got is not None:
        signal.raise_signal(passing.got)
    if code != 0:
        raise failed(command, code, "\n".join(last))
    return Study(place, program=program)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _as_written(value: Any) -> str:
    """A value as ``--set`` reads it back."""
    return json.dumps(value) if isinstance(value, (bool, float)) else str(value)


class _PassOn:
    """While it is entered, signals of this process go to a child. Only the main thread may ask for them."""

    def __init__(self) -> None:
        self.got: Optional[signal.Signals] = None
        self._child: Optional["subprocess.Popen[bytes]"] = None
        self._before: Dict[signal.Signals, Any] = {}

    def __enter__(self) -> "_PassOn":
        if threading.current_thread() is threading.main_thread():
            for number in _PASSED_ON:
                # What is ignored stays ignored, as for the child.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._pass)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def to(self, child: "subprocess.Popen[bytes]") -> None:
        self._child = child
        if self.got is not None:
            child.send_signal(self.got)

    def _pass(self, number: int, _frame: object) -> None:
        self.got = signal.Signals(number)
        # A terminal has sent it to the child as well; piton takes two within 0.2 s for one.
        if self._child is not None:
            self._child.send_signal(number)
