"""Tasks are of a size that lets a run end soon, and plans say when."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitserve.endpoints.base import CLOUD, DIRECT, LOCAL, Costs, Limits
from fitserve.runs.makespan import Load, Work, makespan
from fitserve.runs.plan import Bounds, Plan, make_plan, task_size
from fitserve_contract import HypotestRequest, Hypothesis, ToysRequest

WORKSPACE = {"channels": [], "observations": [], "measurements": []}
MOST = Bounds().hypotheses


def _plan(number: int, limits: Limits, request: HypotestRequest | ToysRequest) -> Plan:
    hypotheses = [
        Hypothesis(name=f"h{one:05}", values=(), patch=[{"op": "test", "path": "", "value": 0}])
        for one in range(number)
    ]
    return make_plan(WORKSPACE, hypotheses, request, limits=limits, staged=True)


def _limits(workers: int, costs: Costs = LOCAL) -> Limits:
    return Limits(task_bytes=10**7, outstanding=8, workers=workers, costs=costs)


@given(
    loads=st.lists(st.floats(0, 100), max_size=40),
    workers=st.integers(1, 10),
    setup=st.floats(0, 10),
)
def test_each_worker_takes_the_next_task_when_it_is_free(
    loads: list[float], workers: int, setup: float
) -> None:
    busy = [0.0] * workers
    for load in loads:
        index = busy.index(min(busy))
        busy[index] += load + (setup if busy[index] == 0 else 0.0)
    costs = Costs(setup=setup)
    # A load of nothing leaves no trace in `busy`.
    expected = max(busy)
    if all(loads):
        tasks = [Load(load, 0) for load in loads]
        assert makespan(costs, tasks, workers) == pytest.approx(expected)


def test_tasks_are_there_as_fast_as_they_are_handed_out() -> None:
    tasks = [Load(0.0, 100.0)] * 10
    assert makespan(Costs(client=1.0, dispatch=0.5), tasks, 10) == pytest.approx(6.0)
    assert makespan(Costs(byte=0.01), tasks, 10) == pytest.approx(10.0)
    # Two in a submission by number, or three by bytes.
    assert makespan(Costs(request=1.0, request_tasks=2), tasks, 10) == pytest.approx(4.0)
    assert makespan(Costs(request=1.0, request_bytes=399), tasks, 10) == pytest.approx(3.0)


def test_blocks_leave_the_queue_one_after_the_other() -> None:
    costs = Costs(queue=60.0, workers_per_block=2)
    one, many = (makespan(costs, [Load(1.0, 0)], workers) for workers in (2, 200))
    assert one == pytest.approx(1 + 60 * 0.6931, rel=1e-3)
    assert many == pytest.approx(1 + 60 / 200, rel=0.01)


@pytest.mark.parametrize("costs", [LOCAL, DIRECT, CLOUD])
@pytest.mark.parametrize("each", [0.02, 2.0])
@pytest.mark.parametrize("workers", [2, 7, 60])
def test_a_plan_has_tasks_of_the_chosen_size(
    costs: Costs, each: float, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fitserve.runs.plan.seconds_per_hypothesis", lambda *_: each)
    plan = _plan(300, _limits(workers, costs), HypotestRequest())
    sizes = [len(task.hypotheses) for task in plan.tasks]
    work = Work(300, each, task_bytes=1024.0)
    size = task_size(work, _limits(workers, costs), most=MOST)
    assert sizes == [size] * (300 // size) + ([300 % size] if 300 % size else [])
    loads = [Load(task.seconds, task.bytes) for task in plan.tasks]
    assert plan.seconds == makespan(costs, loads, workers)


def test_every_worker_has_several_tasks_that_are_worth_what_they_cost() -> None:
    assert task_size(Work(640, 1.0), _limits(10, Costs()), most=MOST) == 8
    # Five times the 0.5 s that a task costs, in fits of 0.1 s.
    assert task_size(Work(500, 0.1), _limits(10, Costs(task=0.5)), most=MOST) == 25
    # What is sent to ten workers one after the other costs each of them ten times as much.
    assert task_size(Work(500, 0.1), _limits(10, Costs(dispatch=0.05)), most=MOST) == 25
    by_bytes = Work(500, 0.1, task_bytes=1e6)
    assert task_size(by_bytes, _limits(10, Costs(byte=5e-8)), most=MOST) == 25
    requests = Costs(request=5.0, request_tasks=100)
    assert task_size(Work(500, 0.1), _limits(10, requests), most=MOST) == 25


def test_no_round_of_tasks_is_left_to_a_few_workers() -> None:
    # 14 tasks of 13 hypotheses on 13 workers take two rounds, 13 of 14 take one.
    assert task_size(Work(182, 0.4), _limits(13, Costs(task=1.0)), most=MOST) == 14
    # No more than a tenth is to be had: as many tasks as usual.
    assert task_size(Work(641, 1.0), _limits(10, Costs()), most=MOST) == 9


def test_no_worker_that_comes_first_is_left_without_a_task() -> None:
    # What a task costs would be worth one of all of them.
    work = Work(60, 0.002)
    assert task_size(work, _limits(2), most=MOST) == 30
    assert task_size(work, _limits(10_000, DIRECT), most=MOST) <= 2


def test_what_tasks_and_workers_cost_decides() -> None:
    work = Work(400, 1.0)
    sizes = [
        task_size(work, _limits(10, costs), most=MOST)
        for costs in (Costs(task=10.0), Costs(task=2.0), Costs(setup=20.0, setup_spread=0.9))
    ]
    assert sizes[0] == 40
    assert sizes[2] < sizes[1] <= sizes[0]


def test_toys_are_cut_to_the_chosen_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fitserve.runs.plan.seconds_per_hypothesis", lambda *_: 1_000.0)
    plan = _plan(1, _limits(20, DIRECT), ToysRequest(toys=100_000))
    work = Work(100_000, 0.01, task_bytes=plan.tasks[0].bytes)
    size = task_size(work, _limits(20, DIRECT), most=5_000)
    assert len(plan.tasks) == math.ceil(100_000 / size)
    assert max(task.toys.count for task in plan.tasks) <= size
