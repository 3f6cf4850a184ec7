"""Processes of an endpoint on this machine, alive ones and those that a dead one left."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fitserve_worker.processes import end_orphans, find_processes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fitserve_worker.processes import Found

__all__ = ["alive", "end", "end_all", "end_orphans", "find_processes"]

_POLL = 0.2


def alive(pid: int) -> bool:
    """Return whether there is such a process that has not ended."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        return stat.rpartition(")")[2].split()[0] != "Z"
    return False


def end(pids: Iterable[int], grace: float) -> list[int]:
    """Ask processes to end, wait, and end those that do not; returns those that were there."""
    there = [pid for pid in pids if alive(pid)]
    for pid in there:
        _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while any(alive(pid) for pid in there) and time.monotonic() < deadline:
        time.sleep(_POLL)
    for pid in there:
        if alive(pid):
            _signal(pid, signal.SIGKILL)
    return there


def end_all(endpoint_id: str, grace: float = 20.0) -> list[int]:
    """End every process of an endpoint's children, alive or not."""
    return end([one.pid for one in find_processes(endpoint_id)], grace)


def as_data(found: Iterable[Found]) -> list[dict[str, object]]:
    """Return processes as plain data, their command lines cut short."""
    return [
        {"pid": one.pid, "child": one.child, "orphan": one.orphan, "command": one.command[:120]}
        for one in found
    ]


def _signal(pid: int, sign: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, sign)
