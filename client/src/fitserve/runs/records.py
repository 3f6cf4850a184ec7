"""What a run directory records about itself, besides the results; tasks that have not ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from fitserve.pallet.model import PalletRecord
from fitserve_contract import Hypothesis, HypothesisResult, Request, ToyRange, WorkerInfo

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "MANIFEST_VERSION",
    "Event",
    "Inputs",
    "Manifest",
    "PendingTask",
    "StoredResult",
    "pending_tasks",
]

MANIFEST_VERSION = 1


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was asked to do, by what and where; ``created`` is ISO 8601 in UTC.

    ``hypotheses`` are the names asked for, in the patchset's order, and ``values`` the mass
    values of each by name, so that those without a result yet have a place in a picture.
    ``endpoint`` has several names with commas between them where a run is shared, ``options``
    what the user set of the sites. ``verify`` are the names of the hypotheses that pyhf verifies,
    ``doubted`` those of them whose CLs jump against their neighbours, and ``sample`` those of the
    default sample.
    """

    pallet: PalletRecord
    request: Request
    request_digest: str
    endpoint: str
    hypotheses: list[str]
    created: str
    host: str
    python: str
    versions: dict[str, str]
    values: dict[str, tuple[float | str, ...]] = {}
    options: dict[str, str] = {}
    verify: list[str] = []
    doubted: list[str] = []
    sample: list[str] = []
    manifest_version: int = MANIFEST_VERSION


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """What a run fits: with it and the manifest a run can be resumed without its pallet."""

    workspace: dict[str, Any]
    hypotheses: list[Hypothesis]


class StoredResult(msgspec.Struct, frozen=True, kw_only=True):
    """A finished hypothesis, and how its task went.

    Times are in seconds since the epoch: ``submitted``, ``accepted`` (by a service, if one
    is on the way) and ``arrived`` by the client's clock, ``started`` by the worker's.
    ``task_seconds`` is the time that the worker spent on the whole task, ``task_size`` the
    number of hypotheses in it, ``task_bytes`` its encoded size. ``kept`` says that the worker
    had fitted it for an earlier sending. ``reused_from`` is the run that a result was taken
    from, if it was.
    """

    result: HypothesisResult
    worker: WorkerInfo
    task: str
    submitted: float
    started: float
    arrived: float
    task_seconds: float
    task_size: int
    task_bytes: int = 0
    accepted: float | None = None
    kept: bool = False
    reused_from: str | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened in a run; ``time`` in seconds since the epoch."""

    time: float
    event: str
    details: dict[str, Any]


_ENDS = ("finished", "lost", "refused", "given up")


class PendingTask(NamedTuple):
    """A task without an end.

    ``hypotheses`` are the names of those in it, in order; ``submitted`` is in seconds since
    the epoch. ``handle`` is what a service knows the task by, empty where none took it. ``toys`` is
    the range of toys that it makes, in a run for toys. ``verify`` says that it compares results
    with pyhf.
    """

    ticket: str
    hypotheses: tuple[str, ...]
    submitted: float
    bytes: int
    handle: dict[str, str]
    toys: ToyRange | None = None
    verify: bool = False


def pending_tasks(events: Iterable[Event]) -> list[PendingTask]:
    """Return the tasks that were submitted and have not ended, in order.

    Examples
    --------
    >>> from fitserve.runs.records import Event
    >>> sent = {"task": "task-1", "hypotheses": ["S_100"], "bytes": 7}
    >>> taken = {"task": "task-1", "group": "g", "service_task": "t"}
    >>> events = [Event(time=1.0, event="submitted", details=sent),
    ...           Event(time=2.0, event="accepted", details=taken)]
    >>> pending_tasks(events)[0].handle["service_task"]
    't'
    >>> ended = Event(time=3.0, event="finished", details={"task": "task-1"})
    >>> pending_tasks([*events, ended])
    []
    """
    tasks: dict[str, PendingTask] = {}
    for event in events:
        details = event.details
        ticket = details.get("task", "")
        if event.event == "submitted":
            names = tuple(details["hypotheses"])
            first, count = details.get("toys") or (0, 0)
            toys = ToyRange(first=first, count=count) if count else None
            verify = details.get("verify", False)
            tasks[ticket] = PendingTask(
                ticket, names, event.time, details["bytes"], {}, toys, verify
            )
        elif event.event == "accepted" and ticket in tasks:
            handle = {name: value for name, value in details.items() if name != "task"}
            tasks[ticket] = tasks[ticket]._replace(handle=handle)
        elif event.event in _ENDS:
            tasks.pop(ticket, None)
        elif event.event == "set aside" and details.get("hypotheses") is None:
            tasks.clear()
    return list(tasks.values())
