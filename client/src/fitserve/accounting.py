"""Where the time of every hypothesis went, and how many bytes a run took."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fitserve.store import SavedRun, StoredResult

__all__ = ["Account", "Traffic", "account", "traffic"]


class Account(NamedTuple):
    """The time between sending a hypothesis and having its result, in parts in seconds.

    Attributes
    ----------
    client
        Until a service took its task; 0 where there is no service on the way.
    queue
        Until a worker began with the task.
    setup, fit
        Building its model, and its fits.
    others
        The other hypotheses in its task, and reading and writing the task.
    service
        The way of the result back.
    """

    client: float
    queue: float
    setup: float
    fit: float
    others: float
    service: float

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return sum(self)


class Traffic(NamedTuple):
    """Encoded bytes of all tasks sent and results received, repeated ones included."""

    tasks: int
    sent: int
    received: int


def account(record: StoredResult) -> Account:
    """Return where the time of a hypothesis went.

    Times of worker and client are compared: where their clocks differ, queue and service are
    wrong by as much, one up and one down. A result that the worker had kept from an earlier
    sending took no fit this time.
    """
    result = record.result
    accepted = record.submitted if record.accepted is None else record.accepted
    client = max(0.0, accepted - record.submitted)
    if record.kept:
        return Account(client, 0.0, 0.0, 0.0, 0.0, max(0.0, record.arrived - accepted))
    own = result.setup_time + result.fit_time
    return Account(
        client=client,
        queue=max(0.0, record.started - accepted),
        setup=result.setup_time,
        fit=result.fit_time,
        others=max(0.0, record.task_seconds - own),
        service=max(0.0, record.arrived - record.started - record.task_seconds),
    )


def traffic(run: SavedRun) -> Traffic:
    """Return how much was sent and received, by the run's own events."""
    events = run.events()
    sent = [event.details["bytes"] for event in events if event.event == "submitted"]
    received = [event.details["bytes"] for event in events if event.event == "finished"]
    return Traffic(len(sent), sum(sent), sum(received))
