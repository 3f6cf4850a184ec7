"""Where every task carries the workspace, a plan keeps the bytes of a run in bounds."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from fitserve.endpoints.base import Limits
from fitserve.runs.plan import Bounds, encode_planned, make_plan
from fitserve_contract import EngineOptions, HypotestRequest, Hypothesis

if TYPE_CHECKING:
    from pathlib import Path

REQUEST = HypotestRequest(engine=EngineOptions(engine="pyhf"))


def _workspace(bins: int) -> dict:
    noise = random.Random(1)  # noqa: S311 - only to be hard to compress
    data = [noise.random() for _ in range(bins)]
    modifiers = [{"name": "norm", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9}}]
    return {
        "channels": [
            {"name": "SR", "samples": [{"name": "b", "data": data, "modifiers": modifiers}]}
        ],
        "observations": [{"name": "SR", "data": data}],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }


def _hypotheses(number: int) -> list[Hypothesis]:
    noise = random.Random(2)  # noqa: S311
    return [
        Hypothesis(
            name=f"h{one}",
            values=(float(one),),
            patch=[{"op": "add", "path": "/x", "value": [noise.random() for _ in range(900)]}],
        )
        for one in range(number)
    ]


def _limits(workers: int, seconds: float | None = None) -> Limits:
    return Limits(task_bytes=10**7, outstanding=100, workers=workers, task_seconds=seconds)


def test_a_large_workspace_is_sent_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fitserve.runs.plan.seconds_per_hypothesis", lambda *_: 0.05)
    workspace, hypotheses = _workspace(20_000), _hypotheses(64)
    plans = {
        staged: make_plan(workspace, hypotheses, REQUEST, limits=_limits(4), staged=staged)
        for staged in (True, False)
    }
    assert len(plans[True].tasks) == 8
    assert len(plans[False].tasks) < 8
    assert [one for task in plans[False].tasks for one in task.hypotheses] == hypotheses


def test_a_small_workspace_is_sent_as_often_as_helps() -> None:
    staged, sent = (
        make_plan(_workspace(5), _hypotheses(64), REQUEST, limits=_limits(4), staged=staged)
        for staged in (True, False)
    )
    assert len(sent.tasks) == len(staged.tasks) >= 4


def test_a_worker_with_much_to_do_is_worth_a_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fitserve.runs.plan.seconds_per_hypothesis", lambda *_: 20.0)
    workspace, hypotheses = _workspace(20_000), _hypotheses(64)
    plan = make_plan(workspace, hypotheses, REQUEST, limits=_limits(32), staged=False)
    assert len(plan.tasks) == 32


def test_the_longest_task_of_a_site_is_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fitserve.runs.plan.seconds_per_hypothesis", lambda *_: 20.0)
    workspace, hypotheses = _workspace(20_000), _hypotheses(64)
    plan = make_plan(workspace, hypotheses, REQUEST, limits=_limits(2, 100.0), staged=False)
    assert max(task.seconds for task in plan.tasks) == 100.0
    asked = make_plan(
        workspace,
        hypotheses,
        REQUEST,
        limits=_limits(2, 100.0),
        staged=False,
        bounds=Bounds(seconds=45.0),
    )
    assert max(task.seconds for task in asked.tasks) == 40.0


@pytest.mark.published
@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_1lbb_takes_no_more_than_2_63_mb(workers: int, shared: Path) -> None:
    from fitserve.pallet.load import load_pallet

    pallet = load_pallet(shared / "pallets" / "1Lbb.tar.xz")
    plan = make_plan(
        pallet.workspace,
        pallet.hypotheses,
        HypotestRequest(),
        limits=_limits(workers),
        staged=False,
    )
    sent = sum(
        len(encode_planned(task.hypotheses, "a" * 64, pallet.workspace, HypotestRequest()))
        for task in plan.tasks
    )
    assert sent <= 2_630_000
    assert len(pallet.hypotheses) == 125
