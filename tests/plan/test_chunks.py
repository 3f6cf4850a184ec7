"""Toys are cut into parts that leave none out and are no longer than allowed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitserve.endpoints.base import Limits
from fitserve.runs.estimate import Work, seconds_per_hypothesis
from fitserve.runs.plan import Bounds, encode_planned, make_plan, toy_parts
from fitserve_contract import HypotestRequest, Hypothesis, ToyRange, ToysRequest, decode_task

WORKSPACE = {
    "channels": [
        {
            "name": "SR",
            "samples": [
                {
                    "name": "b",
                    "data": [1.0, 2.0],
                    "modifiers": [
                        {"name": "norm", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9}}
                    ],
                }
            ],
        }
    ],
    "observations": [{"name": "SR", "data": [1, 2]}],
    "measurements": [],
}


def _limits(workers: int) -> Limits:
    return Limits(task_bytes=10_000_000, outstanding=8, workers=workers)


def _hypotheses(count: int) -> list[Hypothesis]:
    return [
        Hypothesis(name=f"h{i}", values=(), patch=[{"op": "test", "path": "", "value": i}])
        for i in range(count)
    ]


@given(
    count=st.integers(1, 6),
    toys=st.integers(1, 3000),
    each=st.floats(1e-3, 1.0),
    workers=st.integers(1, 8),
    longest=st.one_of(st.none(), st.floats(0.5, 100)),
)
@settings(deadline=None)
def test_every_toy_of_every_hypothesis_is_in_one_part(
    count: int, toys: int, each: float, workers: int, longest: float | None
) -> None:
    hypotheses = _hypotheses(count)
    request = ToysRequest(toys=toys)
    gap = [ToyRange(first=toys // 2, count=toys - toys // 2)]
    missing = {"h0": gap}
    parts = list(toy_parts(hypotheses, request, missing, Work(1, each), _limits(workers), longest))
    for one in hypotheses:
        found = [
            number
            for part in parts
            if one in part.hypotheses
            for number in range(part.toys.first, part.toys.stop)
        ]
        assert found == list(range(toys // 2 if one.name == "h0" else 0, toys))
    bound = min(60.0, longest or 60.0)
    assert all(part.toys.count * each <= bound * 1.001 or part.toys.count == 1 for part in parts)


def test_a_hypothesis_alone_keeps_all_workers_busy() -> None:
    limits = _limits(4)
    parts = list(
        toy_parts(_hypotheses(1), ToysRequest(toys=10_000), {}, Work(1, 0.01), limits, None)
    )
    counts = [part.toys.count for part in parts]
    assert len(parts) >= 4
    assert len(parts) % 4 == 0
    assert max(counts) - min(counts) <= 1


def test_a_task_s_answer_is_bounded() -> None:
    request = ToysRequest(toys=1_000_000)
    parts = list(toy_parts(_hypotheses(1), request, {}, Work(1, 1e-9), _limits(1), None))
    assert max(part.toys.count for part in parts) <= 200_000


def test_tasks_say_which_toys_they_are_of() -> None:
    request = ToysRequest(toys=100_000)
    limits = _limits(1)
    # Less than a worker is given otherwise.
    bounds = Bounds(seconds=seconds_per_hypothesis(WORKSPACE, request) / 4.5)
    plan = make_plan(WORKSPACE, _hypotheses(2), request, limits=limits, staged=True, bounds=bounds)
    asked = [(task.hypotheses[0].name, task.toys.first, task.toys.count) for task in plan.tasks]
    assert asked[:3] == [("h0", 0, 20000), ("h0", 20000, 20000), ("h0", 40000, 20000)]
    assert len(asked) == 10
    task = plan.tasks[1]
    sent = decode_task(encode_planned(task.hypotheses, "0" * 64, None, request, toys=task.toys))
    assert sent.toys == task.toys
    assert plan.cpu_seconds == pytest.approx(2 * seconds_per_hypothesis(WORKSPACE, request))


def test_few_toys_of_many_hypotheses_go_together() -> None:
    limits = Limits(task_bytes=10_000_000, outstanding=8, workers=2)
    plan = make_plan(WORKSPACE, _hypotheses(40), ToysRequest(toys=20), limits=limits, staged=True)
    assert sum(len(task.hypotheses) for task in plan.tasks) == 40
    assert max(len(task.hypotheses) for task in plan.tasks) > 1
    assert {task.toys for task in plan.tasks} == {ToyRange(first=0, count=20)}


def test_other_requests_have_no_toys() -> None:
    limits = Limits(task_bytes=10_000_000, outstanding=8, workers=2)
    plan = make_plan(WORKSPACE, _hypotheses(3), HypotestRequest(), limits=limits, staged=True)
    assert {task.toys for task in plan.tasks} == {None}
