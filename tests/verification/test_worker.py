"""What the worker does with hypotheses that are to be verified."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

import fitserve_worker
from fitserve.contract import (
    EngineOptions,
    FitRequest,
    HypotestRequest,
    HypothesisResult,
    LimitRequest,
    ScanRequest,
    Task,
    decode_result,
    digest,
    encode_task,
)
from fitserve_worker import entry, verification
from fitserve_worker.engines import pyhf_reference
from fitserve_worker.engines.pyhf_reference import PyhfEngine
from fitserve_worker.verification import TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fitserve_worker.engines.base import Work


def _run(task: Task, **changes: object) -> dict[str, HypothesisResult]:
    answer = decode_result(
        fitserve_worker.run(encode_task(msgspec.structs.replace(task, **changes)))
    )
    return {result.name: result for result in answer.results}


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return a function that makes an engine wrong: its CLs are too large by an amount."""

    def plant(error: float) -> None:
        def wrong(work: Work) -> Iterator[HypothesisResult]:
            for result in PyhfEngine(work.request.engine).hypotest(work):
                first = result.points[0]
                off = msgspec.structs.replace(first, CLs_obs=first.CLs_obs + error)
                yield msgspec.structs.replace(
                    result,
                    CLs_obs=off.CLs_obs,
                    points=[off, *result.points[1:]],
                    engine="kernel",
                )

        monkeypatch.setattr(entry, "answers", wrong)

    return plant


def test_only_what_is_named_is_verified_and_the_rest_of_the_answer_is_the_same(task: Task) -> None:
    plain = _run(task)
    found = _run(task, verify=["S_200", "S_400"])
    assert {name for name, one in found.items() if one.verification} == {"S_200", "S_400"}
    for name, one in found.items():
        assert (one.key, one.status) == (plain[name].key, "ok")
        assert one.points == plain[name].points
    second = found["S_200"].verification
    assert second.largest <= TOLERANCE
    assert second.seconds > 0
    assert second.reason is None
    assert [point.mu for point in second.points] == [1.0]
    assert second.points[0].CLs_obs == pytest.approx(found["S_200"].CLs_obs, abs=TOLERANCE)


def test_the_kernel_is_verified_with_the_optimizer_of_the_request(task: Task) -> None:
    request = HypotestRequest(engine=EngineOptions(engine="kernel"))
    found = _run(task, request=request, verify=["S_300"])["S_300"]
    assert found.engine == "kernel"
    assert found.verification.engine == "pyhf/numpy/scipy"
    assert found.verification.largest <= TOLERANCE


@pytest.mark.parametrize("optimizer", ["scipy", "minuit"])
def test_what_is_doubted_is_verified_with_minuit(task: Task, optimizer: str) -> None:
    request = HypotestRequest(engine=EngineOptions(engine="kernel", optimizer=optimizer))
    both = ["S_300", "S_400"]
    found = _run(task, request=request, verify=both, doubted=["S_300"])
    told = [found[name].verification.engine for name in both]
    assert told == ["pyhf/numpy/minuit", f"pyhf/numpy/{optimizer}"]


@pytest.mark.parametrize(("optimizer", "other"), [("scipy", "minuit"), ("minuit", "scipy")])
def test_pyhf_is_verified_with_its_other_optimizer(task: Task, optimizer: str, other: str) -> None:
    request = HypotestRequest(engine=EngineOptions(engine="pyhf", optimizer=optimizer))
    found = _run(task, request=request, verify=["S_300"])["S_300"]
    assert (found.engine, found.verification.engine) == (
        f"pyhf/numpy/{optimizer}",
        f"pyhf/numpy/{other}",
    )


@pytest.mark.parametrize(("error", "status"), [(0.5e-4, "ok"), (3e-4, "suspect")])
def test_a_wrong_cls_is_suspect_and_both_values_are_told(
    task: Task, planted: Callable[[float], None], error: float, status: str
) -> None:
    request = HypotestRequest(mu=(1.0, 0.5))
    right = _run(task, request=request)["S_400"]
    planted(error)
    found = _run(task, request=request, verify=["S_400"])["S_400"]
    assert found.verification.largest == pytest.approx(error, abs=2e-5)
    assert found.status == status
    # The number stays as it was found, with pyhf's beside it.
    assert found.CLs_obs == pytest.approx(right.CLs_obs + error)
    assert [point.status for point in found.points] == [status, "ok"]
    if status == "suspect":
        assert f"{found.CLs_obs:.6g}" in found.reason
        assert f"{found.verification.points[0].CLs_obs:.6g}" in found.reason
    else:
        assert found.reason is None


def test_where_pyhf_has_no_number_the_result_stays_and_says_so(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("a singular matrix")

    right = _run(task)["S_200"]
    monkeypatch.setattr(entry, "answers", lambda _: iter([right]))
    monkeypatch.setattr(pyhf_reference, "evaluate", broken)
    found = _run(task, hypotheses=[task.hypotheses[1]], verify=["S_200"])["S_200"]
    assert (found.status, found.CLs_obs) == ("ok", right.CLs_obs)
    assert found.verification.largest is None
    assert "a singular matrix" in found.verification.reason


def test_a_limit_is_verified_where_it_is_decided(task: Task) -> None:
    found = _run(task, request=LimitRequest(), verify=["S_200"])["S_200"]
    strengths = [point.mu for point in found.verification.points]
    assert strengths[0] == 1.0
    near = min(strengths, key=lambda mu: abs(mu - found.limit.observed))
    assert near == pytest.approx(found.limit.observed, rel=1e-2)
    assert found.verification.largest <= TOLERANCE
    at = {point.mu: point.CLs_obs for point in found.verification.points}
    assert at[near] == pytest.approx(0.05, abs=5e-3)


def test_a_scan_is_verified_where_it_has_cls(task: Task) -> None:
    request = ScanRequest(mu=(-0.5, 0.0, 0.5, 1.0))
    below = {"name": "mu", "bounds": [[-2.0, 10.0]]}
    config = {"poi": "mu", "parameters": [below]}
    workspace = {**(task.workspace or {}), "measurements": [{"name": "main", "config": config}]}
    changes = {"workspace": workspace, "workspace_digest": digest(workspace)}
    found = _run(task, request=request, verify=["S_300"], **changes)["S_300"]
    assert [point.mu for point in found.verification.points] == [0.5, 1.0]
    assert found.verification.largest <= TOLERANCE


def test_a_fit_has_nothing_to_verify(task: Task) -> None:
    found = _run(task, request=FitRequest(), verify=["S_300"])["S_300"]
    assert (found.status, found.verification) == ("ok", None)


def test_a_verification_that_breaks_costs_no_other_hypothesis(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of paper")

    monkeypatch.setattr(verification, "_by_pyhf", broken)
    found = _run(task, verify=["S_500"])
    assert [one.status for one in found.values()].count("ok") == 4
    assert found["S_500"].status == "failed"
    assert "out of paper" in found["S_500"].reason
