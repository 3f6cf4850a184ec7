"""Commands that the doctor runs: by name, timed, and never through a shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sitekit.render import Rendering
    from sitekit.site import Site

__all__ = ["Patient", "Result", "run"]

_MISSING = 127
_NO_ANSWER = 124


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
        return int(self.site.get("scheduler.cmd_timeout"))


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
