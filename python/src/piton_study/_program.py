"""The program, found and asked. It is spoken to by its command line and its JSON, and by nothing else."""

import os
import shutil
import signal
import subprocess
import sysconfig
from typing import List, Optional, Union

PathLike = Union[str, "os.PathLike[str]"]


class PitonError(RuntimeError):
    """The program did not do what it was asked. ``code`` is its exit code, negative for a signal."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Interrupted(PitonError):
    """A run was interrupted. Nothing finished is lost, and the same call goes on."""


def find() -> str:
    """The program that was installed with this package, else the one in ``PATH``."""
    for scheme in (None, f"{os.name}_user"):
        scripts = sysconfig.get_path("scripts", scheme) if scheme else sysconfig.get_path("scripts")
        program = os.path.join(scripts, "piton") if scripts else ""
        if os.path.isfile(program) and os.access(program, os.X_OK):
            return program
    found = shutil.which("piton")
    if found is None:
        raise PitonError("the program `piton` is neither beside this Python nor in PATH", 127)
    return found


def failed(command: List[str], code: int, said: str) -> PitonError:
    """The exception for a command that did not exit 0."""
    said = said.strip() or (f"ended by signal {-code}" if code < 0 else f"exit code {code}")
    by_signal = -code in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    kind = Interrupted if code == 75 or by_signal else PitonError
    return kind(f"piton {command[0]}: {said}", code)


def ask(*command: str, program: Optional[PathLike] = None) -> str:
    """What a command prints."""
    line = [os.fspath(program) if program else find(), *command]
    done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        raise failed(list(command), done.returncode, done.stderr.decode("utf-8", "replace"))
    return done.stdout.decode("utf-8")

