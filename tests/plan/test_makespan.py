"""Plans are those that end a run soonest in the simulation."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitserve.contract import HypotestRequest, Hypothesis, ToysRequest
from fitserve.endpoints.base import CLOUD, DIRECT, LOCAL, Costs, Limits
from fitserve.runs.makespan import Estimate, Load, Work, best_size, makespan, simulate
from fitserve.runs.plan import Bounds, Plan, make_plan, task_size

if TYPE_CHECKING:
    from collections.abc import Callable

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
def test_a_plan_has_the_best_size(
    costs: Costs, each: float, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def spy(*given: object, **bounds: int) -> Estimate:
        asked.append((given, best_size(*given, **bounds)))
        return asked[-1][1]

    monkeypatch.setattr("fitserve.runs.plan.best_size", spy)
    monkeypatch.setattr("fitserve.runs.plan.seconds_per_hypothesis", lambda *_: each)
    plan = _plan(300, _limits(workers, costs), HypotestRequest())
    [((asked_costs, work, asked_workers), best)] = asked
    assert (asked_costs, work.number, work.fit, asked_workers) == (costs, 300, each, workers)
    assert (len(plan.tasks[0].hypotheses), len(plan.tasks)) == (best.size, best.tasks)
    loads = [Load(task.seconds, task.bytes) for task in plan.tasks]
    assert plan.seconds == makespan(costs, loads, workers)


def test_no_worker_that_comes_first_is_left_without_a_task() -> None:
    # By the model alone it would not be worth the setup of a second worker.
    work = Work(60, 0.002)
    assert best_size(LOCAL, work, 2).tasks == 1
    assert task_size(work, _limits(2), most=MOST) <= 30
    assert task_size(work, _limits(10_000, DIRECT), most=MOST) <= 2


def test_what_tasks_and_workers_cost_decides() -> None:
    work = Work(400, 1.0)
    sizes = [
        task_size(work, _limits(10, costs), most=MOST)
        for costs in (Costs(task=10.0), Costs(task=2.0), Costs(setup=20.0, setup_spread=0.9))
    ]
    assert sizes[0] == 40
    assert sizes[2] < sizes[1] <= sizes[0]


@given(
    number=st.integers(1, 300),
    each=st.floats(1e-3, 10.0),
    workers=st.integers(1, 50),
    costs=st.sampled_from([LOCAL, DIRECT, CLOUD, Costs(task=1.0), Costs(dispatch=0.5)]),
)
@settings(max_examples=20, deadline=None)
def test_no_other_size_is_much_better(number: int, each: float, workers: int, costs: Costs) -> None:
    work = Work(number, each, each_bytes=1e4)
    first = min(workers, costs.workers_per_block or workers)
    most = max(1, min(MOST, int(60 / each), math.ceil(number / first)))
    chosen = task_size(work, _limits(workers, costs), most=MOST)
    shortest = min(simulate(costs, work, workers, size).makespan for size in range(1, most + 1))
    assert simulate(costs, work, workers, chosen).makespan <= 1.05 * shortest


def test_1lbb_on_this_machine_is_no_slower_than_in_tasks_of_16() -> None:
    work = Work(125, 0.027, task_bytes=1024, each_bytes=16_500)
    chosen = task_size(work, _limits(2), most=MOST)
    before, now = (simulate(LOCAL, work, 2, size).makespan for size in (16, chosen))
    assert now <= 1.005 * before
    assert 8 <= chosen <= 32


@pytest.mark.parametrize("workers", [1, 100, 1_000, 10_000])
@pytest.mark.parametrize(("number", "most"), [(10_000, MOST), (10_000_000, 200_000)])
def test_choosing_simulates_no_more_than_it_may(
    workers: int, number: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much there is to do: a run of the product begins with this."""
    counted = _count(monkeypatch)
    task_size(Work(number, 0.0135, each_bytes=1e4), _limits(workers, CLOUD), most=most)
    assert 0 < counted() < 300_000


def test_a_large_plan_simulates_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = _count(monkeypatch)
    plan = _plan(10_000, _limits(100, DIRECT), HypotestRequest())
    assert 0 < counted() < 300_000
    assert sum(len(task.hypotheses) for task in plan.tasks) == 10_000


def _count(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return a function that says how many tasks and workers were gone through since."""
    steps = []
    real = vars(sys.modules["fitserve.runs.makespan"])["_end"]

    def end(costs: Costs, loads: Any, workers: Any) -> float:
        steps.append(len(loads) + len(workers))
        return real(costs, loads, workers)

    monkeypatch.setattr("fitserve.runs.makespan._end", end)
    return lambda: sum(steps)


def test_toys_are_cut_to_the_best_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fitserve.runs.plan.seconds_per_hypothesis", lambda *_: 1_000.0)
    plan = _plan(1, _limits(20, DIRECT), ToysRequest(toys=100_000))
    work = Work(100_000, 0.01, task_bytes=plan.tasks[0].bytes)
    best = best_size(DIRECT, work, 20, most=5_000)
    assert len(plan.tasks) == best.tasks
    assert max(task.toys.count for task in plan.tasks) <= best.size
