"""What becomes of an answer that the kernel doubts, beside pyhf's with Minuit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from fitserve_contract import (
    KERNEL_DOUBT,
    NOT_FOR_THE_KERNEL,
    EngineOptions,
    FitAnswer,
    HypotestRequest,
    HypothesisResult,
    LimitRequest,
    MuPoint,
    Task,
    ToysRequest,
    UpperLimits,
    request_digest,
)
from fitserve_worker.engines import answers, kernel_engine, kernel_toys
from fitserve_worker.engines import kernel_hypotest as tested_module
from fitserve_worker.engines.base import Work
from fitserve_worker.engines.opinions import weighed
from fitserve_worker.engines.pyhf_engine import PyhfEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

KERNEL = EngineOptions(engine="kernel")
EXPECTED = [0.01, 0.04, 0.1, 0.3, 0.6]


def _answer(engine: str, reason: str | None, *cls: float | None, **more: Any) -> HypothesisResult:
    """Return an answer with an observed CLs at 1 and, if there is one, at 2."""
    status = "ok" if reason is None else "suspect"
    points = [
        MuPoint(
            mu=mu,
            CLs_obs=value,
            CLs_exp=[None] * 5 if value is None else EXPECTED,
            status=status,
            reason=reason,
        )
        for mu, value in zip((1.0, 2.0), cls, strict=False)
    ]
    fields = {
        "name": "S",
        "key": "k",
        "mass_hypotheses": (1.0,),
        "status": status,
        "reason": reason,
        "CLs_obs": points[0].CLs_obs if points else None,
        "CLs_exp": points[0].CLs_exp if points else [None] * 5,
        "fit_time": 1.0,
        "setup_time": 0.5,
        "engine": engine,
        "points": points,
    }
    return HypothesisResult(**{**fields, **more})


def _limits(observed: float | None) -> UpperLimits:
    return UpperLimits(level=0.95, observed=observed, expected=[None, None, 1.5, None, None])


def test_where_pyhf_agrees_its_answer_holds() -> None:
    result = weighed(_answer("kernel", "odd", 0.2, 0.05), _answer("pyhf", None, 0.2004, 0.0501))
    assert (result.status, result.reason, result.engine, result.CLs_obs) == (
        "ok",
        None,
        "pyhf",
        0.2004,
    )
    assert result.diagnostics == {KERNEL_DOUBT: "odd", "kernel CLs_obs": 0.2}
    assert (result.fit_time, result.setup_time) == (2.0, 1.0)
    assert [point.status for point in result.points] == ["ok", "ok"]


def test_where_pyhf_disagrees_both_values_are_reported_and_the_point_is_marked() -> None:
    result = weighed(_answer("kernel", "odd", 0.2, 0.05), _answer("pyhf", None, 0.2, 0.75))
    assert (result.status, result.engine) == ("suspect", "pyhf")
    assert result.reason == "the kernel finds CLs 0.05 (odd), pyhf 0.75"
    assert [point.status for point in result.points] == ["ok", "suspect"]
    assert result.points[1].reason == result.reason


@pytest.mark.parametrize("theirs", [0.2, 0.3])
def test_where_pyhf_is_doubted_too_both_values_and_reasons_are_reported(theirs: float) -> None:
    result = weighed(_answer("kernel", "odd", 0.2), _answer("pyhf", "stopped early", theirs))
    assert (result.status, result.engine, result.CLs_obs) == ("suspect", "pyhf", theirs)
    for text in ("0.2", "(odd)", f"{theirs:g}", "(stopped early)"):
        assert text in result.reason
    assert result.diagnostics[KERNEL_DOUBT] == "odd"


def test_where_pyhf_fails_the_kernel_s_number_is_kept_but_never_as_a_plain_one() -> None:
    broken = _answer("none", "KeyError: 'x'", status="failed")
    result = weighed(_answer("kernel", "odd", 0.2), broken)
    assert (result.status, result.engine, result.CLs_obs) == ("suspect", "kernel", 0.2)
    assert result.reason == "odd; pyhf has no number: KeyError: 'x'"
    assert [point.status for point in result.points] == ["suspect"]


def test_where_nobody_has_a_number_the_answer_has_failed() -> None:
    broken = _answer("none", "the fit broke", status="failed")
    result = weighed(_answer("kernel", "a result is not a finite number", None), broken)
    assert (result.status, result.CLs_obs) == ("failed", None)
    assert result.reason == "a result is not a finite number; pyhf has no number: the fit broke"


def test_where_only_pyhf_has_a_number_its_doubt_stays() -> None:
    result = weighed(_answer("kernel", "no number", None), _answer("pyhf", "stopped early", 0.3))
    assert (result.status, result.CLs_obs) == ("suspect", 0.3)
    assert result.reason == "the kernel has no number (no number), pyhf: stopped early"
    plain = weighed(_answer("kernel", "no number", None), _answer("pyhf", None, 0.3))
    assert (plain.status, plain.reason) == ("ok", None)


def test_limits_and_minima_are_compared_by_what_they_are() -> None:
    ours = _answer("kernel", "odd", 0.2, limit=_limits(1.4))
    # Where each engine looked for limits CLs is of different signal strengths.
    theirs = _answer("pyhf", None, 0.2, 0.9, limit=_limits(1.4001))
    assert weighed(ours, theirs).status == "ok"
    apart = weighed(ours, msgspec.structs.replace(theirs, limit=_limits(1.5)))
    assert apart.reason == "the kernel finds limit 1.4 (odd), pyhf 1.5"
    kept = weighed(ours, _answer("none", "broken", status="failed"))
    assert (kept.status, kept.limit) == ("suspect", ours.limit)
    fit = FitAnswer(poi="mu", parameters=[], correlations={}, channels=[])
    ours, theirs = (
        _answer(engine, reason, fit=fit, twice_nll=value)
        for engine, reason, value in (("kernel", "odd", 100.0), ("pyhf", None, 100.01))
    )
    # The lower minimum is the right one, whoever found it.
    kept = weighed(ours, theirs)
    assert (kept.status, kept.engine, kept.twice_nll) == ("suspect", "kernel", 100.0)
    assert kept.reason == "odd; pyhf's minimum of -2 log L is 0.01 higher"
    lower = weighed(ours, msgspec.structs.replace(theirs, twice_nll=99.99))
    assert (lower.status, lower.engine, lower.twice_nll) == ("suspect", "pyhf", 99.99)
    assert "-2 log L 100 (odd), pyhf 99.99" in lower.reason


def _work(task: Task, request: Any) -> Work:
    return Work(
        task.workspace_digest,
        task.workspace,
        task.hypotheses[2:4],
        request,
        request_digest(request),
    )


@pytest.fixture
def doubtful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the kernel doubt all its tests, whose numbers are as good as ever."""
    monkeypatch.setattr(tested_module, "doubts", lambda *_: ["is odd"])


@pytest.mark.usefixtures("doubtful")
@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_the_second_opinion_is_pyhf_with_minuit(task: Task, backend: str) -> None:
    engine = EngineOptions(engine="kernel", backend=backend)
    for result in answers(_work(task, HypotestRequest(engine=engine))):
        assert (result.status, result.engine) == ("ok", f"pyhf/{backend}/minuit")
        assert [one.engine for one in result.attempts] == ["kernel", "minuit, tight"]
        assert "the fit with background is odd" in result.diagnostics[KERNEL_DOUBT]
        assert NOT_FOR_THE_KERNEL not in result.diagnostics


def _patched(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[int]:
    """Have pyhf test otherwise than it does; returns a list with one entry for each test."""
    real, calls = PyhfEngine.answers, []

    def other(self: PyhfEngine, work: Work) -> Iterator[HypothesisResult]:
        tested = isinstance(work.request, HypotestRequest)
        for result in real(self, work):
            if tested:
                calls.append(len(calls))
            yield msgspec.structs.replace(result, **changes) if tested else result

    monkeypatch.setattr(PyhfEngine, "answers", other)
    return calls


@pytest.mark.usefixtures("doubtful")
def test_a_kernel_s_number_survives_a_pyhf_that_fails(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = {"CLs_obs": None, "CLs_exp": [None] * 5, "points": []}
    _patched(monkeypatch, status="failed", reason="it broke", **none)
    for result in answers(_work(task, HypotestRequest(engine=KERNEL))):
        assert (result.status, result.engine) == ("suspect", "kernel")
        assert result.reason.endswith("pyhf has no number: it broke")
        assert None not in (result.CLs_obs, *result.CLs_exp)


def _toys(task: Task, toys: int = 4) -> list[HypothesisResult]:
    kernel_toys._opinions.clear()
    request = ToysRequest(toys=toys, engine=KERNEL)
    return [one for _ in range(2) for one in answers(_work(task, request))]


@pytest.mark.usefixtures("doubtful")
def test_toys_whose_observed_fits_are_doubted_get_one_second_opinion(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _patched(monkeypatch)
    result = _toys(task)
    assert len(result) == 4
    # The second part of the toys of a hypothesis uses the opinion that the first one got.
    assert len(calls) == 2
    for one in result:
        assert (one.status, one.reason, one.engine) == ("ok", None, "kernel")
        assert "is odd" in one.diagnostics[KERNEL_DOUBT]
        assert one.diagnostics["converged"]
        assert [attempt.engine for attempt in one.attempts] == ["kernel", "minuit, tight"]
        assert len(one.toy_values.signal) == 4 * 4


@pytest.mark.usefixtures("doubtful")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {
                "CLs_obs": 0.9,
                "points": [MuPoint(mu=1.0, CLs_obs=0.9, CLs_exp=EXPECTED)],
            },
            "is odd), pyhf 0.",
        ),
        ({"status": "suspect", "reason": "stopped early"}, "(stopped early)"),
        ({"status": "failed", "reason": "it broke", "points": []}, "pyhf has no number: it broke"),
    ],
    ids=["disagrees", "is suspect", "fails"],
)
def test_toys_of_which_pyhf_thinks_otherwise_are_suspect(
    task: Task, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], reason: str
) -> None:
    _patched(monkeypatch, **changes)
    for one in _toys(task)[:2]:
        assert (one.status, one.engine) == ("suspect", "kernel")
        assert reason in one.reason
        assert one.toy_values is not None


def test_toys_of_data_that_the_kernel_cannot_fit_are_pyhf_s(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = kernel_toys.hypotest

    def broken(*arguments: object) -> Any:
        tests = real(*arguments)
        return tests._replace(q=np.full_like(tests.q, np.nan))

    monkeypatch.setattr(kernel_toys, "hypotest", broken)
    for one in _toys(task, toys=2)[:2]:
        assert one.engine == "pyhf/numpy/minuit"
        assert "cannot be fitted" in one.diagnostics[KERNEL_DOUBT]
        assert len(one.toy_values.signal) == 2 * 4


def test_what_auto_gives_to_pyhf_has_its_reason(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    (usual, _) = answers(_work(task, HypotestRequest()))
    assert usual.engine == "kernel"
    (requested, _) = answers(_work(task, HypotestRequest(engine=EngineOptions(engine="pyhf"))))
    assert NOT_FOR_THE_KERNEL not in requested.diagnostics

    # As if the kernel had no limits.
    monkeypatch.delitem(kernel_engine._ANSWERS, LimitRequest)
    (result, _) = answers(_work(task, LimitRequest(engine=KERNEL)))
    assert result.engine.startswith("pyhf")
    assert result.diagnostics[NOT_FOR_THE_KERNEL] == "it does not answer a limit request"
