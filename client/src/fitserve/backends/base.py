"""What a backend is: something that takes encoded tasks and gives encoded results back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

from fitserve.backends.costs import LOCAL
from fitserve.contract import SMALL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fitserve.makespan import Costs

__all__ = ["Accepted", "Backend", "BackendStatus", "Limits", "Outcome", "Resumable"]


class Outcome(NamedTuple):
    """The end of one submitted task: an encoded result, or why there is none.

    A task without a result may be submitted again, under a new ticket. ``again`` says that
    it was lost on its way, so that nothing speaks against the task itself.
    """

    ticket: str
    result: str | None
    error: str | None
    again: bool = False


class Accepted(NamedTuple):
    """A task that a service has taken, and what the service knows it by.

    The service goes on with it when this process is gone; with ``handle`` its result can be
    collected by another process, on another machine.
    """

    ticket: str
    handle: dict[str, str]


class BackendStatus(NamedTuple):
    """What a backend is doing, in words that a user can act upon.

    ``offline``: it cannot be reached; ``starting``: it is being set up; ``waiting``: it is up
    and has no workers yet; ``running``: there are workers; ``stopped``: it takes no more
    tasks.
    """

    state: Literal["offline", "starting", "waiting", "running", "stopped"]
    workers: int
    detail: str


class Limits(NamedTuple):
    """What a plan for this backend must keep to.

    ``task_bytes`` bounds one encoded task; ``outstanding`` the tasks submitted and not
    ended; ``workers`` is how many tasks are done at once; ``task_seconds``, where there is
    such a limit, bounds the time of a task; ``compression`` is the level of zstd for tasks;
    ``costs`` is what tasks and workers cost, by which tasks are cut.
    """

    task_bytes: int
    outstanding: int
    workers: int
    task_seconds: float | None = None
    compression: int = SMALL
    costs: Costs = LOCAL


class Backend(Protocol):
    """Takes tasks, ends them in any order, loses none silently."""

    name: str
    limits: Limits

    def start(self) -> None:
        """Begin to set up workers; returns at once."""
        ...

    def stage(self, digest: str, compressed: bytes) -> bool:
        """Put a compressed workspace where workers find it by its digest, if there is such.

        Returns whether tasks may leave the workspace out.
        """
        ...

    def submit(self, ticket: str, task: str) -> None:
        """Submit an encoded task under a ticket of the caller's choice.

        Raises
        ------
        BackendError
            The backend cannot take tasks any more.
        """
        ...

    def outcomes(self, timeout: float) -> list[Outcome]:
        """Return what ended; wait up to ``timeout`` seconds for the first of it."""
        ...

    def status(self) -> BackendStatus:
        """Return what the backend is doing now."""
        ...

    def stop(self) -> None:
        """Cancel what runs, end the workers, and leave nothing behind; may be repeated."""
        ...

    def logs(self) -> Path | None:
        """Return the directory with the backend's own logs, which goes when it is stopped."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A backend whose tasks outlive this process."""

    def accepted(self) -> list[Accepted]:
        """Return the tasks that the service has taken since this was last asked."""
        ...

    def collect(self, tasks: Sequence[Accepted]) -> None:
        """Take up tasks again that were accepted earlier; their ends are `outcomes`."""
        ...
