"""How long a run takes: tasks are handed out one by one to workers that start over time.

Every worker takes the next task as soon as it is free. The costs of the way to the workers are
`fitserve.endpoints.base.Costs`, which each backend states, and those of the fits are `Work`.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve.endpoints.base import Costs

__all__ = ["Connected", "Load", "Work", "connected", "end_of", "first_fit", "makespan"]


class Work(NamedTuple):
    """What is to be done; seconds and bytes.

    Attributes
    ----------
    number
        How many hypotheses, or toys; at least 1.
    fit
        Estimated time of one of them on one core.
    task_bytes, each_bytes
        Encoded size of a task without hypotheses, and what each of them adds.
    """

    number: int
    fit: float
    task_bytes: float = 0.0
    each_bytes: float = 0.0


class Load(NamedTuple):
    """One task: ``seconds`` of its fits, and its encoded size in ``bytes``."""

    seconds: float
    bytes: float


class Connected(NamedTuple):
    """A worker: when it is ready, its number, and the extra time of its next task."""

    at: float
    number: int
    setup: float


def makespan(costs: Costs, loads: Sequence[Load], workers: int) -> float:
    """Return when the last task is done, in seconds from the command on; 0 without tasks.

    Parameters
    ----------
    costs
        Of the way to the workers, which all need the same time for their setup.
    loads
        The tasks, in the order in which they are sent.
    workers
        How many there are.

    Examples
    --------
    Three tasks on two workers that need 2 s before their first fit:

    >>> from fitserve.endpoints.base import Costs
    >>> makespan(Costs(setup=2.0), [Load(3.0, 0), Load(1.0, 0), Load(1.0, 0)], 2)
    5.0
    """
    return end_of(costs, loads, connected(costs, workers, len(loads)))


def first_fit(costs: Costs, workers: int) -> float:
    """Return when the first worker is ready to fit, in seconds from the command on.

    Examples
    --------
    >>> from fitserve.endpoints.base import Costs
    >>> first_fit(Costs(client=1.0, start=2.0, setup=4.0), 2)
    7.0
    """
    first = connected(costs, workers, 1)[0]
    return first.at + first.setup


def connected(costs: Costs, workers: int, most: int) -> list[Connected]:
    """Return the workers in the order in which they are connected, at least one.

    At most ``most`` of them: with as many tasks, later workers have nothing to do.
    """
    workers = max(1, workers)
    per_block = costs.workers_per_block or workers
    blocks = math.ceil(workers / per_block)
    there = []
    for worker in range(max(1, min(workers, most))):
        queued = -costs.queue * math.log1p(-(worker // per_block + 0.5) / blocks)
        there.append(Connected(costs.client + queued + costs.start, worker, costs.setup))
    return there


def end_of(costs: Costs, loads: Sequence[Load], workers: Sequence[Connected]) -> float:
    """Return when the last task is done, with workers as `connected` has them."""
    free = list(workers[: max(1, len(loads))])
    handed = requested = end = held = 0.0
    together = 0
    for seconds, size in loads:
        together += 1
        held += size
        if together > 1 and (together > costs.request_tasks or held > costs.request_bytes):
            requested += costs.request
            together, held = 1, size
        handed += costs.dispatch + costs.byte * size
        released = costs.client + max(requested, handed)
        at, number, setup = free[0]
        done = max(at, released) + setup + costs.task + seconds
        heapq.heapreplace(free, Connected(done, number, 0.0))
        end = max(end, done)
    return end
