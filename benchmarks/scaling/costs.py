"""What a run is made of, with where each number is from.

*measured*: on a machine with two cores (the comments of fitserve/estimate.py, the published
pallet, runs of the rig). *documented*: limits of Globus Compute. *assumed*: the rest, which
depends on a site.
"""

from __future__ import annotations

from typing import NamedTuple

from model import Costs

__all__ = ["BATCHES", "CLOUD", "DIRECT", "Batch", "costs_of"]


class Batch(NamedTuple):
    """Hypotheses of one kind: how many, and seconds of each on one core."""

    name: str
    hypotheses: int
    fit: float
    hypothesis_bytes: float


# 1Lbb with the kernel takes 27 ms a hypothesis for four fits and CLs (measured); a toy is two
# fits of pseudo-data that the worker draws itself, so that nothing of it is sent (assumed).
BATCHES = (
    Batch("125 hypotheses", 125, 0.027, 16_500),
    Batch("10⁴ hypotheses", 10_000, 0.027, 16_500),
    Batch("10⁶ hypotheses", 1_000_000, 0.027, 16_500),
    Batch("10⁷ toys", 10_000_000, 0.0135, 0),
)
_COMMON = Costs(
    fit=0.027,
    spread=0.3,  # assumed
    task=0.05,  # assumed
    setup=8.0,  # assumed, from runs on a busy machine
    start=3.0,  # measured: from the start of a Slurm job to its workers being connected
    queue=60.0,  # assumed
    client=2.0,  # assumed, from runs on a busy machine
    dispatch=0.002,  # measured: one task through Parsl's interchange
    byte=1e-8,  # assumed: 100 MB/s from the client to the workers
    workers_per_block=32,  # assumed
)
DIRECT = _COMMON
"""Through ``parsl:SITE``; the workspace is on the shared file system."""
CLOUD = _COMMON._replace(
    client=4.0,  # assumed: login and registration too
    dispatch=0.0046,  # measured: 1000 small tasks of one batch in 4.6 s
    request=0.5,  # documented: 20 requests in 10 s
    request_tasks=128,  # documented: the SDK's batch
    request_bytes=10e6,  # documented
    task_bytes=153_000,  # measured: the workspace of 1Lbb, which every task carries
)
"""Through Globus Compute."""


def costs_of(batch: Batch, way: Costs, *, queue: float) -> Costs:
    """Return the costs of a batch on one of the two ways, with a mean time in the queue."""
    return way._replace(fit=batch.fit, hypothesis_bytes=batch.hypothesis_bytes, queue=queue)
