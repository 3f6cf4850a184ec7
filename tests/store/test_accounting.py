"""Where the time went, and tasks that have not ended, from what a run directory holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from fitserve.runs.drive import pending_tasks
from fitserve.runs.records import Event
from fitserve.runs.store import RunStore, ask_to_cancel, read_run
from fitserve.runs.summary import account, traffic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fitserve.runs.store import SavedRun


@pytest.fixture
def saved(tmp_path: Path, build_run: Callable, save_run: Callable) -> SavedRun:
    return save_run(tmp_path / "run", *build_run({"A": ((1.0, 2.0), 0.1, None)}))


def test_the_parts_of_a_hypothesis_add_up(saved: SavedRun) -> None:
    record = msgspec.structs.replace(
        saved.records["A"],
        submitted=100.0,
        accepted=101.0,
        started=105.0,
        task_seconds=3.0,
        arrived=109.0,
    )
    parts = account(record)
    assert (parts.client, parts.queue, parts.service) == (1.0, 4.0, 1.0)
    assert parts.setup + parts.fit + parts.others == pytest.approx(3.0)
    assert parts.total == pytest.approx(record.arrived - record.submitted)
    local = account(msgspec.structs.replace(record, accepted=None))
    assert (local.client, local.queue) == (0.0, 5.0)


def test_a_kept_answer_took_no_fit(saved: SavedRun) -> None:
    record = msgspec.structs.replace(
        saved.records["A"], submitted=100.0, accepted=101.0, started=3.0, arrived=103.0, kept=True
    )
    assert account(record) == (1.0, 0.0, 0.0, 0.0, 0.0, 2.0)


def test_every_byte_counts_also_of_repeated_tasks(saved: SavedRun) -> None:
    with RunStore.open(saved.path) as store:
        for ticket in ("task-1", "task-2"):
            store.note("submitted", task=ticket, bytes=500, hypotheses=["A"])
        store.note("finished", task="task-2", bytes=70)
    assert traffic(read_run(saved.path)) == (2, 1000, 70)


def _event(kind: str, **details: object) -> Event:
    return Event(time=1.0, event=kind, details=details)


def test_tasks_are_pending_until_they_end() -> None:
    sent = [
        _event("submitted", task=f"task-{n}", bytes=n, hypotheses=[f"H{n}"]) for n in range(1, 6)
    ]
    taken = [_event("accepted", task=f"task-{n}", service_task=f"id{n}") for n in (1, 2, 3)]
    ends = [
        _event("finished", task="task-1"),
        _event("lost", task="task-2"),
        _event("refused", task="task-4"),
    ]
    left = pending_tasks([*sent, *taken, *ends])
    assert [(task.ticket, task.handle) for task in left] == [
        ("task-3", {"service_task": "id3"}),
        ("task-5", {}),
    ]
    some = _event("set aside", hypotheses=["H1"])
    assert len(pending_tasks([*sent, *taken, *ends, some])) == 2
    everything = _event("set aside", hypotheses=None)
    assert pending_tasks([*sent, *taken, *ends, everything]) == []


def test_a_refit_is_another_task_and_a_repetition_is_not(saved: SavedRun) -> None:
    with RunStore.open(saved.path) as store:
        assert store.nonce() == ""
        store.set_aside()
        first = store.nonce()
        assert first == store.nonce() != ""
        store.set_aside({"A"})
        assert store.nonce() != first


def test_only_a_run_that_is_worked_on_is_asked_to_stop(saved: SavedRun) -> None:
    assert ask_to_cancel(saved.path) is False
    with RunStore.open(saved.path) as store:
        assert not store.cancelled()
        assert ask_to_cancel(saved.path) is True
        assert store.cancelled()
        store.clear_cancel()
        assert not store.cancelled()
