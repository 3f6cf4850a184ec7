"""Plans: bounded, complete, and never with a task that an endpoint would refuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitserve.endpoints.base import Limits
from fitserve.errors import RequestError
from fitserve.runs.estimate import free_parameters, seconds_per_hypothesis
from fitserve.runs.plan import Bounds, encode_planned, make_plan
from fitserve_contract import (
    EngineOptions,
    FitRequest,
    HypotestRequest,
    Hypothesis,
    LimitRequest,
    RankingRequest,
    decode_task,
    digest,
)

WORKSPACE = {
    "channels": [
        {
            "name": "SR",
            "samples": [
                {
                    "name": "b",
                    "data": [1.0, 2.0, 3.0],
                    "modifiers": [
                        {"name": "stat", "type": "staterror", "data": [0.1, 0.2, 0.3]},
                        {"name": "norm", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9}},
                    ],
                }
            ],
        }
    ],
    "observations": [{"name": "SR", "data": [1, 2, 3]}],
    "measurements": [],
}
LIMITS = Limits(task_bytes=10_000_000, outstanding=8, workers=2)


def _hypotheses(sizes: list[int]) -> list[Hypothesis]:
    # Digits of different numbers, which do not compress away.
    return [
        Hypothesis(
            name=f"h{index}",
            values=(float(index),),
            patch=[{"op": "add", "path": "/x", "value": [digest([index, k]) for k in range(size)]}],
        )
        for index, size in enumerate(sizes)
    ]


@given(
    sizes=st.lists(st.integers(0, 30), max_size=30),
    limit=st.integers(6_000, 30_000),
    most=st.integers(1, 10),
    workers=st.integers(1, 8),
)
def test_every_task_is_within_every_bound(
    sizes: list[int], limit: int, most: int, workers: int
) -> None:
    hypotheses = _hypotheses(sizes)
    plan = make_plan(
        WORKSPACE,
        hypotheses,
        HypotestRequest(),
        limits=LIMITS._replace(workers=workers),
        staged=False,
        bounds=Bounds(bytes=limit, hypotheses=most),
    )
    planned = [one for task in plan.tasks for one in task.hypotheses]
    assert planned == hypotheses
    for task in plan.tasks:
        assert 1 <= len(task.hypotheses) <= most
        text = encode_planned(task.hypotheses, "0" * 64, WORKSPACE, HypotestRequest())
        assert len(text) <= task.bytes <= limit
        assert decode_task(text).hypotheses == list(task.hypotheses)


def test_a_hypothesis_that_fits_in_no_task_is_named() -> None:
    with pytest.raises(RequestError, match="'h1' does not fit") as caught:
        make_plan(
            WORKSPACE,
            _hypotheses([1, 500]),
            HypotestRequest(),
            limits=LIMITS,
            staged=False,
            bounds=Bounds(bytes=8_000),
        )
    assert "--max-task-bytes" in caught.value.hint


def test_the_backend_s_limit_counts_as_well() -> None:
    with pytest.raises(RequestError, match="does not fit"):
        make_plan(
            WORKSPACE,
            _hypotheses([500]),
            HypotestRequest(),
            limits=LIMITS._replace(task_bytes=8_000),
            staged=False,
        )


def test_a_staged_workspace_is_not_counted() -> None:
    sizes = {
        staged: make_plan(
            WORKSPACE, _hypotheses([1]), HypotestRequest(), limits=LIMITS, staged=staged
        ).bytes
        for staged in (True, False)
    }
    assert sizes[True] < sizes[False]


def test_there_are_a_few_tasks_for_each_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fitserve.runs.plan.seconds_per_hypothesis", lambda *_: 0.1)
    plan = make_plan(
        WORKSPACE, _hypotheses([0] * 80), HypotestRequest(), limits=LIMITS, staged=True
    )
    assert len(plan.tasks) >= 4
    assert plan.begins == pytest.approx(LIMITS.costs.client + LIMITS.costs.start + 2.5)
    fits = plan.seconds - plan.begins
    assert plan.cpu_seconds == pytest.approx(8.0)
    assert 4.0 < fits < 4.8


def test_a_plan_of_nothing_takes_no_time() -> None:
    plan = make_plan(WORKSPACE, [], HypotestRequest(), limits=LIMITS, staged=True)
    assert plan == ([], 0, 0, 0, 0)


def test_long_fits_make_small_tasks() -> None:
    plan = make_plan(
        WORKSPACE,
        _hypotheses([0] * 80),
        HypotestRequest(),
        limits=LIMITS,
        staged=True,
        bounds=Bounds(seconds=1e-9),
    )
    assert {len(task.hypotheses) for task in plan.tasks} == {1}


def test_the_estimate_grows_with_parameters_and_signal_strengths() -> None:
    assert free_parameters(WORKSPACE) == 4
    for engine, rise in (("pyhf", 2.0), ("kernel", 1.4)):
        options = EngineOptions(engine=engine)
        one, two = (
            seconds_per_hypothesis(WORKSPACE, HypotestRequest(mu=mu, engine=options))
            for mu in ((1.0,), (1.0, 2.0))
        )
        assert two == pytest.approx(rise * one)


def test_the_kernel_is_estimated_faster_at_everything() -> None:
    for kind in (HypotestRequest, LimitRequest, FitRequest, RankingRequest):
        kernel, pyhf = (
            seconds_per_hypothesis(WORKSPACE, kind(engine=EngineOptions(engine=engine)))
            for engine in ("kernel", "pyhf")
        )
        assert 0 < kernel < pyhf / 50
