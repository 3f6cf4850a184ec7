"""Ends what belongs to a run when its client is gone, however it went.

The client holds the writing end of this process' standard input. It writes a line for each
directory (``directory PATH``) or job (``job COMMAND ID``, with the scheduler's command that ends
it) that must not outlive it; process groups enlist themselves
(`fitserve.endpoints.parsl.enlist`). All of it is ended at the word ``end``, and when the input
ends without ``done`` before it, which means that the client was killed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from fitserve.endpoints.parsl.enlist import GROUPS, end_groups
from fitserve.errors import BackendError

__all__ = ["Guardian", "main", "remove"]

_PREFIX = "fitserve-"
_TEMPORARY = "tmp"
_JOB_SECONDS = 60.0
_WAIT_SECONDS = 2.0
_TRIES = 20
# A socket's path has at most 103 bytes on some systems, and this much of it is below here:
# /fitserve-01234567/tmp/pymp-01234567/listener-01234567
_LONGEST_BASE = 103 - 54


class Guardian:
    """The client's handle on its guardian process, and on the directory that goes with both.

    Attributes
    ----------
    directory
        The user's own; nobody else can look into it.
    groups
        Where process groups enlist that must not outlive the client.
    temporary
        For the temporary files of those processes.

    Raises
    ------
    BackendError
        The directory cannot be made.
    """

    def __init__(self) -> None:
        base = tempfile.gettempdir()
        short = base if len(os.fsencode(base)) <= _LONGEST_BASE else "/tmp"  # noqa: S108
        # Not made yet: the guardian has to know of it first.
        self.directory = Path(short) / f"{_PREFIX}{secrets.token_hex(4)}"
        self.groups = self.directory / GROUPS
        self.temporary = self.directory / _TEMPORARY
        # Its own session: a Ctrl-C in the terminal is for the client, not for the guardian.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fitserve.endpoints.parsl.guardian"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        self.watch("directory", self.directory)
        try:
            self.directory.mkdir(mode=0o700)
            self.groups.mkdir()
            self.temporary.mkdir()
        except OSError as error:
            self.dismiss()
            raise BackendError(
                f"temporary files cannot be written in {short}",
                evidence=str(error),
                hint="make room there, or set TMPDIR to a directory of yours with room",
            ) from error

    def watch(self, kind: str, target: object) -> None:
        """End a ``job``, or remove a ``directory``, without the client."""
        self._write(f"{kind} {target}\n")

    def end(self) -> None:
        """End all that is left; what is watched from now on is ended at once."""
        self._write("end\n")

    def dismiss(self) -> None:
        """Remove the directory, and tell the guardian that all was ended in order."""
        end_groups(self.groups)
        remove(self.directory)
        self._write("done\n")
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_WAIT_SECONDS)

    def _write(self, line: str) -> None:
        if self._process.stdin is None or self._process.stdin.closed:
            return
        # A guardian that someone killed is no reason to stop the run.
        with contextlib.suppress(OSError):
            self._process.stdin.write(line)
            self._process.stdin.flush()


def remove(directory: Path) -> None:
    """Remove a directory in which processes that were killed may have been writing just now."""
    for _ in range(_TRIES):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(0.1)


def _end(targets: list[tuple[str, str]]) -> None:
    for kind, target in targets:
        if kind == "directory":
            end_groups(Path(target) / GROUPS)
    for kind, target in targets:
        if kind == "job":
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(  # noqa: S603 - a scheduler's command and the id of a job
                    target.split(), capture_output=True, check=False, timeout=_JOB_SECONDS
                )
    for kind, target in targets:
        if kind == "directory":
            remove(Path(target))


def main(lines: IO[str]) -> None:
    """Read what to watch until the client is done or gone."""
    targets: list[tuple[str, str]] = []
    ending = False
    for line in lines:
        kind, _, target = line.rstrip("\n").partition(" ")
        if kind == "done":
            return
        if kind == "end":
            ending = True
        else:
            targets.append((kind, target))
        if ending:
            _end(targets)
            targets.clear()
    _end(targets)


if __name__ == "__main__":
    main(sys.stdin)
