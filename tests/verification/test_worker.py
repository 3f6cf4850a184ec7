"""What the worker does with results that are to be verified."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

import fitserve_worker
from fitserve_contract import (
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
from fitserve_worker import verification
from fitserve_worker.engines import pyhf_engine, pyhf_hypotest
from fitserve_worker.engines.base import Work
from fitserve_worker.engines.models import build
from fitserve_worker.engines.pyhf_hypotest import Evaluation, evaluate
from fitserve_worker.kernel.asymptotics import asymptotic_cls
from fitserve_worker.verification import TOLERANCE, Minima

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


KERNEL = EngineOptions(engine="kernel")


def _run(task: Task, **changes: object) -> dict[str, HypothesisResult]:
    answer = decode_result(
        fitserve_worker.run(encode_task(msgspec.structs.replace(task, **changes)))
    )
    return {result.name: result for result in answer.results}


def _verified(
    task: Task,
    names: Sequence[str],
    change: Callable[[HypothesisResult], HypothesisResult] = lambda result: result,
    *,
    doubted: Sequence[str] = (),
    **changes: object,
) -> dict[str, HypothesisResult]:
    """Return the answer to a task that verifies what was found, or something else."""
    results = _run(task, **changes)
    return _run(
        task,
        hypotheses=[one for one in task.hypotheses if one.name in names],
        verify=[change(results[name]) for name in names],
        doubted=list(doubted),
        **changes,
    )


def _off(error: float) -> Callable[[HypothesisResult], HypothesisResult]:
    """Return a function that makes a result wrong: its CLs is too large by an amount."""

    def change(result: HypothesisResult) -> HypothesisResult:
        first = result.points[0]
        off = msgspec.structs.replace(first, CLs_obs=first.CLs_obs + error)
        return msgspec.structs.replace(
            result, CLs_obs=off.CLs_obs, points=[off, *result.points[1:]], engine="kernel"
        )

    return change


def test_what_is_verified_is_not_fitted_again_and_every_number_stays(task: Task) -> None:
    plain = _run(task)
    results = _verified(task, ["S_200", "S_400"])
    assert set(results) == {"S_200", "S_400"}
    for name, one in results.items():
        assert msgspec.structs.replace(
            one, verification=None, fit_time=0, setup_time=0, attempts=[]
        ) == msgspec.structs.replace(plain[name], fit_time=0, setup_time=0, attempts=[])
    second = results["S_200"].verification
    assert second.largest == second.wrong_by <= TOLERANCE
    assert second.seconds > 0
    assert (second.reason, second.above) == (None, None)
    assert [point.mu for point in second.points] == [1.0]
    assert second.points[0].CLs_obs == pytest.approx(results["S_200"].CLs_obs, abs=TOLERANCE)


def test_the_kernel_is_verified_with_the_optimizer_of_the_request(task: Task) -> None:
    result = _verified(task, ["S_300"], request=HypotestRequest(engine=KERNEL))["S_300"]
    assert result.engine == "kernel"
    assert result.verification.engine == "pyhf/numpy/scipy"
    assert result.verification.largest <= TOLERANCE


@pytest.mark.parametrize("optimizer", ["scipy", "minuit"])
def test_what_is_doubted_is_verified_with_minuit(task: Task, optimizer: str) -> None:
    request = HypotestRequest(engine=EngineOptions(engine="kernel", optimizer=optimizer))
    both = ["S_300", "S_400"]
    results = _verified(task, both, doubted=["S_300"], request=request)
    engines = [results[name].verification.engine for name in both]
    assert engines == ["pyhf/numpy/minuit", f"pyhf/numpy/{optimizer}"]


@pytest.mark.parametrize(("optimizer", "other"), [("scipy", "minuit"), ("minuit", "scipy")])
def test_pyhf_is_verified_with_its_other_optimizer(task: Task, optimizer: str, other: str) -> None:
    request = HypotestRequest(engine=EngineOptions(engine="pyhf", optimizer=optimizer))
    result = _verified(task, ["S_300"], request=request)["S_300"]
    assert (result.engine, result.verification.engine) == (
        f"pyhf/numpy/{optimizer}",
        f"pyhf/numpy/{other}",
    )


@pytest.mark.parametrize(("error", "status"), [(0.5e-4, "ok"), (3e-4, "suspect")])
def test_a_wrong_cls_is_suspect_and_both_values_are_reported(
    task: Task, error: float, status: str
) -> None:
    request = HypotestRequest(mu=(1.0, 0.5), engine=KERNEL)
    right = _run(task, request=request)["S_400"]
    result = _verified(task, ["S_400"], _off(error), request=request)["S_400"]
    assert result.verification.largest == pytest.approx(error, abs=2e-5)
    assert result.verification.wrong_by == pytest.approx(error, abs=2e-5)
    assert result.status == status
    # The number stays as it was found, with pyhf's beside it.
    assert result.CLs_obs == pytest.approx(right.CLs_obs + error)
    assert [point.status for point in result.points] == [status, "ok"]
    if status == "suspect":
        assert f"{result.CLs_obs:.6g}" in result.reason
        assert f"{result.verification.points[0].CLs_obs:.6g}" in result.reason
    else:
        assert result.reason is None


def _stopped(free: float, held: float) -> Callable[..., Evaluation]:
    """Return pyhf's evaluation with fits that stopped above their minima by so much."""

    def evaluated(*arguments: object, **options: object) -> Evaluation:
        right = evaluate(*arguments, **options)
        q = right.twice_delta_nll + held - free
        cls = asymptotic_cls(np.array([max(q, 0.0)]), np.array([right.q_asimov]), "qtilde")
        return right._replace(
            CLs_obs=float(cls.observed[0]),
            twice_nll=right.twice_nll + free,
            twice_delta_nll=q,
            problems=[],
        )

    return evaluated


@pytest.mark.parametrize(("free", "held", "fit"), [(0.3, 0, "the free fit"), (0, 0.2, "mu = 1")])
def test_a_higher_minimum_of_pyhf_says_nothing_against_a_result(
    task: Task, monkeypatch: pytest.MonkeyPatch, free: float, held: float, fit: str
) -> None:
    for module in (pyhf_engine, pyhf_hypotest):
        monkeypatch.setattr(module, "evaluate", _stopped(free, held))
    request = HypotestRequest(engine=KERNEL)
    result = _verified(task, ["S_200"], request=request)["S_200"]
    second = result.verification
    assert (result.status, result.reason) == ("ok", None)
    assert second.largest > 5 * TOLERANCE
    assert second.wrong_by < TOLERANCE
    assert f"{fit} " in second.above
    assert f"{result.twice_nll + free:.3f}, ours {result.twice_nll:.3f}" in second.above or not free


def _above(free: float, held: float) -> Callable[[HypothesisResult], HypothesisResult]:
    """Return a function that gives a result fits that stopped above their minima by so much."""

    def change(result: HypothesisResult) -> HypothesisResult:
        (point,) = result.points
        q = max(0.0, point.twice_delta_nll + held - free)
        cls = asymptotic_cls(np.array([q]), np.array([point.q_asimov]), "qtilde")
        wrong = msgspec.structs.replace(point, CLs_obs=float(cls.observed[0]), twice_delta_nll=q)
        return msgspec.structs.replace(
            result,
            CLs_obs=wrong.CLs_obs,
            points=[wrong],
            twice_nll=result.twice_nll + free,
        )

    return change


@pytest.mark.parametrize(("free", "held", "fit"), [(0.3, 0, "the free fit"), (0, 0.2, "mu = 1")])
def test_a_lower_minimum_of_pyhf_makes_a_result_suspect(
    task: Task, free: float, held: float, fit: str
) -> None:
    request = HypotestRequest(engine=KERNEL)

    result = _verified(task, ["S_200"], _above(free, held), request=request)["S_200"]
    assert result.status == "suspect"
    assert "which has the lower minimum" in result.reason
    assert f"{fit} " in result.reason
    assert result.verification.wrong_by == pytest.approx(result.verification.largest, abs=1e-4)
    assert result.verification.above is None


@pytest.mark.parametrize(("seen", "counts"), [(0.2, False), (0.1, True)])
def test_a_lower_minimum_with_negative_samples_that_the_kernel_saw_does_not_count(
    task: Task, seen: float, *, counts: bool
) -> None:
    request = HypotestRequest(engine=KERNEL)
    above = _above(0, 0.2)

    def change(result: HypothesisResult) -> HypothesisResult:
        diagnostics = {**result.diagnostics, "negative_minimum": seen}
        return msgspec.structs.replace(above(result), diagnostics=diagnostics)

    outcome = _verified(task, ["S_200"], change, request=request)["S_200"]
    assert outcome.status == ("suspect" if counts else "ok")
    text = outcome.verification.above
    assert text is None if counts else "samples expect negative events: with mu = 1" in text


@pytest.mark.parametrize(("free", "held"), [(0.3, 0), (0, 0.2)])
def test_pyhf_looks_elsewhere_where_it_agrees_from_its_own_start(
    task: Task, monkeypatch: pytest.MonkeyPatch, free: float, held: float
) -> None:
    """Two that end in the same wrong minimum prove nothing."""
    monkeypatch.setattr(pyhf_engine, "evaluate", _stopped(free, held))
    request = HypotestRequest(engine=KERNEL)
    right = _run(task, request=request)["S_200"]
    result = _verified(task, ["S_200"], _above(free, held), request=request)["S_200"]
    assert result.status == "suspect"
    assert "which has the lower minimum" in result.reason
    second = result.verification.points[0]
    assert second.CLs_obs == pytest.approx(right.CLs_obs, abs=1e-6)
    assert second.twice_delta_nll == pytest.approx(right.points[0].twice_delta_nll, abs=1e-5)


def test_the_starts_elsewhere_are_within_bounds_and_move_all_that_is_constrained(
    task: Task,
) -> None:
    work = Work("0" * 64, task.workspace, task.hypotheses, task.request, "0" * 64)
    built = build(work, task.hypotheses[0].patch)
    starts = np.array(list(pyhf_hypotest._starts(built, 3)))
    config = built.model.config
    low, high = np.array(config.suggested_bounds()).T
    assert starts.shape == (3, len(low))
    assert ((low <= starts) & (starts <= high)).all()
    moved = starts != np.array(config.suggested_init())
    poi = config.poi_index
    assert np.delete(moved, poi, axis=1).all()
    assert moved[:, poi].tolist() == [False, False, True]
    again = np.array(list(pyhf_hypotest._starts(built, 3)))
    assert (again == starts).all()


def test_a_second_minimum_of_the_background_is_judged_by_the_lower_one(task: Task) -> None:
    """The Asimov data, and so every expected CLs, are those of the fit without signal."""

    def change(result: HypothesisResult) -> HypothesisResult:
        (point,) = result.points
        q_asimov = 1.3 * point.q_asimov
        q = point.twice_delta_nll
        cls = asymptotic_cls(np.array([q]), np.array([q_asimov]), "qtilde")
        wrong = msgspec.structs.replace(
            point,
            CLs_obs=float(cls.observed[0]),
            CLs_exp=cls.expected[0].tolist(),
            q_asimov=q_asimov,
        )
        return msgspec.structs.replace(
            result, points=[wrong], twice_nll_background=result.twice_nll_background + above
        )

    request = HypotestRequest(engine=KERNEL)
    above = 0.5
    outcome = _verified(task, ["S_200"], change, request=request)["S_200"]
    assert outcome.status == "suspect"
    assert "without signal" in outcome.reason
    above = -0.5
    outcome = _verified(task, ["S_200"], change, request=request)["S_200"]
    assert outcome.status == "ok"
    assert "without signal" in outcome.verification.above


@pytest.mark.parametrize("engine", ["kernel", "pyhf"])
def test_the_minima_of_every_fit_are_reported(task: Task, engine: str) -> None:
    strengths = (0.5, 1.0)
    for request in (
        HypotestRequest(mu=strengths, engine=EngineOptions(engine=engine)),
        ScanRequest(mu=strengths, engine=EngineOptions(engine=engine)),
    ):
        result = _run(task, request=request)["S_200"]
        for point in result.points:
            cls = asymptotic_cls(
                np.array([point.twice_delta_nll]), np.array([point.q_asimov]), "qtilde"
            )
            assert cls.expected[0] == pytest.approx(point.CLs_exp, abs=1e-6)
            assert cls.observed[0] == pytest.approx(point.CLs_obs, abs=1e-6)
        null = _run(task, request=ScanRequest(mu=(0.0,), engine=EngineOptions(engine="kernel")))[
            "S_200"
        ]
        held = null.twice_nll + null.points[0].twice_delta_nll
        assert result.twice_nll_background == pytest.approx(held, abs=1e-6)


def test_where_pyhf_has_no_number_the_result_stays_and_says_so(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("a singular matrix")

    monkeypatch.setattr(pyhf_engine, "evaluate", broken)
    request = HypotestRequest(engine=KERNEL)
    result = _verified(task, ["S_200"], request=request)["S_200"]
    assert (result.status, result.engine) == ("ok", "kernel")
    assert result.verification.largest is None
    assert result.verification.wrong_by is None
    assert "a singular matrix" in result.verification.reason


def test_a_limit_is_verified_where_it_is_decided(task: Task) -> None:
    result = _verified(task, ["S_200"], request=LimitRequest())["S_200"]
    strengths = [point.mu for point in result.verification.points]
    assert strengths[0] == 1.0
    near = min(strengths, key=lambda mu: abs(mu - result.limit.observed))
    assert near == pytest.approx(result.limit.observed, rel=1e-2)
    assert result.verification.largest <= TOLERANCE
    at = {point.mu: point.CLs_obs for point in result.verification.points}
    assert at[near] == pytest.approx(0.05, abs=5e-3)


def test_a_scan_is_verified_where_it_has_cls(task: Task) -> None:
    request = ScanRequest(mu=(-0.5, 0.0, 0.5, 1.0))
    below = {"name": "mu", "bounds": [[-2.0, 10.0]]}
    config = {"poi": "mu", "parameters": [below]}
    workspace = {**(task.workspace or {}), "measurements": [{"name": "main", "config": config}]}
    changes = {"workspace": workspace, "workspace_digest": digest(workspace)}
    result = _verified(task, ["S_300"], request=request, **changes)["S_300"]
    assert [point.mu for point in result.verification.points] == [0.5, 1.0]
    assert result.verification.largest <= TOLERANCE


def test_a_fit_has_nothing_to_verify(task: Task) -> None:
    result = _verified(task, ["S_300"], request=FitRequest())["S_300"]
    assert (result.status, result.verification) == ("ok", None)


def test_a_verification_that_breaks_costs_no_result(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of paper")

    monkeypatch.setattr(verification, "_by_pyhf", broken)
    results = _verified(task, ["S_400", "S_500"])
    assert [one.status for one in results.values()] == ["ok", "ok"]
    assert "out of paper" in results["S_500"].verification.reason


@pytest.mark.parametrize(
    ("background", "q_asimov", "kept"),
    [
        (0.0, 1.0001, 1.0004),  # the same Asimov data, but for what minima scatter
        (0.0, 0.9, 0.9),  # the same ones, and a held fit that stopped above its minimum
        (-0.1, 2.0, 2.0),  # others: those of the lower minimum count
        (0.1, 0.5, 1.0004),
    ],
)
def test_asimov_data_are_those_of_the_lower_minimum(
    background: float, q_asimov: float, kept: float
) -> None:
    ours = Minima(free=1.0, held=2.0, background=3.0, q_asimov=1.0004, muhat=0.5)
    theirs = ours._replace(background=3.0 + background, q_asimov=q_asimov)
    assert ours.lower(theirs).q_asimov == kept
