"""Where and with what this worker works."""

from __future__ import annotations

import functools
import os
import platform
import resource
import socket
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fitserve.contract import WorkerInfo, memory_of_machine

__all__ = ["limit_memory", "worker_info", "worker_version"]

# How many workers the pool has that this process is one of, as Parsl tells it.
_WORKERS = "PARSL_WORKER_COUNT"
# A worker may take this much even where many share a small machine: JAX and pyhf alone take
# 0.3 GiB, with 1Lbb it is 0.7 GiB.
_LEAST_BYTES = 4 * 1024**3
# What the machine keeps for all that are no workers.
_SHARE = 0.9
_GPUS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))
_RECORDED = ("fitserve-worker", "pyhf", "numpy", "scipy", "iminuit", "jax", "jaxlib")


@functools.cache
def limit_memory() -> int | None:
    """Keep this process from taking the memory of a machine that it shares, if it is a worker.

    A worker of a pool may take its share of the machine's memory, or of its control group's.
    What needs more fails with a `MemoryError`, or ends the process, and is told of as any other
    failure. Only what is written to counts (``RLIMIT_DATA``): JAX reserves 1.6 GB of addresses
    on a CPU and uses a fifth of it; with a GPU, whose driver reserves tens of GB, nothing is
    limited.

    Returns
    -------
    int or None
        Bytes; None where nothing is limited.
    """
    workers = os.environ.get(_WORKERS, "")
    on_cpu = os.environ.get("JAX_PLATFORMS") == "cpu" or not any(map(Path.exists, _GPUS))
    if not workers.isdecimal() or not on_cpu:
        return None
    whole = _SHARE * memory_of_machine()
    limit = int(max(whole / max(1, int(workers)), min(_LEAST_BYTES, whole)))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    return limit


@functools.cache
def worker_info() -> WorkerInfo:
    """Return this process' host, device and the versions of what decides its numbers."""
    return WorkerInfo(
        host=socket.gethostname(),
        pid=os.getpid(),
        python=platform.python_version(),
        device=_device(),
        versions=dict(_versions()),
    )


def worker_version() -> str:
    """Return the version of fitserve-worker, or ``unknown`` where it is not installed."""
    try:
        return version("fitserve-worker")
    except PackageNotFoundError:
        return "unknown"


def _device() -> str:
    # Asking JAX would import it: only when an engine has done so is there a device to tell.
    jax = sys.modules.get("jax")
    if jax is None:
        return f"cpu: {platform.machine()}"
    device = jax.devices()[0]
    return f"{device.platform}: {device.device_kind}"


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in _RECORDED:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found
