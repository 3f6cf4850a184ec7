"""What follows from a site's fields: workers, threads, times, images, commands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fitserve.schedulers.base import clock_seconds
from sitekit.schedulers import scheduler_of

if TYPE_CHECKING:
    from sitekit.site import Site

__all__ = [
    "DOCKER_LIKE",
    "LAUNCHERS",
    "Derived",
    "derive",
    "hms",
]

DOCKER_LIKE = ("docker", "podman", "podman-hpc")
LAUNCHERS = {
    "single-node": "SingleNodeLauncher",
    "srun": "SrunLauncher",
    "mpiexec": "MpiExecLauncher",
    "mpirun": "MpiRunLauncher",
    "aprun": "AprunLauncher",
}
"""Parsl's class for each launcher."""
_UNITS = {
    **{unit: 1e3**power / 2**30 for power, unit in enumerate("kMGTP", start=1)},
    **{f"{unit}i": 1024.0 ** (power - 3) for power, unit in enumerate("KMGTP", start=1)},
    "": 1.0,
    "m": 1e-3,
}


def hms(total: int) -> str:
    """Return HH:MM:SS of a number of seconds.

    Examples
    --------
    >>> hms(5400)
    '01:30:00'
    """
    return f"{total // 3600:02d}:{total % 3600 // 60:02d}:{total % 60:02d}"


@dataclass(frozen=True)
class Derived:
    """What follows from a site's fields.

    Attributes
    ----------
    endpoint_name
        Name of the endpoint and of its directory.
    batch
        Whether there is a batch system with queues and time limits.
    workers_per_node, threads
        Worker processes of a node and threads of each; both None where the cores of the
        node are not known (a local site).
    gpus
        GPUs of a node that workers use; 0 on CPUs.
    walltime_seconds, drain_seconds
        Time limit of a block, and the time after its start at which it takes no more tasks,
        so that the longest one still ends in time; None where there is no limit.
    longest_seconds
        Longest task.
    nodes_max, workers_max
        Most nodes and workers of one user; ``workers_max`` is None as for workers.
    core_hours_max
        Core-hours that one user can spend when every block lasts to its end; None where
        unknown.
    """

    endpoint_name: str
    batch: bool
    workers_per_node: int | None
    threads: int | None
    gpus: int
    walltime_seconds: int | None
    drain_seconds: int | None
    longest_seconds: int
    nodes_max: int
    workers_max: int | None
    core_hours_max: float | None


def derive(site: Site) -> Derived:
    """Derive what follows from a site's fields, which fit the schema."""
    gpus = site.node.gpu_count if site.workers.device != "cpu" else 0
    cores = _cores(site)
    workers = _workers(site, cores, gpus)
    threads = site.workers.threads
    if threads is None and cores is not None and workers:
        threads = max(1, cores // workers)
    walltime = clock_seconds(site.blocks.walltime) if site.blocks.walltime else None
    longest = math.ceil(site.tasks.longest_minutes * 60)
    drain = walltime - longest - site.tasks.startup_seconds if walltime else None
    nodes_max = site.blocks.max * site.blocks.nodes
    hours = cores * nodes_max * walltime / 3600 if cores and walltime else None
    return Derived(
        endpoint_name=site.endpoint.name or f"fitserve-{site.name}",
        batch=scheduler_of(site) is not None,
        workers_per_node=workers,
        threads=threads,
        gpus=gpus,
        walltime_seconds=walltime,
        drain_seconds=drain,
        longest_seconds=longest,
        nodes_max=nodes_max,
        workers_max=workers * nodes_max if workers else None,
        core_hours_max=hours,
    )


def _cores(site: Site) -> int | None:
    cores = site.node.cores
    if cores is None and site.scheduler.type == "kubernetes" and site.kubernetes:
        return max(1, int(site.kubernetes.cpu.limit))
    return cores


def _workers(site: Site, cores: int | None, gpus: int) -> int | None:
    workers = site.workers.per_node
    if workers is not None:
        return workers
    if gpus:
        return gpus
    if cores is None:
        return None
    by_cores = cores // (site.workers.threads or 1)
    memory = memory_gb(site)
    by_memory = int(memory // site.workers.memory_gb) if memory else by_cores
    return max(1, min(by_cores, by_memory))


def memory_gb(site: Site) -> float | None:
    """Return the GiB of memory of a block's node, or None where it is not known."""
    if site.scheduler.type == "kubernetes":
        return quantity_gb(site.kubernetes.memory.limit) if site.kubernetes else None
    memory = site.node.memory_gb
    return float(memory) if memory is not None else None


def quantity_gb(quantity: str) -> float:
    """Return a Kubernetes quantity: GiB where it has a unit of memory, else CPUs or a count.

    Examples
    --------
    >>> quantity_gb("512Mi"), quantity_gb("4Gi"), quantity_gb("500m"), f"{quantity_gb('100G'):.2f}"
    (0.5, 4.0, 0.5, '93.13')
    """
    number = quantity.rstrip("KMGTPikm")
    return float(number) * _UNITS[quantity.removeprefix(number)]
