"""Commands that the doctor runs: by name, timed, and never through a shell.

`answers` looks whether those of a scheduler are there, and answer in time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sitekit.doctor.findings import Finding, failed, good, warned

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from sitekit.render import Rendering
    from sitekit.site import Site

__all__ = ["Patient", "Result", "answers", "run"]

_MISSING = 127
_NO_ANSWER = 124
_SLOW = 0.5
# A command is waited for beyond Parsl's own limit, to say how long it takes.
_PATIENCE = 3


@dataclass(frozen=True)
class Result:
    """What a command did; ``code`` is 127 for one that is not there, 124 for no answer."""

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
        """What it said of its own failure."""
        text = (self.err or self.out).strip()
        return f"{self.command}: {text}" if text else f"{self.command}: status {self.code}"


@dataclass(frozen=True)
class Patient:
    """What is examined, and how.

    Attributes
    ----------
    site
        The site.
    rendering
        What its files are rendered for.
    home
        Home directory of the endpoint's user.
    hosts
        Hosts of the cloud service that must be reached, with their ports; none where the
        site is used directly only.
    messages
        Host and port of its messages, which must be reached without a proxy.
    submit
        Whether a job is submitted.
    job_seconds
        How long to wait for that job.
    """

    site: Site
    rendering: Rendering
    home: Path
    hosts: Sequence[tuple[str, int]] = ()
    messages: tuple[str, int] | None = None
    submit: bool = True
    job_seconds: float = 600.0

    @property
    def timeout(self) -> int:
        """Seconds that Parsl gives a command of the scheduler."""
        return int(self.site.scheduler.cmd_timeout)


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


def answers(
    patient: Patient, needed: Sequence[str], asked: Sequence[tuple[str, ...]]
) -> Iterator[Finding | list[Result]]:
    """Look for commands and time some of them; yields findings, and last the results.

    Parameters
    ----------
    patient
        What is examined.
    needed
        Commands that must be there.
    asked
        Commands to run and time, none of which changes anything.
    """
    kind = patient.site.scheduler.type
    absent = [name for name in needed if shutil.which(name) is None]
    if absent:
        yield failed(
            "commands",
            f"{', '.join(absent)} of {kind} are not on the PATH",
            evidence=f"looked for {', '.join(needed)}",
            field="scheduler.type",
            change="the scheduler that this machine has, or run this on its login node with the "
            "scheduler's module loaded",
        )
    results = [
        run(*command, timeout=_PATIENCE * patient.timeout)
        for command in asked
        if command[0] not in absent
    ]
    slowest = max(results, key=lambda result: result.seconds, default=None)
    if slowest is None:
        yield []
        return
    if slowest.silent or slowest.seconds > patient.timeout:
        advised = min(600, max(120, round(2 * slowest.seconds)))
        yield failed(
            "answer",
            f"{slowest.command.split()[0]} takes longer than the {patient.timeout} s that Parsl "
            "gives it",
            evidence=f"{slowest.command}: {slowest.seconds:.1f} s"
            + (" and no answer" if slowest.silent else ""),
            field="scheduler.cmd_timeout",
            change=f"cmd_timeout: {advised}",
        )
    elif slowest.seconds > _SLOW * patient.timeout:
        yield warned(
            "answer",
            f"{slowest.command.split()[0]} takes more than half of the {patient.timeout} s that "
            "Parsl gives it",
            evidence=f"{slowest.command}: {slowest.seconds:.1f} s",
            field="scheduler.cmd_timeout",
            change=f"cmd_timeout: {min(600, 2 * patient.timeout)}",
        )
    elif not absent:
        yield good(
            "answer", f"{len(results)} commands answer, the slowest in {slowest.seconds:.1f} s"
        )
    yield results
