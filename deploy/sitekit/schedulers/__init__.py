"""Batch schedulers: what each can be asked for, and what its commands say about jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sitekit.schedulers.pbs import PBSPRO, TORQUE
from sitekit.schedulers.slurm import SLURM

if TYPE_CHECKING:
    from sitekit.schedulers.base import BatchScheduler
    from sitekit.site import Site

__all__ = ["BATCH", "scheduler_of"]

BATCH = {one.name: one for one in (SLURM, PBSPRO, TORQUE)}
"""Schedulers with queues and time limits, in the order in which they are listed."""


def scheduler_of(site: Site) -> BatchScheduler | None:
    """Return a site's batch scheduler; None on Kubernetes and on one machine, which have none."""
    return BATCH.get(site.scheduler.type)
