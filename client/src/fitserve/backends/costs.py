"""What tasks and workers cost on this machine and on a site, with where each number is from.

*Measured*: on a machine with two cores. *Assumed*: what differs from site to site, and what was
only seen on a machine that was busy. ``benchmarks/scaling`` predicts runs with the same numbers.
"""

from __future__ import annotations

from fitserve.makespan import Costs

__all__ = ["DIRECT", "LOCAL", "QUEUE_SECONDS"]

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
