"""What a trial finds and leaves: the variables and files that piton's page of a trial lists."""

import json
import operator
import os
import stat
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Set


class NotInTrial(RuntimeError):
    """Only a trial has it: piton did not start this process."""


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise NotInTrial(f"there is no {name}: this is not a trial that piton started")
    return value


def _parent_dir() -> Optional[Path]:
    _variable("PITON_CASE")
    parent = os.environ.get("PITON_PARENT_DIR")
    return Path(parent) if parent else None


#: Attributes of the package that are looked up when they are asked for.
LOOKED_UP: Mapping[str, Callable[[], Any]] = {
    "case": lambda: _variable("PITON_CASE"),
    "seed": lambda: int(_variable("PITON_SEED")),
    "scratch_dir": lambda: Path(_variable("PITON_SCRATCH_DIR")),
    "parent_dir": _parent_dir,
}


def params(**defaults: Any) -> Dict[str, Any]:
    """The trial's params by name, each of its own type; over these defaults.

    Outside of a trial the defaults alone, so that a script can be tried by hand; without any it is an error.
    """
    if defaults and not os.environ.get("PITON_PARAMS_FILE"):
        return defaults
    with open(_variable("PITON_PARAMS_FILE"), encoding="utf-8") as file:
        found: Dict[str, Any] = json.load(file)
    return {**defaults, **found}


def report(step: int, /, **metrics: Any) -> None:
    """Reports what was measured at a step, a whole number that grows. It is durable when this returns.

    Report first and write a checkpoint then: who goes on from one must not have lost what led there. Outside of a trial the line is
    printed.
    """
    line = json.dumps({"step": operator.index(step), **{name: _number(value) for name, value in metrics.items()}})
    path = os.environ.get("PITON_PROGRESS_FILE")
    if path:
        _append(path, line.encode() + b"\n")
    else:
        print(line)


def metrics(**values: Any) -> None:
    """Leaves metrics: numbers, and texts as labels. Those of earlier calls stay.

    Outside of a trial they are printed.
    """
    own = {name: value if isinstance(value, str) else _number(value) for name, value in values.items()}
    path = os.environ.get("PITON_METRICS_FILE")
    if not path:
        print(json.dumps(own))
        return
    try:
        with open(path, encoding="utf-8") as file:
            own = {**json.load(file), **own}
    except FileNotFoundError:
        pass
    # Beside it, so that the file is never half written.
    new = f"{path}.{os.getpid()}.new"
    with open(new, "w", encoding="utf-8") as file:
        json.dump(own, file)
    os.replace(new, path)


def _number(value: Any) -> Any:
    """The value as JSON has it; what numpy, torch and others call a number is one."""
    if isinstance(value, (str, bytes)):
        raise TypeError(f"a number is expected, not {value!r}")
    try:
        # Before Python 3.10 the index of True is True.
        return int(operator.index(value))
    except TypeError:
        return float(value)


#: The directories that a case's file is in and that a run makes.
_LEVELS = 3


def _append(path: str, line: bytes) -> None:
    """Adds a line by one write, and makes it durable, as `piton progress` does. One that a crash cut off spoils none that follows."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    file = os.open(path, flags, 0o666)
    try:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(f"{path} is not a regular file")
        if about.st_size and os.pread(file, 1, about.st_size - 1) not in (b"\n", b""):
            line = b"\n" + line
        if os.write(file, line) < len(line):
            raise OSError(f"only a part of a line could be written to {path}")
        os.fsync(file)
    finally:
        os.close(file)
    _sync_entries(path)


_synced: Set[str] = set()


def _sync_entries(path: str) -> None:
    """Makes the file's entry durable, and those of the directories that lead to it; once, since they stay."""
    if path in _synced:
        return
    parent = Path(path).parent
    for _ in range(_LEVELS + 1):
        directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        parent = parent.parent
    _synced.add(path)
