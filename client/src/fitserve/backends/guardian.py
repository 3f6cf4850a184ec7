"""Ends a backend's processes when the client is gone, however it went.

The client holds the writing end of this process' standard input and writes one line for
each process (``pid N``), process group (``group N``), directory (``directory PATH``) or job
(``job COMMAND ID``, with the scheduler's command that ends it) that must not outlive it. The
end of input without ``done`` before it means that the client was killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import IO

__all__ = ["Guardian", "main"]

_GRACE = 2.0
_JOB_SECONDS = 60.0


class Guardian:
    """The client's handle on its guardian process."""

    def __init__(self) -> None:
        # Its own session: a Ctrl-C in the terminal is for the client, not for the guardian.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fitserve.backends.guardian"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )

    def watch(self, kind: str, target: object) -> None:
        """End a ``pid``, ``group`` or ``job``, or remove a ``directory``, without the client."""
        self._write(f"{kind} {target}\n")

    def dismiss(self) -> None:
        """Tell the guardian that all was ended in order."""
        self._write("done\n")
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process.wait()

    def _write(self, line: str) -> None:
        if self._process.stdin is None or self._process.stdin.closed:
            return
        # A guardian that someone killed is no reason to stop the run.
        with contextlib.suppress(OSError):
            self._process.stdin.write(line)
            self._process.stdin.flush()


def _end(targets: list[tuple[str, str]], sign: signal.Signals) -> None:
    for kind, target in targets:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if kind == "group":
                os.killpg(int(target), sign)
            elif kind == "pid":
                os.kill(int(target), sign)


def main(lines: IO[str]) -> None:
    """Read what to watch until the client is done or gone."""
    targets: list[tuple[str, str]] = []
    for line in lines:
        kind, _, target = line.rstrip("\n").partition(" ")
        if kind == "done":
            return
        targets.append((kind, target))
    _end(targets, signal.SIGTERM)
    for kind, target in targets:
        if kind == "job":
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(  # noqa: S603 - a scheduler's command and the id of a job
                    target.split(), capture_output=True, check=False, timeout=_JOB_SECONDS
                )
    time.sleep(_GRACE)
    _end(targets, signal.SIGKILL)
    for kind, target in targets:
        if kind == "directory":
            shutil.rmtree(target, ignore_errors=True)


if __name__ == "__main__":
    main(sys.stdin)
