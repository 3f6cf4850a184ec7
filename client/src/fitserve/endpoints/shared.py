"""Several endpoints that share a run: each takes the next task when it has room for one."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, NamedTuple

from fitserve.endpoints.base import Accepted, BackendStatus, Limits, Outcome, Resumable
from fitserve.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fitserve.endpoints.base import Backend

__all__ = ["SharedBackend"]

# Of each endpoint, so that the faster one is not left waiting for what the slower one holds.
_TASKS_PER_WORKER = 2
# An endpoint without workers gets just enough tasks to start them.
_TASKS_TO_WAKE = 1
# With nothing else left to do, a task that an endpoint without workers has held for this long
# is given to another as well; the first answer counts.
_PATIENCE_SECONDS = 10.0
_ORDER = ("running", "waiting", "starting", "offline", "stopped")


class _Held(NamedTuple):
    """A task, who has it, and since when (monotonic seconds)."""

    task: str
    holders: tuple[int, ...]
    since: float


class SharedBackend:
    """One backend made of several; one that breaks leaves its tasks to the others.

    Parameters
    ----------
    backends
        At least two.
    """

    def __init__(self, backends: Sequence[Backend]) -> None:
        self._backends = list(backends)
        self._broken: dict[int, BackendError] = {}
        self._held: dict[str, _Held] = {}
        self._lost: list[Outcome] = []
        self.name = ",".join(backend.name for backend in backends)
        seconds = [b.limits.task_seconds for b in backends if b.limits.task_seconds is not None]
        self.limits = Limits(
            task_bytes=min(backend.limits.task_bytes for backend in backends),
            outstanding=sum(self._room(number) for number in range(len(backends))),
            workers=sum(backend.limits.workers for backend in backends),
            task_seconds=min(seconds, default=None),
            compression=max(backend.limits.compression for backend in backends),
            # Most tasks go to the largest.
            costs=max(backends, key=lambda backend: backend.limits.workers).limits.costs,
        )

    def start(self) -> None:
        """Start them all; those that cannot be started are left out.

        Raises
        ------
        BackendError
            None of them can be started.
        """
        for number, backend in enumerate(self._backends):
            try:
                backend.start()
            except BackendError as error:
                self._break(number, error)

    def stage(self, digest: str, compressed: bytes) -> bool:  # noqa: ARG002
        """Return False: a task may go to any of the endpoints."""
        return False

    def submit(self, ticket: str, task: str) -> None:
        """Give a task to the endpoint that needs one most.

        Raises
        ------
        BackendError
            Every endpoint is broken.
        """
        for number in self._by_want():
            if self._give(number, ticket, task):
                self._held[ticket] = _Held(task, (number,), time.monotonic())
                return

    def outcomes(self, timeout: float) -> list[Outcome]:
        """Return what ended on any endpoint; the first end of a task counts."""
        ended, self._lost = self._lost, []
        working = self._working()
        for number in working:
            ended += self._ended(number, timeout / len(working))
        self._reassign()
        return ended

    def accepted(self) -> list[Accepted]:
        """Return the tasks that services have taken since the last call."""
        return [
            Accepted(task.ticket, {**task.handle, "name": backend.name})
            for backend in self._backends
            if isinstance(backend, Resumable)
            for task in backend.accepted()
        ]

    def collect(self, tasks: Sequence[Accepted]) -> None:
        """Have each endpoint ask for the results of its own tasks; others are sent again."""
        for task in tasks:
            for number, backend in enumerate(self._backends):
                if backend.name == task.handle.get("name") and isinstance(backend, Resumable):
                    self._held[task.ticket] = _Held("", (number,), time.monotonic())
                    backend.collect([task])
                    break
            else:
                text = "its endpoint is not one of this run"
                self._lost.append(Outcome(task.ticket, None, text, again=True))

    def status(self) -> BackendStatus:
        """Return the best state of the endpoints, and what each does."""
        states = [self._backends[number].status() for number in self._working()]
        best = min(states, key=lambda status: _ORDER.index(status.state))
        details = dict.fromkeys(status.detail for status in states)
        return BackendStatus(best.state, sum(s.workers for s in states), ", ".join(details))

    def stop(self) -> None:
        """Stop them all."""
        with contextlib.ExitStack() as stack:
            for backend in self._backends:
                stack.callback(backend.stop)

    def logs(self) -> Path | None:
        """Return where the first endpoint that has logs keeps them."""
        return next((logs for b in self._backends if (logs := b.logs()) is not None), None)

    def _room(self, number: int) -> int:
        limits = self._backends[number].limits
        return min(limits.outstanding, _TASKS_PER_WORKER * limits.workers)

    def _working(self) -> list[int]:
        return [number for number in range(len(self._backends)) if number not in self._broken]

    def _load(self, number: int) -> int:
        return sum(number in held.holders for held in self._held.values())

    def _by_want(self) -> list[int]:
        """Return the endpoints, the one with most room for its size first."""

        def want(number: int) -> tuple[bool, float]:
            running = self._backends[number].status().state == "running"
            room = self._room(number) if running else _TASKS_TO_WAKE
            return self._load(number) >= room, self._load(number) / room

        return sorted(self._working(), key=want)

    def _give(self, number: int, ticket: str, task: str) -> bool:
        try:
            self._backends[number].submit(ticket, task)
        except BackendError as error:
            self._break(number, error)
            return False
        return True

    def _ended(self, number: int, timeout: float) -> list[Outcome]:
        try:
            outcomes = self._backends[number].outcomes(timeout)
        except BackendError as error:
            self._break(number, error)
            return []
        ended = []
        for outcome in outcomes:
            held = self._held.get(outcome.ticket)
            if held is None:
                continue
            others = tuple(one for one in held.holders if one != number)
            if outcome.result is None and others:
                self._held[outcome.ticket] = held._replace(holders=others)
                continue
            del self._held[outcome.ticket]
            ended.append(outcome)
        return ended

    def _break(self, number: int, error: BackendError) -> None:
        """Go on without an endpoint; what only it had is lost, and sent again.

        Raises
        ------
        BackendError
            It was the last one.
        """
        self._broken[number] = error
        if not self._working():
            raise error
        for ticket, held in list(self._held.items()):
            others = tuple(one for one in held.holders if one != number)
            if others:
                self._held[ticket] = held._replace(holders=others)
            elif number in held.holders:
                del self._held[ticket]
                text = f"{self._backends[number].name}: {error.cause}"
                self._lost.append(Outcome(ticket, None, text, again=True))

    def _reassign(self) -> None:
        """Give tasks of endpoints without workers to one that is idle."""
        states = {number: self._backends[number].status().state for number in self._working()}
        idle = [n for n, state in states.items() if state == "running" and not self._load(n)]
        now = time.monotonic()
        for ticket, held in list(self._held.items()):
            stuck = all(states.get(one) != "running" for one in held.holders)
            if idle and stuck and held.task and now - held.since > _PATIENCE_SECONDS:
                number = idle[0]
                if self._give(number, ticket, held.task):
                    self._held[ticket] = held._replace(holders=(*held.holders, number))
                    if self._load(number) >= self._room(number):
                        idle.pop(0)
