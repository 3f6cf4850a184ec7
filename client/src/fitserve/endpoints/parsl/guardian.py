"""Ends what belongs to a run with its client, however that ends.

`Tended` holds an engine of the client. Where the client is killed or has no time, the guardian does
the rest, a process of its own. The client holds the writing end of this process' standard input. It
writes a line for each directory (``directory PATH``), file (``file PATH``) or job (``job COMMAND
ID``, with the scheduler's command that ends it) that must not outlive it; process groups enlist
themselves (`fitserve.endpoints.parsl.enlist`). All of it is ended at the word ``end``, and when the
input ends without ``done`` before it, which means that the client was killed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Generic, Protocol, TypeVar

from fitserve.endpoints.parsl.enlist import GROUPS, end_groups
from fitserve.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Guardian", "Tended", "main", "remove"]

_PREFIX = "fitserve-"
_TEMPORARY = "tmp"
_JOB_SECONDS = 60.0
_WAIT_SECONDS = 2.0
_TRIES = 20
# A socket's path has at most 103 bytes on some systems, and this much of it is below here:
# /fitserve-01234567/tmp/pymp-01234567/listener-01234567
_LONGEST_BASE = 103 - 54
# Bounds how long the user waits after a Ctrl-C.
_START_SECONDS = 1.5


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
        """End a ``job``, or remove a ``directory`` or ``file``, without the client."""
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
        if kind == "file":
            with contextlib.suppress(OSError):
                Path(target).unlink()


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


class _Stoppable(Protocol):
    def stop(self) -> bool:
        """End it; returns whether that is done in time."""
        ...


_Engine = TypeVar("_Engine", bound=_Stoppable)


class Tended(Generic[_Engine]):
    """Holds an engine, and the guardian that sees to it when the client is killed.

    Attributes
    ----------
    engine
        None as long as it is not set up.
    failure
        Why it could not be set up.
    guardian
        With the directory of the run's own.

    Raises
    ------
    BackendError
        There is no room for temporary files.
    """

    def __init__(self) -> None:
        self.engine: _Engine | None = None
        self.failure: BaseException | None = None
        self.guardian = Guardian()
        self._directories: list[Path] = []
        self._starting: threading.Thread | None = None
        self._ending = False

    def own(self, directory: Path) -> None:
        """Have a directory, which need not be there yet, removed with everything else."""
        self._directories.append(directory)
        self.guardian.watch("directory", directory)

    def set_up(self, make: Callable[[], _Engine]) -> None:
        """Begin to make the engine; `wait` waits for it."""
        self.failure = None

        def work() -> None:
            try:
                self.engine = engine = make()
            except Exception as error:  # noqa: BLE001 - told by who waits, in its thread
                self.failure = error
                return
            if self._ending:
                engine.stop()

        self._starting = threading.Thread(target=work, name="fitserve-start", daemon=True)
        self._starting.start()

    def wait(self) -> _Engine | None:
        """Wait until the engine is set up, or has failed to be."""
        if self._starting is not None:
            self._starting.join()
        return self.engine

    def give_up(self) -> None:
        """End the engine, so that another can be set up."""
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.stop()
        self.guardian.groups.mkdir(exist_ok=True)

    def end(self) -> None:
        """End the engine and remove the directories; the guardian does what takes longer."""
        if self._ending:
            return
        self._ending = True
        in_order = False
        try:
            in_order = self._end_engine()
        finally:
            if in_order:
                for directory in self._directories:
                    remove(directory)
                self.guardian.dismiss()
            else:
                self.guardian.end()

    def _end_engine(self) -> bool:
        starting = self._starting
        if starting is not None and starting.is_alive():
            # Without its interchange it will not be set up.
            end_groups(self.guardian.groups)
            starting.join(_START_SECONDS)
            if starting.is_alive():
                return False
        return self.engine is None or self.engine.stop()


if __name__ == "__main__":
    main(sys.stdin)
