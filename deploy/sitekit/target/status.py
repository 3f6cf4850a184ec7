"""What an endpoint is doing: the service, children, jobs, workers, disk, versions, last fits."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitserve_worker.outbox import Outbox
from sitekit.derive import derive
from sitekit.jobs import find_jobs
from sitekit.target.processes import (
    as_data,
    endpoint_version,
    find_processes,
    manager_pid,
    running_digest,
    supervisor_pid,
    wanted_digest,
)
from sitekit.target.service import boot, manager_kind

if TYPE_CHECKING:
    from sitekit.schedulers.base import Job
    from sitekit.target.deployed import Deployed

__all__ = ["STATUS_VERSION", "status"]

STATUS_VERSION = 1
_LAST = 5
_RELEASE = re.compile(r"(?P<version>.+)-[0-9a-f]{12}\Z")


def status(deployed: Deployed) -> dict[str, Any]:
    """Return everything about an endpoint as plain data."""
    manifest = deployed.manifest
    endpoint = deployed.endpoint_id
    processes = find_processes(endpoint) if endpoint else []
    jobs = find_jobs(deployed.site, deployed.name, everyone=deployed.multi_user)
    return {
        "status_version": STATUS_VERSION,
        "site": deployed.site.name,
        "endpoint": _endpoint(deployed) if deployed.in_the_cloud else None,
        "children": sorted({one.child for one in processes if not one.orphan}),
        "processes": as_data(one for one in processes if not one.orphan),
        "orphans": as_data(one for one in processes if one.orphan),
        "jobs": [job._asdict() for job in jobs],
        "workers": _workers(deployed, jobs, [one.command for one in processes if not one.orphan]),
        "disk": _disk(deployed),
        "versions": {
            "release": manifest.current,
            "previous": manifest.previous,
            "fitserve": _version(manifest.current),
            "globus-compute-endpoint": endpoint_version(deployed),
        },
        "last_fits": _last_fits(deployed, _version(manifest.current)),
    }


def _version(release: str | None) -> str | None:
    matched = _RELEASE.match(release or "")
    return matched["version"] if matched else None


def _endpoint(deployed: Deployed) -> dict[str, Any]:
    manager = manager_pid(deployed)
    return {
        "id": deployed.endpoint_id,
        "name": deployed.name,
        "pid": manager,
        "since": _since(manager) if manager else None,
        "kept_by": manager_kind(deployed),
        "supervisor": supervisor_pid(deployed),
        "at_boot": boot(deployed),
        "restart_pending": manager is not None
        and running_digest(deployed) != wanted_digest(deployed),
    }


def _since(pid: int) -> str:
    started = Path(f"/proc/{pid}").stat().st_ctime
    return datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds")


def _workers(deployed: Deployed, jobs: list[Job], commands: list[str]) -> dict[str, int | None]:
    """Return how many workers there are: counted here, or expected from the running jobs."""
    derived = derive(deployed.site)
    if deployed.site.scheduler.type == "local":
        here = sum("process_worker_pool" in one or "multiprocessing" in one for one in commands)
        return {"processes": here, "most": derived.workers_max}
    running = sum(job.state == "running" for job in jobs)
    nodes = running * deployed.site.blocks.nodes
    return {"of_running_jobs": nodes * (derived.workers_per_node or 0), "most": derived.workers_max}


def _disk(deployed: Deployed) -> dict[str, Any]:
    disks = {}
    for name in ("root", "run", "cache"):
        path = deployed.path(getattr(deployed.places, name))
        if path.is_dir():
            usage = shutil.disk_usage(path)
            disks[name] = {"path": str(path), "free_gb": round(usage.free / 2**30, 1)}
    return disks


def _last_fits(deployed: Deployed, version: str | None) -> list[dict[str, Any]] | None:
    """Return the newest answers that workers kept on this file system.

    None where they are not known: each user of a multi-user endpoint has a directory of answers.
    """
    if deployed.multi_user:
        return None
    place = deployed.path(deployed.places.cache) / "outbox"
    if version is None or not place.is_dir() or not os.access(place, os.R_OK):
        return []
    entries = []
    with contextlib.suppress(OSError):
        entries = Outbox(place, version).entries()
    return [
        {
            "task": entry.digest,
            "bytes": entry.bytes,
            "ago_seconds": round(time.time() - entry.written),
        }
        for entry in entries[-_LAST:][::-1]
    ]
