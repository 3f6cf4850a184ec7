"""Tasks of a run that were sent and have not ended, read from its events."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fitserve.contract import ToyRange

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fitserve.store.records import Event

__all__ = ["PendingTask", "pending_tasks"]

_ENDS = ("finished", "lost", "refused", "given up")


class PendingTask(NamedTuple):
    """A task without an end.

    ``hypotheses`` are the names of those in it, in order; ``submitted`` is in seconds since
    the epoch. ``handle`` is what a service knows the task by, empty where none took it. ``toys``
    are which of the toys of a request for toys it makes. ``verify`` says that it is to hold
    results against pyhf.
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
    >>> from fitserve.store import Event
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
    found: dict[str, PendingTask] = {}
    for event in events:
        details = event.details
        ticket = details.get("task", "")
        if event.event == "submitted":
            names = tuple(details["hypotheses"])
            first, count = details.get("toys") or (0, 0)
            toys = ToyRange(first=first, count=count) if count else None
            verify = details.get("verify", False)
            found[ticket] = PendingTask(
                ticket, names, event.time, details["bytes"], {}, toys, verify
            )
        elif event.event == "accepted" and ticket in found:
            handle = {name: value for name, value in details.items() if name != "task"}
            found[ticket] = found[ticket]._replace(handle=handle)
        elif event.event in _ENDS:
            found.pop(ticket, None)
        elif event.event == "set aside" and details.get("hypotheses") is None:
            found.clear()
    return list(found.values())
