"""What a backend is: it takes encoded tasks and gives encoded results back, at some cost.

The costs say where each number is from. *Measured*: on a machine with two
cores. *Assumed*: what differs from site to site, and what was seen on a busy machine only.
``benchmarks/scaling`` predicts runs with the same numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

from fitserve.endpoints.cards import PAYLOAD_BYTES
from fitserve_contract import SMALL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


__all__ = [
    "CLOUD",
    "DIRECT",
    "LOCAL",
    "QUEUE_SECONDS",
    "Accepted",
    "Backend",
    "BackendStatus",
    "Costs",
    "Limits",
    "Outcome",
    "Resumable",
]


class Costs(NamedTuple):
    """Costs of the way to workers, without the fits; in seconds and bytes.

    Attributes
    ----------
    task
        Of one task on its worker: decoding, building the model, encoding.
    setup
        Of one worker, in its first task: imports, and loading compiled programs.
    setup_spread
        A worker takes less or more by up to this part of ``setup``, each as likely.
    start
        Of a block, from the start of its job to its workers being connected.
    queue
        Mean time that a block waits in a queue. The waiting times of the blocks are the
        quantiles of an exponential distribution: one block alone waits for its median.
    client
        From the command to the first block being asked for.
    dispatch, byte
        Of one task, and of each of its bytes, where tasks are handed out one by one.
    request
        Least time between two submissions; 0 where nothing is limited.
    request_tasks, request_bytes
        Most tasks and bytes of one submission.
    workers_per_block
        Workers of one block; None where all workers are one block.
    """

    task: float = 0.0
    setup: float = 0.0
    setup_spread: float = 0.0
    start: float = 0.0
    queue: float = 0.0
    client: float = 0.0
    dispatch: float = 0.0
    byte: float = 0.0
    request: float = 0.0
    request_tasks: int = 100
    request_bytes: float = 10e6
    workers_per_block: int | None = None


QUEUE_SECONDS = 60.0
"""Mean time that a block waits in a scheduler's queue: assumed."""

LOCAL = Costs(
    task=0.05,  # measured, on the rig
    # Measured is `fitserve run` of 1Lbb: 7 s with fits of 2 s. How the rest is divided is assumed.
    setup=2.5,
    # Measured: in two runs on a busy machine the setups of two workers took 9.0 and 5.9 s in the
    # mean, and differed by 4.9 and 2.8 s; evenly spread ones differ by 2/3 of this in the mean.
    setup_spread=0.75,
    start=1.5,
    client=1.0,
    dispatch=0.002,  # measured: one task through Parsl's interchange
    byte=1e-8,  # assumed: 100 MB/s from the client to the workers
)
"""Workers on this machine."""

DIRECT = LOCAL._replace(
    setup=8.0,  # assumed, from runs on a busy machine: the file system is shared
    start=3.0,  # measured: from the start of a Slurm job to its workers being connected
    queue=QUEUE_SECONDS,
    client=2.0,  # assumed, from runs on a busy machine
    workers_per_block=32,  # assumed; a rendered site says it
)
"""Through ``parsl:SITE``; the workspace is on the shared file system."""


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
        """Put a compressed workspace where workers find it by its digest, if there is such a place.

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
        """Return the directory with the backend's own logs, which is removed when it stops."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A backend whose tasks outlive this process."""

    def accepted(self) -> list[Accepted]:
        """Return the tasks that the service has taken since the last call."""
        ...

    def collect(self, tasks: Sequence[Accepted]) -> None:
        """Take up tasks again that were accepted earlier; their ends are `outcomes`."""
        ...


CLOUD = DIRECT._replace(
    client=4.0,  # assumed: login and registration too
    dispatch=0.0046,  # measured: 1000 small tasks of one batch in 4.6 s
    request=0.5,  # documented: 20 requests in 10 s
    request_tasks=100,  # ours; the SDK takes up to 128
    request_bytes=PAYLOAD_BYTES,  # documented
)
"""Workers on a site as in direct use of it, behind the service."""
