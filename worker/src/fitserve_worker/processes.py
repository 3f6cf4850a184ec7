"""Processes of an endpoint on this machine, and those that a killed endpoint left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path
from typing import NamedTuple

__all__ = ["Found", "end_orphans", "find_processes"]

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
# Titles of a child endpoint's main process, from its start on; that of an idle one begins with it.
_MANAGER = re.compile(
    r"(?:\[[^]]*\] )?Globus Compute Endpoint \(|Endpoint starting up|.*_start-user-endpoint "
)
_GRACE = 3.0


class Found(NamedTuple):
    """A process of a child endpoint; an ``orphan`` has no child endpoint any more."""

    pid: int
    child: str
    command: str
    orphan: bool


def find_processes(endpoint: str) -> list[Found]:
    """Return the processes of an endpoint's children that this user may look at.

    Globus Compute names each child ``uep.ENDPOINT.CHILD``. The name is in the environment of its
    processes, and in the path of its log: Parsl's interchange writes its title over its
    environment.

    Parameters
    ----------
    endpoint
        The endpoint's id.
    """
    named = re.compile(rf"uep\.{re.escape(endpoint)}\.({_UUID})")
    processes: dict[int, tuple[str, str]] = {}
    titles = []
    for place in Path("/proc").glob("[0-9]*"):
        command = _read(place / "cmdline")
        if _MANAGER.match(command):
            titles.append(command)
        match = (
            named.search(command)
            or named.search(_read(place / "environ"))
            or named.search(_output(place))
        )
        if match and int(place.name) != os.getpid():
            processes[int(place.name)] = (match[1], command)
    alive = {child for child, _ in processes.values() if any(child in title for title in titles)}
    return [
        Found(pid, child, command, child not in alive)
        for pid, (child, command) in sorted(processes.items())
    ]


def end_orphans(endpoint: str) -> int:
    """End the processes left by dead children of an endpoint, and return how many there were."""
    orphans = [one for one in find_processes(endpoint) if one.orphan]
    for one in orphans:
        _signal(one.pid, signal.SIGTERM)
    end = time.monotonic() + _GRACE
    while any(_alive(one) for one in orphans) and time.monotonic() < end:
        time.sleep(0.1)
    for one in orphans:
        if _alive(one):
            _signal(one.pid, signal.SIGKILL)
    return len(orphans)


def _alive(one: Found) -> bool:
    # By its command too: its id may have been given to another process.
    return _read(Path("/proc") / str(one.pid) / "cmdline") == one.command


def _signal(pid: int, sign: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, sign)


def _output(place: Path) -> str:
    """Return the path to which a process writes its errors."""
    try:
        return str((place / "fd" / "2").readlink())
    except OSError:
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
