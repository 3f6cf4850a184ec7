"""The tasks that the service has, how each of them ended, and what that means."""

from __future__ import annotations

import functools
import math
import queue
import re
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from fitserve.endpoints.base import Accepted, Outcome
from fitserve.errors import BackendError
from fitserve.onsite.endpoint import MOST_FAILED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from fitserve.endpoints.cards import SiteCard

__all__ = ["DROPPED", "Ledger", "Sent", "Verdict", "failed_blocks", "judge_remote"]

Kind = Literal["again", "suspect", "stop", "blocks"]


class Verdict(NamedTuple):
    """What to do about a task that ended without a result.

    ``again``: send it again as it is; ``suspect``: it may be what breaks its worker;
    ``stop``: no task will fare better, and ``hint`` says what to do about it; ``blocks``: as
    ``again``, but as ``stop`` if it goes on: blocks of an endpoint have failed, with which Parsl
    gives up all its tasks and the endpoint itself.
    """

    kind: Kind
    cause: str
    evidence: str
    hint: str = ""


BLOCKS_FAILED = r"BadStateException|TooManyJobFailuresError"
"""What is said of it: to tasks that waited, and to those that came afterwards."""
# Between the words on a block's standard error and what follows them.
_STDERR = re.compile(r"STDERR: (.*?)(?=\n(?:Error \d+:|[-+]{20})|[-+]{20}|\Z)", re.DOTALL)
_TOLD = re.compile(r"\bError (\d+):")
_ADMIN = "show this to the site's administrator: {contact}"

# In this order: the first pattern found in what the endpoint says decides.
_MEANINGS: tuple[tuple[str, Kind, str, str], ...] = (
    (
        BLOCKS_FAILED,
        "blocks",
        "blocks of workers end on the site before a worker has reported",
        _ADMIN,
    ),
    (
        r"No module named '?fitserve",
        "stop",
        "the site's workers do not have fitserve-worker",
        _ADMIN,
    ),
    (
        r"failed to map to a local user|does\s+not exist\.\s+Local user name",
        "stop",
        "the site has no account for your Globus identity",
        "log in with an identity of the site (fitserve endpoints whoami), or ask: {contact}",
    ),
    (
        r"untrusted identity",
        "stop",
        "the endpoint serves only the identity that it was started with",
        "ask for an endpoint that serves you: {contact}",
    ),
    (
        r"ValidationError|Failed validating|is not valid under|Additional properties",
        "stop",
        "the site refuses one of the options",
        "see its options: fitserve endpoints list --json",
    ),
    (
        r"[Ff]unction\s+\S*\s*(is )?not (permitted|allowed)",
        "stop",
        "the endpoint does not run this function",
        "add the endpoint by the site's present card: fitserve endpoints add NAME --card FILE",
    ),
    (
        r"disabled by current\s+configuration|DeserializationError",
        "stop",
        "the endpoint does not take what it was sent",
        "add the endpoint by the site's present card: fitserve endpoints add NAME --card FILE",
    ),
    (
        r"Unable to start user endpoint|start[- ]?up|ENDPOINT_START_FAILURE",
        "stop",
        "the site cannot start your endpoint there",
        _ADMIN,
    ),
    (r"MaxResultSizeExceeded", "suspect", "its result is too large to be sent", ""),
    (r"WorkerLost", "suspect", "its worker was lost: killed, or out of memory", ""),
    (r"ManagerLost", "again", "its node was lost{walltime}", ""),
    (r"Failed to set result or exception", "again", "the service has dropped its result", ""),
)


def judge_remote(error: str, card: SiteCard) -> Verdict:
    """Say what an endpoint's error means.

    Parameters
    ----------
    error
        The endpoint's words: a message, or the traceback of the worker.
    card
        The site, for whom to ask and how long its blocks last.

    Examples
    --------
    >>> from fitserve.endpoints.cards import read_card
    >>> card = read_card("11111111-2222-4333-8444-555555555555")
    >>> judge_remote("parsl.executors.WorkerLost: Task failure", card).kind
    'suspect'
    """
    blocks = _STDERR.findall(error) if re.search(BLOCKS_FAILED, error) else []
    evidence = _last_words(blocks[-1] if blocks else error)
    walltime = card.limits.walltime
    words = {
        "contact": card.contact or "see the site's card",
        "walltime": f", perhaps at its time limit of {walltime}" if walltime else "",
    }
    for pattern, kind, cause, hint in _MEANINGS:
        if re.search(pattern, error):
            return Verdict(kind, cause.format(**words), evidence, hint.format(**words))
    return Verdict("suspect", "the endpoint returned an error", evidence)


def failed_blocks(error: str) -> int:
    r"""Return how many blocks an endpoint says have failed.

    Examples
    --------
    >>> failed_blocks("TooManyJobFailuresError: Error 1:\n\tEXIT CODE: 1\nError 2:\n")
    2
    """
    return max(map(int, _TOLD.findall(error)), default=0)


def _last_words(error: str) -> str:
    lines = [line.strip() for line in error.strip().splitlines() if line.strip(" -*")]
    return " ".join(lines[-3:])[-500:]


DROPPED = "the service has dropped its result"


class Sent(NamedTuple):
    """A task at the service: its ids, when it was last heard of, and since when (monotonic s).

    Tasks of an earlier process count as sent long ago.
    """

    handle: dict[str, str]
    heard: float
    since: float


class Ledger:
    """Written by the thread that sends and by those of the SDK, read by the backend.

    Attributes
    ----------
    ended
        Outcomes that nobody has taken yet.
    failure
        Why no task can succeed, once that is known.
    groups
        Ids of the task groups that the SDK listens for.
    """

    def __init__(self, card: SiteCard) -> None:
        self.ended: queue.Queue[Outcome] = queue.Queue()
        self.failure: BackendError | None = None
        self.groups: set[str] = set()
        self._card = card
        self._lock = threading.RLock()
        self._sent: dict[str, Sent] = {}
        self._adrift: set[str] = set()
        self._accepted: deque[Accepted] = deque()
        self._closed = False
        self._blocks_failed = 0
        self._blocks_failed_at = 0.0

    def close(self) -> None:
        """Ignore further ends: a task that is let go has not ended."""
        self._closed = True

    # -- what is there --------------------------------------------------------------------

    def accepted(self) -> list[Accepted]:
        """Return what the service has taken since the last call."""
        with self._lock:
            taken = list(self._accepted)
            self._accepted.clear()
        return taken

    def children(self) -> set[str]:
        """Return the ids of the user's own endpoints that have tasks of this run."""
        with self._lock:
            return {sent.handle["child"] for sent in self._sent.values() if sent.handle["child"]}

    def count(self) -> int:
        """Return how many tasks the service has."""
        with self._lock:
            return len(self._sent)

    def adrift(self) -> dict[str, dict[str, str]]:
        """Return the handles of tasks whose results nobody listens for, by ticket."""
        with self._lock:
            return {name: self._sent[name].handle for name in self._adrift if name in self._sent}

    def overdue(self, seconds: float, most: int) -> list[tuple[str, Sent]]:
        """Return the tasks without news for longest, if for this long."""
        before = time.monotonic() - seconds
        with self._lock:
            silent = [
                (name, sent)
                for name, sent in self._sent.items()
                if sent.heard < before and name not in self._adrift
            ]
        return sorted(silent, key=lambda one: one[1].heard)[:most]

    # -- what happens -----------------------------------------------------------------------

    def take(self, ticket: str, handle: dict[str, str], future: Future[Any]) -> None:
        """Note a task that the service has just taken."""
        with self._lock:
            self.groups.add(handle["group"])
            now = time.monotonic()
            self._sent[ticket] = Sent(handle, now, now)
            self._accepted.append(Accepted(ticket, handle))
        self.watch(ticket, future)

    def collect(self, tasks: Sequence[Accepted]) -> None:
        """Note tasks that an earlier process has sent."""
        with self._lock:
            for task in tasks:
                self._sent[task.ticket] = Sent(task.handle, time.monotonic(), -math.inf)
                self._adrift.add(task.ticket)

    def watch(self, ticket: str, future: Future[Any]) -> None:
        """Have the SDK report a task's end."""
        with self._lock:
            self._adrift.discard(ticket)
        future.add_done_callback(functools.partial(self._done, ticket))

    def heard(self, ticket: str) -> None:
        """Note that the service still has a task."""
        with self._lock:
            if ticket in self._sent:
                self._sent[ticket] = self._sent[ticket]._replace(heard=time.monotonic())

    def give_up(self, child: str, reason: str) -> None:
        """End the tasks of a child endpoint that is gone; they are to be sent again."""
        with self._lock:
            lost = [name for name, sent in self._sent.items() if sent.handle["child"] == child]
        for ticket in lost:
            self.end(Outcome(ticket, None, reason, again=True))

    def answer(self, ticket: str, result: Any) -> None:
        """End a task with what its function returned."""
        if isinstance(result, str):
            self._blocks_failed = 0
            self.end(Outcome(ticket, result, None))
        else:
            self.failed(ticket, f"DeserializationError: the answer is a {type(result).__name__}")

    def failed(self, ticket: str, error: str) -> None:
        """End a task with the error that the endpoint sent instead of a result."""
        verdict = judge_remote(error, self._card)
        often = verdict.kind == "blocks" and self._blocks_fail_too_often(ticket, error)
        if verdict.kind == "stop" or often:
            self.failure = BackendError(verdict.cause, evidence=verdict.evidence, hint=verdict.hint)
            return
        text = f"{verdict.cause} ({verdict.evidence})"
        self.end(Outcome(ticket, None, text, again=verdict.kind in {"again", "blocks"}))

    def _blocks_fail_too_often(self, ticket: str, error: str) -> bool:
        """Count blocks of endpoints that gave up; tasks of one end together.

        A deployed endpoint gives up after several (`fitserve.onsite.endpoint`), another that has
        only Parsl's handler after its first.
        """
        with self._lock:
            sent = self._sent.get(ticket)
            # Others came to an endpoint that had given up already: no block was tried for them. Or
            # an earlier process sent them, and what was wrong then may have been put right.
            waited = "BadStateException" in error
            if sent is not None and waited and sent.since > self._blocks_failed_at:
                self._blocks_failed_at = time.monotonic()
                self._blocks_failed += max(1, failed_blocks(error))
            return self._blocks_failed >= MOST_FAILED

    def end(self, outcome: Outcome) -> None:
        """End a task; a second end of the same is ignored."""
        with self._lock:
            self._adrift.discard(outcome.ticket)
            if self._sent.pop(outcome.ticket, None) is None:
                return
        self.ended.put(outcome)

    def _done(self, ticket: str, future: Future[Any]) -> None:
        # In a thread of the SDK's.
        from globus_compute_sdk.errors import TaskExecutionFailed

        if self._closed or future.cancelled():
            return
        error = future.exception()
        if error is None:
            self.answer(ticket, future.result())
        elif isinstance(error, TaskExecutionFailed):
            self.failed(ticket, error.remote_data)
        else:
            # Not the task's end: the SDK has stopped listening.
            with self._lock:
                if ticket in self._sent:
                    self._adrift.add(ticket)
