"""Where and with what this worker works."""

from __future__ import annotations

import functools
import os
import platform
import socket
import sys
from importlib.metadata import PackageNotFoundError, version

from fitserve.contract import WorkerInfo

__all__ = ["worker_info", "worker_version"]

_RECORDED = ("fitserve-worker", "pyhf", "numpy", "scipy", "iminuit", "jax", "jaxlib")


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
