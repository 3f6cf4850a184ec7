"""How many hypotheses, or toys, a task has: as many as end a run soonest, within bounds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fitserve.makespan import best_size

if TYPE_CHECKING:
    from fitserve.backends.base import Limits
    from fitserve.makespan import Work

__all__ = ["task_size"]

# Unless the user bounds it, a task is cut to this time where more tasks cost little to send.
_TASK_SECONDS = 60.0
# All the workspaces of a run may take this many bytes, and this part of those of its patches ...
_WORKSPACE_BYTES = 100_000
_WORKSPACE_SHARE = 0.5
# ... unless a worker more has this much to do.
_WORTH_SECONDS = 5.0


def task_size(
    work: Work, limits: Limits, *, most: int, longest: float | None = None, carried: float = 0
) -> int:
    """Return the size that ends a run soonest in the simulation, of those that are allowed.

    Parameters
    ----------
    work
        What is to be done.
    limits
        The backend's, with the costs of its tasks and workers.
    most
        No task has more hypotheses (or toys).
    longest
        Seconds that a task may take, if that is bounded.
    carried
        Encoded size of the workspace in each task, where more tasks are to be made only as far
        as all the workspaces of the run are small beside the patches; else 0.

    Examples
    --------
    >>> from fitserve.backends.base import Limits
    >>> from fitserve.makespan import Work
    >>> limits = Limits(task_bytes=10**7, outstanding=100, workers=4)
    >>> task_size(Work(400, 20.0), limits, most=64)
    3
    >>> task_size(Work(400, 20.0), limits, most=64, longest=45.0)
    2
    """
    most = min(most, _within(longest, work))
    least = 1
    if carried:
        patches = work.number * work.each_bytes
        cheap = math.floor((_WORKSPACE_BYTES + _WORKSPACE_SHARE * patches) / carried)
        busy = min(limits.workers, math.ceil(work.number * work.fit / _WORTH_SECONDS))
        least = min(most, math.ceil(work.number / max(cheap, busy, 1)))
    # Fits may take far longer than was estimated, and what is done is kept task by task: none of
    # the workers that come first is left without a task.
    first = min(limits.workers, limits.costs.workers_per_block or limits.workers)
    most = max(least, min(most, _within(_TASK_SECONDS, work), math.ceil(work.number / first)))
    return best_size(limits.costs, work, limits.workers, least=least, most=most).size


def _within(seconds: float | None, work: Work) -> int:
    """Return how many take no longer than this, at least one."""
    if seconds is None or work.number * work.fit <= seconds:
        return work.number
    return max(1, math.floor(seconds / work.fit))
