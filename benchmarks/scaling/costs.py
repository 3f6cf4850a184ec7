"""What is predicted: which hypotheses and toys, on which ways to workers.

The costs of tasks and workers are those that the backends state and by which plans are made.
"""

from __future__ import annotations

from typing import NamedTuple

from simulation import Estimate, simulate

from fitserve.endpoints.base import CLOUD, DIRECT, Costs, Limits
from fitserve.runs.estimate import Work
from fitserve.runs.plan import MOST_TOYS, Bounds, task_size

__all__ = ["BATCHES", "WAYS", "Batch", "Way", "planned"]


class Batch(NamedTuple):
    """Hypotheses, or toys of one hypothesis; seconds of each on one core."""

    name: str
    work: Work
    toys: bool = False


class Way(NamedTuple):
    """A way to workers, and the encoded size of the workspace in each task."""

    costs: Costs
    carried: int


# 1Lbb with the kernel takes 27 ms a hypothesis for four fits and CLs (measured); a toy is two
# fits of pseudo-data that the worker draws itself, so that nothing of it is sent (assumed).
BATCHES = (
    Batch("125 hypotheses", Work(125, 0.027, each_bytes=16_500)),
    Batch("10⁴ hypotheses", Work(10_000, 0.027, each_bytes=16_500)),
    Batch("10⁶ hypotheses", Work(1_000_000, 0.027, each_bytes=16_500)),
    Batch("10⁷ toys", Work(10_000_000, 0.0135), toys=True),
)
# Directly, the workspace of 1Lbb is on the shared file system; else every task carries it (153 kB,
# measured).
WAYS = {"direct": Way(DIRECT, 0), "cloud": Way(CLOUD, 153_000)}


def planned(batch: Batch, way: Way, workers: int) -> Estimate:
    """Return what a run takes in tasks of the size that a plan would choose."""
    work = batch.work._replace(task_bytes=way.carried)
    limits = Limits(10_000_000, outstanding=4 * workers, workers=workers, costs=way.costs)
    if batch.toys:
        size = task_size(work, limits, most=MOST_TOYS)
    else:
        size = task_size(work, limits, most=Bounds().hypotheses, carried=way.carried)
    return simulate(way.costs, work, workers, size)
