"""The backend that works in this very process: for debugging and for notebooks."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from fitserve.endpoints.base import LOCAL, BackendStatus, Limits, Outcome
from fitserve.errors import MissingExtraError
from fitserve_contract import QUICK

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["InlineBackend"]


class InlineBackend:
    """Does one task whenever outcomes are asked for; a breakpoint in the worker holds."""

    name = "inline"
    limits = Limits(
        task_bytes=256 * 1024**2,
        outstanding=1_000_000,
        workers=1,
        compression=QUICK,
        costs=LOCAL._replace(start=0.0, dispatch=0.0),
    )

    def __init__(self) -> None:
        self._queue: deque[tuple[str, str]] = deque()
        self._run: Callable[[str], str] | None = None

    def start(self) -> None:
        """Import the worker, so that its absence is reported before anything is planned."""
        try:
            from fitserve_worker import run
        except ImportError as error:
            raise MissingExtraError("the endpoint 'inline'", "local") from error
        self._run = run

    def stage(self, digest: str, compressed: bytes) -> bool:  # noqa: ARG002
        """Return False: nothing is saved by leaving the workspace out of a task here."""
        return False

    def submit(self, ticket: str, task: str) -> None:
        """Put the task in the queue."""
        self._queue.append((ticket, task))

    def outcomes(self, timeout: float) -> list[Outcome]:  # noqa: ARG002 - the work is the wait
        """Do the next task."""
        if not self._queue or self._run is None:
            return []
        ticket, task = self._queue.popleft()
        return [Outcome(ticket, self._run(task), None)]

    def status(self) -> BackendStatus:
        """Return that this process is the worker."""
        return BackendStatus("running", 1, "this process")

    def stop(self) -> None:
        """Forget the queue."""
        self._queue.clear()

    def logs(self) -> Path | None:
        """Return None: errors of this process are seen where they happen."""
        return None
