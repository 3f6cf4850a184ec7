"""Run commands of a machine by name, with their time, and never through a shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Result", "run"]

_MISSING = 127
_NO_ANSWER = 124


@dataclass(frozen=True)
class Result:
    """What a command did; ``code`` is 127 for a missing command, 124 for no answer."""

    command: str
    code: int
    out: str
    err: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether it ended well."""
        return self.code == 0

    @property
    def missing(self) -> bool:
        """Whether there is no such command."""
        return self.code == _MISSING

    @property
    def silent(self) -> bool:
        """Whether it did not answer in time."""
        return self.code == _NO_ANSWER

    @property
    def words(self) -> str:
        """Its own message about its failure."""
        text = (self.err or self.out).strip()
        return f"{self.command}: {text}" if text else f"{self.command}: status {self.code}"


def run(
    *command: str,
    timeout: float,
    text: str | None = None,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Result:
    """Run a command and wait at most ``timeout`` seconds for it; nothing is raised."""
    shown = " ".join(command)
    if shutil.which(command[0]) is None:
        return Result(shown, _MISSING, "", f"no command {command[0]} on the PATH", 0.0)
    started = time.monotonic()
    try:
        done = subprocess.run(  # noqa: S603 -- a list of words, no shell
            command,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout,
            cwd=cwd,
            env=dict(environment) if environment is not None else {**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        elapsed = time.monotonic() - started
        return Result(shown, _NO_ANSWER, "", f"no answer in {timeout:g} s", elapsed)
    except OSError as error:
        return Result(shown, _MISSING, "", str(error), 0.0)
    return Result(shown, done.returncode, done.stdout, done.stderr, time.monotonic() - started)
