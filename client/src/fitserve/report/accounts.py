"""The report's account of time and bytes, hypothesis by hypothesis."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from fitserve.accounting import Account, account, traffic
from fitserve.report.content import MOST_ROWS, Fact

if TYPE_CHECKING:
    from fitserve.store import SavedRun

__all__ = ["AccountRow", "account_columns", "account_rows", "traffic_facts"]

_MEANINGS = {
    "client": "until a service took the task",
    "queue": "until a worker began with the task",
    "set-up": "building the model",
    "fit": "all fits",
    "others": "the other hypotheses of the task",
    "service": "the result's way back",
}


class AccountRow(NamedTuple):
    """One hypothesis: its parts of the time and their sum, in seconds, and the task's bytes."""

    name: str
    cells: list[str]


def account_columns() -> list[tuple[str, str]]:
    """Return titles and meanings of the columns after the hypothesis."""
    parts = [(f"{name} / s", meaning) for name, meaning in _MEANINGS.items()]
    return [*parts, ("sum / s", "from sending to having it"), ("task / bytes", "encoded")]


def account_rows(run: SavedRun) -> list[AccountRow]:
    """Return the account of the first `MOST_ROWS` hypotheses that were fitted in this run."""
    own = ((name, one) for name, one in run.records.items() if one.reused_from is None)
    rows = []
    for name, record in islice(own, MOST_ROWS):
        parts: Account = account(record)
        cells = [f"{seconds:.3g}" for seconds in (*parts, parts.total)]
        rows.append(AccountRow(name, [*cells, str(record.task_bytes or "")]))
    return rows


def traffic_facts(run: SavedRun) -> list[Fact]:
    """Return how much was sent and received."""
    found = traffic(run)
    if not found.tasks:
        return []
    return [
        Fact("Tasks sent", str(found.tasks)),
        Fact("Bytes sent, encoded", f"{found.sent:,}"),
        Fact("Bytes received, encoded", f"{found.received:,}"),
    ]
