"""Limits, fits and impacts on models with everything in them, judged by pyhf's likelihood."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyhf
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from fitserve_contract import (
    KERNEL_DOUBT,
    NOT_FOR_THE_KERNEL,
    FitRequest,
    LimitRequest,
    ModelOptions,
    RankingRequest,
    Request,
    digest,
    request_digest,
)
from fitserve_worker.engines.base import Work
from fitserve_worker.engines.kernel_engine import KernelEngine
from fitserve_worker.engines.pyhf_engine import PyhfEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    from fitserve_contract import FitAnswer, HypothesisResult

    Case = Any

SMOOTH = [ModelOptions(), ModelOptions(normsys="code1", histosys="code2")]


def _answers(case: Case, request: Request) -> list[HypothesisResult]:
    # As they come over the wire: without NumPy numbers.
    workspace = json.loads(json.dumps(case.workspace))
    hypotheses = [
        msgspec.structs.replace(one, patch=json.loads(json.dumps(one.patch)))
        for one in case.hypotheses
    ]
    work = Work(digest(workspace), workspace, hypotheses, request, request_digest(request))
    engine = KernelEngine(lambda: PyhfEngine(request.engine))
    results = {one.name: one for one in engine.answers(work)}
    return [results[hypothesis.name] for hypothesis in case.hypotheses]


def _hessian(model: Any, data: list[float], at: np.ndarray, free: list[int]) -> np.ndarray:
    """Return second derivatives of -log L by central differences of pyhf's likelihood."""
    steps = np.array([1e-3 * max(abs(at[index]), 0.1) for index in free])

    def value(*moves: tuple[int, float]) -> float:
        moved = at.copy()
        for index, by in moves:
            moved[free[index]] += by * steps[index]
        return -float(model.logpdf(moved, data)[0])

    count = len(free)
    hessian = np.zeros((count, count))
    for i in range(count):
        for j in range(i + 1):
            ends = [value((i, a), (j, b)) * a * b for a in (1, -1) for b in (1, -1)]
            hessian[i, j] = hessian[j, i] = sum(ends) / (4 * steps[i] * steps[j])
    return hessian


def _check_fit(result: HypothesisResult, model: Any, data: list[float], *, smooth: bool) -> None:
    answer: FitAnswer = result.fit
    assert [one.name for one in answer.parameters] == model.config.par_names
    at = np.array([one.bestfit for one in answer.parameters])
    assert result.twice_nll == pytest.approx(-2 * float(model.logpdf(at, data)[0]), abs=1e-7)
    rows = model.main_model.expected_data(at, return_by_sample=True)
    before = [one.prefit for one in answer.parameters]
    prefit = model.main_model.expected_data(before, return_by_sample=True)
    for channel in answer.channels:
        bins = model.config.channel_slices[channel.name]
        assert channel.data == list(data[bins])
        for sample in channel.samples:
            row = model.config.samples.index(sample.name)
            assert sample.yields.postfit == pytest.approx(rows[row, bins], rel=1e-9, abs=1e-12)
            assert sample.yields.prefit == pytest.approx(prefit[row, bins], rel=1e-9, abs=1e-12)
        spec = next(one for one in model.spec["channels"] if one["name"] == channel.name)
        assert [one.name for one in channel.samples] == [one["name"] for one in spec["samples"]]
    fixed = model.config.suggested_fixed()
    low, high = np.array(model.config.suggested_bounds()).T
    for index, one in enumerate(answer.parameters):
        assert one.fixed == fixed[index]
        assert one.fixed or low[index] <= one.bestfit <= high[index]
        if one.at_bound:
            assert one.bestfit in (low[index], high[index])
    free = [i for i, one in enumerate(answer.parameters) if one.uncertainty is not None]
    kinked = [abs(at[i]) < 2e-3 for i in free]
    if not smooth or any(kinked):
        return
    sigmas = np.array([answer.parameters[i].uncertainty for i in free])
    matrix = np.eye(len(free))
    for i, row in enumerate(answer.correlations.lower):
        matrix[i, :i] = matrix[:i, i] = row
    ours = np.linalg.inv(matrix * np.outer(sigmas, sigmas))
    exact = _hessian(model, data, at, free)
    scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    # Correlations are rounded to five decimals.
    condition = np.linalg.cond(matrix)
    np.testing.assert_allclose(ours / scale, exact / scale, atol=2e-4 * max(1.0, condition / 10))


@pytest.mark.parametrize("kind", ["limit", "fit", "ranking"])
def test_everything_is_answered_by_the_kernel(
    everything: Case, options: ModelOptions, kind: str, pyhf_model: Callable
) -> None:
    request = {
        "limit": LimitRequest(model=options),
        "fit": FitRequest(model=options, intervals=True),
        "ranking": RankingRequest(model=options),
    }[kind]
    for index, result in enumerate(_answers(everything, request)):
        assert result.status == "ok", result.diagnostics
        # pyhf's code 2 jumps at +-1: pyhf answers where a fit ends there.
        jumped = "a jump of pyhf's code 2" in str(result.diagnostics.get("kernel doubt"))
        by_pyhf = options.histosys == "code2" and jumped
        assert result.engine == "kernel" or by_pyhf, result.diagnostics
        model, data = pyhf_model(everything, index, options)
        if kind == "fit":
            _check_fit(result, model, data, smooth="code0" not in options.histosys)
            _check_intervals(result, model, data)
        elif kind == "limit":
            _check_limits(result, model, data)
        else:
            _check_impacts(result, model, data)


def _minimum(model: Any, data: list[float], start: list[float], held: dict[int, float]) -> Any:
    """Return pyhf's minimum of -2 log L with parameters held, and where it is."""
    pyhf.set_backend("numpy", pyhf.optimize.scipy_optimizer(tolerance=1e-12, maxiter=2000))
    fixed = [one or index in held for index, one in enumerate(model.config.suggested_fixed())]
    init = [held.get(index, value) for index, value in enumerate(start)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        at, value = pyhf.infer.mle.fit(
            data, model, init_pars=init, fixed_params=fixed, return_fitted_val=True
        )
    return np.array(at), float(value)


def _check_intervals(result: HypothesisResult, model: Any, data: list[float]) -> None:
    """See that pyhf's profile likelihood is 1 above the minimum at some of the ends."""
    start = [one.bestfit for one in result.fit.parameters]
    checked = 0
    for index, one in list(enumerate(result.fit.parameters))[::4]:
        for end in (one.lower, one.upper):
            if end is None:
                continue
            _, value = _minimum(model, data, start, {index: end})
            assert value - result.twice_nll == pytest.approx(1.0, abs=1e-2), one
            checked += 1
    assert checked > 2


def _check_limits(result: HypothesisResult, model: Any, data: list[float]) -> None:
    """See that pyhf's CLs is 0.05 at the observed and the median expected limit."""
    values = (result.limit.observed, result.limit.expected[2])
    assert any(value is not None for value in values)
    pyhf.set_backend("numpy", pyhf.optimize.scipy_optimizer(tolerance=1e-12, maxiter=2000))
    for which, mu in enumerate(values):
        if mu is None:
            continue
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            observed, expected = pyhf.infer.hypotest(mu, data, model, return_expected_set=True)
        cls = (float(observed), float(expected[2]))[which]
        # pyhf's answer is of its optimizer's usual tolerance.
        assert cls == pytest.approx(0.05, abs=1e-4 if result.engine == "kernel" else 1e-3)


def _check_impacts(result: HypothesisResult, model: Any, data: list[float]) -> None:
    """See that pyhf finds the same shift of the POI with some of the parameters held."""
    poi = model.config.poi_index
    fitted = {one.parameter.name: one.parameter for one in result.ranking.impacts}
    start = [
        fitted[name].bestfit if name in fitted else init
        for name, init in zip(model.config.par_names, model.config.suggested_init(), strict=True)
    ]
    start[poi] = result.muhat
    for impact in result.ranking.impacts[:2]:
        index = model.config.par_names.index(impact.parameter.name)
        low, high = model.config.suggested_bounds()[index]
        value = np.clip(impact.parameter.bestfit + impact.parameter.uncertainty, low, high)
        at, _ = _minimum(model, data, start, {index: float(value)})
        shift = float(at[poi]) - result.muhat
        assert impact.postfit_up == pytest.approx(shift, abs=2e-3)


@pytest.mark.slow
@given(data=st.data())
@settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    # Every example compiles a program: shrinking takes too long.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)
def test_generated_models(data: st.DataObject, models_strategy: Callable, pyhf_model: Any) -> None:
    case = data.draw(models_strategy(wild=False))
    options = data.draw(st.sampled_from(SMOOTH))
    result = _answers(case, FitRequest(model=options))[0]
    model, observed = pyhf_model(case, 0, options)
    # Doubtful fits, and models that pyhf hardly takes itself, were answered by pyhf.
    assume({KERNEL_DOUBT, NOT_FOR_THE_KERNEL}.isdisjoint(result.diagnostics))
    assert result.status == "ok"
    _check_fit(result, model, observed, smooth=True)
    at = [one.bestfit for one in result.fit.parameters]
    try:
        _, theirs = _minimum(model, observed, at, {})
    except (pyhf.exceptions.FailedMinimization, ValueError):
        return
    assert result.twice_nll <= theirs + 1e-4
