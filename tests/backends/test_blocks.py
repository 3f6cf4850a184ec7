"""When an endpoint gives its blocks up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from parsl.executors import status_handling
from parsl.jobs.errors import TooManyJobFailuresError
from parsl.jobs.states import JobState, JobStatus

from fitserve.onsite import endpoint as failures

LOST = JobStatus(JobState.MISSING, "the workers failed to register", exit_code=78)
RUNS, WAITS = JobStatus(JobState.RUNNING), JobStatus(JobState.PENDING)
ENDED, IDLE = JobStatus(JobState.COMPLETED), JobStatus(JobState.SCALED_IN)


def _given_up(states: list[JobStatus], *, worked: tuple[int, ...] = ()) -> Exception | None:
    said: list[Exception] = []
    executor: Any = SimpleNamespace(
        connected_blocks=lambda: [str(block) for block in worked],
        set_bad_state_and_fail_all=said.append,
    )
    failures.give_up(executor, {str(number): one for number, one in enumerate(states)})
    return said[0] if said else None


@pytest.mark.parametrize(
    ("states", "worked"),
    [
        ([], ()),
        ([LOST, LOST], ()),
        ([LOST, LOST, RUNS], (2,)),
        ([LOST, LOST, ENDED, LOST, LOST], (2,)),
        # One that was asked for in vain and given back says nothing.
        ([LOST, IDLE, LOST, WAITS], ()),
    ],
)
def test_it_goes_on(states: list[JobStatus], worked: tuple[int, ...]) -> None:
    assert _given_up(states, worked=worked) is None


@pytest.mark.parametrize(
    ("states", "worked"),
    [
        ([LOST, LOST, LOST], ()),
        ([ENDED, *[IDLE] * 9, LOST, LOST, WAITS, LOST], (0,)),
    ],
)
def test_three_in_a_row_are_too_many(states: list[JobStatus], worked: tuple[int, ...]) -> None:
    error = _given_up(states, worked=worked)
    assert isinstance(error, TooManyJobFailuresError)
    assert str(error).count("EXIT CODE: 78") == 3


def test_parsls_executors_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_handling, "simple_error_handler", None)
    failures.register()
    from parsl.executors import HighThroughputExecutor

    executor = HighThroughputExecutor(address="127.0.0.1")
    assert executor.block_error_handler is failures.give_up
