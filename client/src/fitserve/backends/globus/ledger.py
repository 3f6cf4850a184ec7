"""The tasks that the service has, and how each of them ended."""

from __future__ import annotations

import functools
import math
import queue
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from fitserve.backends.base import Accepted, Outcome
from fitserve.backends.blocks import MOST_FAILED
from fitserve.backends.globus.verdicts import blocks_told, judge_remote
from fitserve.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from fitserve.endpoints import SiteCard

__all__ = ["DROPPED", "Ledger", "Sent"]

DROPPED = "the service has dropped its result"


class Sent(NamedTuple):
    """A task at the service: its ids, when it was last heard of, and since when (monotonic s).

    Tasks of an earlier process are there since long ago.
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
        """Take no more ends: those of tasks that are let go are none."""
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
        """Return the tasks that were not heard of for longest, if for this long."""
        before = time.monotonic() - seconds
        with self._lock:
            found = [
                (name, sent)
                for name, sent in self._sent.items()
                if sent.heard < before and name not in self._adrift
            ]
        return sorted(found, key=lambda one: one[1].heard)[:most]

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
        """Have the SDK tell of a task's end."""
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

    def failed(self, ticket: str, told: str) -> None:
        """End a task with what the endpoint told instead of a result."""
        verdict = judge_remote(told, self._card)
        often = verdict.kind == "blocks" and self._blocks_fail_too_often(ticket, told)
        if verdict.kind == "stop" or often:
            self.failure = BackendError(verdict.cause, evidence=verdict.evidence, hint=verdict.hint)
            return
        text = f"{verdict.cause} ({verdict.evidence})"
        self.end(Outcome(ticket, None, text, again=verdict.kind in {"again", "blocks"}))

    def _blocks_fail_too_often(self, ticket: str, told: str) -> bool:
        """Count blocks of endpoints that gave up; tasks of one end together.

        A deployed endpoint gives up after several (`fitserve.backends.blocks`), another that has
        only Parsl's handler after its first.
        """
        with self._lock:
            sent = self._sent.get(ticket)
            # Others came to an endpoint that had given up already: no block was tried for them. Or
            # an earlier process sent them, and what was wrong then may have been put right.
            waited = "BadStateException" in told
            if sent is not None and waited and sent.since > self._blocks_failed_at:
                self._blocks_failed_at = time.monotonic()
                self._blocks_failed += max(1, blocks_told(told))
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
