"""Limits and scans of both engines, against pyhf and cabinetry."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import cabinetry
import msgspec
import numpy as np
import pyhf
import pytest
from scipy.special import ndtr, ndtri

from fitserve_contract import (
    EngineOptions,
    HypotestRequest,
    Hypothesis,
    LimitRequest,
    ModelOptions,
    ScanRequest,
    Task,
    decode_result,
    digest,
    encode_task,
)
from fitserve_worker import run
from fitserve_worker.engines import pyhf_engine
from fitserve_worker.engines.frames import NO_SIGNAL
from fitserve_worker.engines.limits import FLUCTUATIONS
from fitserve_worker.engines.pyhf_hypotest import Evaluation

if TYPE_CHECKING:
    from collections.abc import Callable

    from fitserve_contract import HypothesisResult

    Ask = Callable[..., HypothesisResult]


@pytest.fixture(scope="module", params=["pyhf", "kernel"])
def engine(request: pytest.FixtureRequest) -> EngineOptions:
    return EngineOptions(engine=request.param)


@pytest.fixture(scope="module")
def limited(ask: Ask, engine: EngineOptions) -> HypothesisResult:
    return ask(LimitRequest(engine=engine))


def test_limits_are_those_of_pyhf(limited: HypothesisResult, by_pyhf: list[float]) -> None:
    assert limited.status == "ok"
    assert (limited.limit.reasons, limited.limit.rescaled) == ({}, 1)
    assert _values(limited) == pytest.approx(by_pyhf, rel=1e-3)


@pytest.mark.slow
def test_limits_are_those_of_cabinetry(limited: HypothesisResult, model: tuple) -> None:
    made, data = model
    pyhf.set_backend("numpy", "scipy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = cabinetry.fit.limit(made, data, tolerance=1e-2)
    # cabinetry's limits are good to this tolerance of CLs.
    assert limited.limit.observed == pytest.approx(found.observed_limit, rel=2e-2)
    assert limited.limit.expected == pytest.approx(found.expected_limit.tolist(), rel=2e-2)


def test_every_evaluated_point_is_kept_and_the_first_is_at_one(
    limited: HypothesisResult, ask: Ask, engine: EngineOptions
) -> None:
    at_one = ask(HypotestRequest(engine=engine))
    assert limited.points[0].mu == 1.0
    assert limited.CLs_obs == limited.points[0].CLs_obs
    assert limited.CLs_obs == pytest.approx(at_one.CLs_obs, abs=1e-9)
    rest = [point.mu for point in limited.points[1:]]
    assert rest == sorted(set(rest))
    near = [p for p in limited.points if abs(p.mu / limited.limit.observed - 1) < 0.02]
    assert {p.CLs_obs < 0.05 for p in near} == {True, False}


def _values(found: HypothesisResult) -> list[float | None]:
    return [found.limit.observed, *found.limit.expected]


@pytest.fixture(scope="module")
def by_pyhf(model: tuple) -> list[float]:
    """Return pyhf's limits on the signal of size 1, which is any of another size by hand."""
    made, data = model
    pyhf.set_backend("numpy", "scipy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observed, expected = pyhf.infer.intervals.upper_limits.upper_limit(
            data, made, scan=None, level=0.05, rtol=1e-4
        )
    return [float(observed), *map(float, expected)]


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 0.02, 0.2, 30.0, 1e6])
def test_weak_and_strong_signals_are_rescaled(
    ask: Ask, engine: EngineOptions, by_pyhf: list[float], make_signal: Callable, scale: float
) -> None:
    found = ask(LimitRequest(engine=engine), make_signal(scale))
    assert (found.status, found.limit.reasons) == ("ok", {})
    assert _values(found) == pytest.approx([value / scale for value in by_pyhf], rel=1e-3)
    assert found.muhat == pytest.approx(0.72562 / scale, rel=1e-3)
    assert (found.limit.rescaled == 1) == (scale == 30)
    assert found.points[0].mu == 1.0
    mus = [point.mu for point in found.points]
    assert len(mus) == len(set(mus)) < 20
    near = [p for p in found.points if abs(p.mu / found.limit.observed - 1) < 0.02]
    assert {p.CLs_obs < 0.05 for p in near} == {True, False}


def test_cls_at_one_is_that_of_a_test_though_the_signal_is_rescaled(
    ask: Ask, engine: EngineOptions, make_signal: Callable
) -> None:
    weak = make_signal(0.05)
    found, test = ask(LimitRequest(engine=engine), weak), ask(HypotestRequest(engine=engine), weak)
    assert found.limit.rescaled > 1
    assert found.CLs_obs == pytest.approx(test.CLs_obs, abs=1e-4)
    assert found.CLs_exp == pytest.approx(test.CLs_exp, abs=1e-4)


def test_no_signal_has_no_limit_and_that_is_known_at_once(
    ask: Ask, engine: EngineOptions, make_signal: Callable
) -> None:
    found = ask(LimitRequest(engine=engine), make_signal(0.0))
    assert found.status == "ok"
    assert _values(found) == [None] * 6
    assert set(found.limit.reasons.values()) == {NO_SIGNAL}
    assert len(found.points) <= 3


def test_a_bound_of_the_user_stays(ask: Ask, engine: EngineOptions, make_signal: Callable) -> None:
    request = LimitRequest(engine=engine, model=ModelOptions(mu_max=20.0))
    found = ask(request, make_signal(0.02))
    assert (found.status, _values(found), found.limit.rescaled) == ("ok", [None] * 6, 1)
    assert found.limit.reasons["observed"].startswith("above the POI's bound of 20")
    assert max(point.mu for point in found.points) == 20


def test_systematics_may_take_limits_far_beyond_those_of_counting(
    ask: Ask, engine: EngineOptions
) -> None:
    """The signal is a thousandth of the background's uncertainty; there is one bin."""
    systematic = {"name": "norm", "type": "normsys", "data": {"lo": 0.5, "hi": 1.5}}
    background = {"name": "background", "data": [1e4], "modifiers": [systematic]}
    spec = {
        "channels": [{"name": "SR", "samples": [background]}],
        "observations": [{"name": "SR", "data": [1e4]}],
        "measurements": [{"name": "main", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }

    def patch(size: float) -> Hypothesis:
        modifiers = [{"name": "mu", "type": "normfactor", "data": None}]
        sample = {"name": "signal", "data": [size], "modifiers": modifiers}
        patch = [{"op": "add", "path": "/channels/0/samples/1", "value": sample}]
        return Hypothesis(name="S", values=(1.0,), patch=patch)

    weak = ask(LimitRequest(engine=engine), patch(5.0), spec)
    usual = ask(LimitRequest(engine=engine), patch(5e3), spec)
    assert (usual.limit.rescaled, usual.limit.reasons, weak.limit.reasons) == (1, {}, {})
    assert weak.limit.rescaled > 100
    assert _values(weak) == pytest.approx([1000 * value for value in _values(usual)], rel=1e-3)


@pytest.mark.parametrize("test_stat", ["qtilde", "q"])
def test_a_rescaled_signal_keeps_the_widths_of_a_staterror(
    ask: Ask, engine: EngineOptions, spec: dict, test_stat: str
) -> None:
    """To multiply the events of a signal that shares a staterror would change these."""
    modifiers = [
        {"name": "mu", "type": "normfactor", "data": None},
        {"name": "stat", "type": "staterror", "data": [4.0]},
    ]
    sample = {"name": "signal", "data": [0.8], "modifiers": modifiers}
    patch = [{"op": "add", "path": "/channels/1/samples/1", "value": sample}]
    hypothesis = Hypothesis(name="S", values=(1.0,), patch=patch)
    found = ask(LimitRequest(engine=engine, test_stat=test_stat), hypothesis, spec)
    wide = ModelOptions(mu_max=400.0)
    other = ask(LimitRequest(engine=engine, test_stat=test_stat, model=wide), hypothesis, spec)
    assert found.limit.rescaled > 1 == other.limit.rescaled
    assert (found.status, found.limit.reasons) == ("ok", {})
    assert _values(found) == pytest.approx(_values(other), rel=1e-3)


def test_a_signal_among_the_samples_that_all_share_has_limits_beyond_the_bound_too(
    ask: Ask, engine: EngineOptions, spec: dict, make_signal: Callable, by_pyhf: list[float]
) -> None:
    signal = make_signal(1e-3).patch[0]["value"]
    first, *others = spec["channels"]
    whole = {**spec, "channels": [{**first, "samples": [*first["samples"], signal]}, *others]}
    found = ask(LimitRequest(engine=engine), Hypothesis(name="S", values=(1.0,), patch=[]), whole)
    assert (found.status, found.limit.reasons) == ("ok", {})
    assert found.limit.rescaled > 1
    assert _values(found) == pytest.approx([1e3 * value for value in by_pyhf], rel=1e-3)


def test_many_hypotheses_are_each_rescaled_as_they_need_it(
    spec: dict, engine: EngineOptions, make_signal: Callable, by_pyhf: list[float]
) -> None:
    scales = [1.0, 1e-3, 0.0, 1e4, 0.3, 1e-7]
    task = Task(
        workspace_digest=digest(spec),
        workspace=spec,
        hypotheses=[make_signal(scale, name=str(scale)) for scale in scales],
        request=LimitRequest(engine=engine),
    )
    found = {one.name: one for one in decode_result(run(encode_task(task))).results}
    for scale in scales:
        values = _values(found[str(scale)])
        if scale:
            assert values == pytest.approx([value / scale for value in by_pyhf], rel=1e-3)
        else:
            assert values == [None] * 6


@pytest.mark.parametrize("scale", [1e-5, 1e5])
def test_pyhf_verifies_limits_on_a_rescaled_signal(
    spec: dict, make_signal: Callable, scale: float
) -> None:
    task = Task(
        workspace_digest=digest(spec),
        workspace=spec,
        hypotheses=[make_signal(scale)],
        request=LimitRequest(engine=EngineOptions(engine="kernel")),
    )
    answer = decode_result(run(encode_task(task))).results
    again = decode_result(run(encode_task(msgspec.structs.replace(task, verify=answer))))
    (checked,) = again.results
    assert (checked.status, checked.verification.reason) == ("ok", None)
    assert checked.verification.largest < 1e-4
    near = [point.mu for point in checked.verification.points]
    assert any(mu == pytest.approx(checked.limit.observed, rel=0.02) for mu in near)


@pytest.mark.parametrize("bound", [None, 5.0])
def test_limits_beyond_the_bound_are_found_with_a_wider_one(
    ask: Ask,
    engine: EngineOptions,
    limited: HypothesisResult,
    make_signal: Callable,
    spec: dict,
    bound: float | None,
) -> None:
    parameters = [{"name": "mu", "bounds": [[0.0, bound]]}] if bound else []
    measurement = {"name": "main", "config": {"poi": "mu", "parameters": parameters}}
    narrow = {**spec, "measurements": [measurement]}
    request = LimitRequest(engine=engine, model=ModelOptions(mu_max=200.0))
    found = ask(request, make_signal(0.02), narrow)
    assert (found.status, found.limit.reasons) == ("ok", {})
    assert found.limit.observed == pytest.approx(limited.limit.observed / 0.02, rel=2e-3)
    assert found.limit.expected == pytest.approx(
        [value / 0.02 for value in limited.limit.expected], rel=2e-3
    )
    # Where the limits are within the bounds it changes nothing.
    near = ask(LimitRequest(engine=engine, model=ModelOptions(mu_max=50.0)))
    assert near.limit.observed == pytest.approx(limited.limit.observed, rel=1e-4)


PYHF = EngineOptions(engine="pyhf")


def _made_up(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[float, Evaluation], Evaluation]
) -> None:
    """Let CLs be a known function of mu, with a change."""

    def evaluate(_built: object, mu: float, *_: object) -> Evaluation:
        values = [float(ndtr(n - mu / 0.4) / ndtr(n)) for n in FLUCTUATIONS]
        return change(mu, Evaluation(values[0], values[1:], 0.0, 5.0, 0.0, [], mu**2))

    monkeypatch.setattr(pyhf_engine, "evaluate", evaluate)


def test_another_level_is_another_crossing(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    _made_up(monkeypatch, lambda _, found: found)
    found = ask(LimitRequest(level=0.9, engine=PYHF))
    assert (found.status, found.limit.level) == ("ok", 0.9)
    assert found.limit.observed == pytest.approx(0.4 * ndtri(0.95), rel=1e-4)
    assert found.points[0].twice_delta_nll == pytest.approx(1.0)


def test_limits_beside_doubtful_points_are_suspect(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    _made_up(monkeypatch, lambda mu, one: one._replace(problems=["odd"] if mu > 1.2 else []))
    found = ask(LimitRequest(engine=PYHF))
    assert found.status == "suspect"
    assert found.reason.startswith("at mu = 1.4")
    assert "odd" in found.reason
    assert found.limit.observed == pytest.approx(0.784, abs=1e-3)


def test_doubts_far_from_all_limits_do_not_matter(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    _made_up(monkeypatch, lambda mu, one: one._replace(problems=["odd"] if mu == 1 else []))
    found = ask(LimitRequest(engine=PYHF))
    assert (found.status, found.points[0].status) == ("ok", "suspect")


def test_limits_where_cls_rises_are_suspect(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    _made_up(monkeypatch, lambda mu, one: one._replace(CLs_obs=0.9) if mu == 1 else one)
    found = ask(LimitRequest(engine=PYHF))
    assert found.status == "suspect"
    assert "does not fall with mu" in found.reason


def test_limits_without_any_cls_have_failed(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> Evaluation:
        raise pyhf.exceptions.FailedMinimization(type("R", (), {"message": "no"})())

    monkeypatch.setattr(pyhf_engine, "evaluate", broken)
    found = ask(LimitRequest(engine=PYHF))
    assert (found.status, found.limit.observed) == ("failed", None)
    assert found.reason == "the optimizer reports that it failed"


def test_a_scan_is_the_profile_likelihood_of_cabinetry(
    ask: Ask, engine: EngineOptions, model: tuple
) -> None:
    strengths = (0.0, 0.5, 1.0, 2.0)
    found = ask(ScanRequest(mu=strengths, engine=engine))
    made, data = model
    pyhf.set_backend("numpy", "scipy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = cabinetry.fit.scan(
            made, data, "mu", par_range=(0.0, 2.0), n_steps=5, custom_fit=True, tolerance=1e-4
        )
    rise = dict(zip(np.round(other.parameter_values, 6), other.delta_nlls, strict=True))
    assert [point.mu for point in found.points] == list(strengths)
    for point in found.points:
        assert point.twice_delta_nll == pytest.approx(rise[point.mu], abs=2e-3)
    at_one = ask(HypotestRequest(engine=engine)).CLs_obs
    assert found.points[2].CLs_obs == pytest.approx(at_one, abs=1e-9)
    assert found.CLs_obs == found.points[0].CLs_obs == pytest.approx(1.0, abs=1e-3)


def test_a_scan_below_zero_has_no_cls(
    ask: Ask, engine: EngineOptions, spec: dict, make_signal: Callable
) -> None:
    bounds = {"name": "mu", "bounds": [[-2.0, 10.0]]}
    measurement = {"name": "main", "config": {"poi": "mu", "parameters": [bounds]}}
    free = {**spec, "measurements": [measurement]}
    request = ScanRequest(mu=(-1.0, -0.5, 0.5), engine=engine)
    found = ask(request, make_signal(), free)
    assert found.status == "ok"
    assert [point.CLs_obs is None for point in found.points] == [True, True, False]
    rises = [point.twice_delta_nll for point in found.points]
    assert rises[0] > rises[1] > rises[2] > 0
