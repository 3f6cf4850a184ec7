"""An endpoint's processes here: whether it runs, what it runs with, what a dead one left."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fitserve_worker.processes import end_orphans, find_processes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fitserve_worker.processes import Found
    from sitekit.target.deployed import Deployed

__all__ = [
    "alive",
    "end",
    "end_all",
    "end_orphans",
    "endpoint_version",
    "find_processes",
    "lock_file",
    "manager_pid",
    "running_digest",
    "running_file",
    "supervisor_pid",
    "wanted_digest",
]

_POLL = 0.2


def alive(pid: int) -> bool:
    """Return whether a process exists and has not ended."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        return stat.rpartition(")")[2].split()[0] != "Z"
    return False


def end(pids: Iterable[int], grace: float) -> list[int]:
    """Ask processes to end, wait, and kill those that do not; returns those that ran."""
    running = [pid for pid in pids if alive(pid)]
    for pid in running:
        _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while any(alive(pid) for pid in running) and time.monotonic() < deadline:
        time.sleep(_POLL)
    for pid in running:
        if alive(pid):
            _signal(pid, signal.SIGKILL)
    return running


def end_all(endpoint_id: str, grace: float = 20.0) -> list[int]:
    """End every process of an endpoint's children, alive or not."""
    return end([one.pid for one in find_processes(endpoint_id)], grace)


def as_data(processes: Iterable[Found]) -> list[dict[str, object]]:
    """Return processes as plain data, their command lines cut short."""
    return [
        {"pid": one.pid, "child": one.child, "orphan": one.orphan, "command": one.command[:120]}
        for one in processes
    ]


def _signal(pid: int, sign: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, sign)


def lock_file(deployed: Deployed) -> Path:
    """Return the file that the supervisor locks, with its process id."""
    return deployed.state / "supervisor.lock"


def running_file(deployed: Deployed) -> Path:
    """Return the file that says what the endpoint was started with."""
    return deployed.state / "running.json"


def supervisor_pid(deployed: Deployed) -> int | None:
    """Return the process that keeps the endpoint running, or None if there is none."""
    lock = lock_file(deployed)
    if not lock.is_file():
        return None
    with lock.open(encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            text = stream.read().strip()
            return int(text) if text.isdigit() else None
    return None


def manager_pid(deployed: Deployed) -> int | None:
    """Return the process of the endpoint itself, or None if there is none."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((deployed.configuration / "daemon.pid").read_text(encoding="utf-8"))
        title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        # The number may be another process' by now.
        if alive(pid) and ("globus-compute-endpoint" in title or deployed.name in title):
            return pid
    return None


def endpoint_version(deployed: Deployed) -> str | None:
    """Return the version of globus-compute-endpoint in the release that serves."""
    packages = list(
        deployed.link.glob("lib/python*/site-packages/globus_compute_endpoint-*.dist-info")
    )
    return packages[0].name.removesuffix(".dist-info").rpartition("-")[2] if packages else None


def running_digest(deployed: Deployed) -> str | None:
    """Return the digest of what the endpoint was last started with."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(json.loads(running_file(deployed).read_text(encoding="utf-8"))["digest"])
    return None


def wanted_digest(deployed: Deployed) -> str:
    """Return a digest of what the endpoint reads once, when it starts.

    It leaves out the template and the schema of users' options, which the endpoint reads for each
    child that it starts, and comments, so that a new version of fitserve alone does not restart
    it.
    """
    parts = [endpoint_version(deployed) or "", json.dumps(sorted(deployed.credentials().items()))]
    files = [deployed.configuration / name for name in ("config.yaml", "user_environment.yaml")]
    for path in (*files, deployed.path(deployed.places.unit)):
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        parts.append(re.sub(r"(?m)^#.*\n", "", text))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
