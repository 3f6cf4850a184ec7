"""What a run needs of a scheduler: how to ask for jobs, and what its answers mean."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "NO_ROOM",
    "Ending",
    "Job",
    "Refusal",
    "Rule",
    "Scheduler",
    "SilentSchedulerError",
    "clock_seconds",
    "ended_words",
    "no_room",
    "run_command",
]

Ending = Literal[
    "done", "failed", "cancelled", "walltime", "node", "memory", "preempted", "unknown"
]
"""How a job ended; ``unknown`` where the scheduler has forgotten it."""


class SilentSchedulerError(Exception):
    """The scheduler did not answer; what was known of its jobs still holds."""


class Job(NamedTuple):
    """A job as its scheduler sees it.

    ``reason`` is the scheduler's own word for why a job waits, or for how it ended.
    """

    state: Literal["queued", "running", "ended"]
    reason: str = ""
    ending: Ending | None = None
    nodes: str = ""


class Rule(NamedTuple):
    """What a message of a scheduler means: what to do, and whether asking again can help."""

    pattern: str
    hint: str
    again: bool = False


class Scheduler(NamedTuple):
    """All that a run needs to know of one scheduler.

    Attributes
    ----------
    name
        As in site files and site cards.
    provider
        Parsl's provider that submits to it.
    cancel
        The command that ends the job whose id follows.
    ask
        Returns the jobs with these ids that the scheduler knows, in one command if it can; takes
        the seconds that a command may take, and raises `SilentSchedulerError`.
    waiting
        The fixed command that shows why the user's own jobs wait.
    why
        Returns these reasons from what the command printed.
    never
        Reasons with which a job waits for ever, or until somebody changes a limit.
    avoid
        Line for the next block's script that keeps it from some nodes, with a place for their
        names; empty where there is none.
    """

    name: str
    provider: str
    cancel: str
    ask: Callable[[Sequence[str], float], dict[str, Job]]
    waiting: tuple[str, ...]
    why: Callable[[str], list[str]]
    never: tuple[Rule, ...] = ()
    avoid: str = ""

    def jobs(self, ids: Sequence[str], timeout: float) -> dict[str, Job]:
        """Ask for jobs.

        Parameters
        ----------
        ids
            Of the jobs.
        timeout
            Seconds that a command may take.

        Returns
        -------
        dict
            Every job that was asked for. One that the scheduler no longer knows has ended, and
            its ending is ``unknown``.

        Raises
        ------
        SilentSchedulerError
            There was no answer.
        """
        present = self.ask(ids, timeout)
        gone = Job("ended", "the scheduler no longer knows it", "unknown")
        return {ident: present.get(ident, gone) for ident in ids}


def run_command(command: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a command of a scheduler; raises `SilentSchedulerError` if it does not answer."""
    try:
        return subprocess.run(  # noqa: S603 - fixed words and the ids of jobs
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SilentSchedulerError(str(error)) from error


_ENDED: dict[Ending, str] = {
    "walltime": "reached its time limit ({walltime})",
    "cancelled": "was cancelled",
    "node": "lost its node",
    "preempted": "was preempted",
    "memory": "used more memory than it asked for",
    "failed": "failed",
    "done": "ended",
    "unknown": "ended",
}
NO_ROOM = r"No space left|[Dd]isk quota|Read-only file system"


def clock_seconds(text: str) -> int:
    """Return the seconds of a time such as HH:MM:SS.

    Examples
    --------
    >>> clock_seconds("01:30:00")
    5400
    """
    seconds = 0
    for part in text.split(":"):
        seconds = 60 * seconds + int(part or 0)
    return seconds


class Refusal(NamedTuple):
    """Why a block was refused; ``again`` says whether asking again can help."""

    text: str
    again: bool
    hint: str


def no_room(text: str) -> bool:
    """Return whether a block was not requested because its script could not be written.

    Examples
    --------
    >>> no_room("Unable to write submit script: [Errno 28] No space left on device")
    True
    >>> no_room("sbatch: error: AssocMaxSubmitJobLimit")
    False
    """
    return re.search(NO_ROOM, text) is not None


def ended_words(ending: Ending, walltime: str) -> str:
    """Return how a block ended, to follow the words "its block"."""
    return _ENDED[ending].format(walltime=walltime)
