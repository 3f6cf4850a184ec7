"""Fits and rankings of both engines, against cabinetry and exact derivatives."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import cabinetry
import numpy as np
import pyhf
import pytest

from fitserve_contract import (
    EngineOptions,
    FitRequest,
    Hypothesis,
    ModelOptions,
    RankingRequest,
)
from fitserve_worker.engines import minuit, pyhf_fit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fitserve_contract import HypothesisResult
    from fitserve_worker.engines.minuit import BestFit

    Ask = Callable[..., HypothesisResult]

BACKGROUND = Hypothesis(name="background-only", values=(), patch=[])


@pytest.fixture(scope="module", params=["pyhf", "kernel"])
def engine(request: pytest.FixtureRequest) -> EngineOptions:
    return EngineOptions(engine=request.param)


@pytest.fixture(scope="module")
def fitted(ask: Ask, engine: EngineOptions) -> HypothesisResult:
    return ask(FitRequest(intervals=True, engine=engine))


@pytest.fixture(scope="module")
def cabinetrys(model: tuple) -> Any:
    """Return cabinetry's fit, with a tolerance that its derivatives can be compared at.

    Minuit's own uncertainties are bent by the bounds of a parameter, those of the covariance
    are not: wide bounds make them the same.
    """
    made, data = model
    wide = [
        (-200.0, 200.0) if low <= 0 else (low, high) for low, high in made.config.suggested_bounds()
    ]
    pyhf.set_backend("numpy", "scipy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cabinetry.fit.fit(
            made, data, custom_fit=True, minos=list(made.config.par_names), strategy=2,
            tolerance=1e-5, par_bounds=wide,
        )  # fmt: skip


def test_the_best_fit_is_that_of_cabinetry(fitted: HypothesisResult, cabinetrys: Any) -> None:
    assert fitted.status == "ok"
    assert fitted.engine in ("pyhf/numpy/scipy+minuit", "kernel")
    parameters = fitted.fit.parameters
    assert [one.name for one in parameters] == list(cabinetrys.labels)
    assert fitted.twice_nll == pytest.approx(cabinetrys.best_twice_nll, abs=1e-5)
    assert fitted.muhat == next(one.bestfit for one in parameters if one.name == "mu")
    for one, value, sigma in zip(
        parameters, cabinetrys.bestfit, cabinetrys.uncertainty, strict=True
    ):
        assert one.bestfit == pytest.approx(value, abs=3e-3 * sigma)
        assert one.uncertainty == pytest.approx(sigma, rel=5e-3)
        down, up = cabinetrys.minos_uncertainty[one.name]
        if one.name == "mu":
            # Its lower end is beyond the bound, which cabinetry was not given.
            assert value + down < 0
            assert one.lower is None
        else:
            assert one.lower == pytest.approx(value + down, abs=1e-2 * sigma)
        assert one.upper == pytest.approx(value + up, abs=1e-2 * sigma)


def test_the_covariance_is_the_inverse_of_the_exact_hessian(
    fitted: HypothesisResult, spec: dict, make_signal: Callable
) -> None:
    import jax

    pyhf.set_backend("jax")
    workspace = pyhf.Workspace(spec)
    codes = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}
    made = workspace.model(patches=[make_signal().patch], modifier_settings=codes)
    data = pyhf.tensorlib.astensor(workspace.data(made))
    at = np.array([one.bestfit for one in fitted.fit.parameters])
    hessian = jax.jit(jax.hessian(lambda x: -2 * made.logpdf(x, data)[0]))(at)
    pyhf.set_backend("numpy", "scipy")
    exact = 2 * np.linalg.inv(np.asarray(hessian))
    sigmas = np.sqrt(np.diag(exact))
    assert [one.uncertainty for one in fitted.fit.parameters] == pytest.approx(sigmas, rel=2e-3)
    correlations = exact / np.outer(sigmas, sigmas)
    for row, values in enumerate(fitted.fit.correlations.lower):
        assert len(values) == row
        assert values == pytest.approx(correlations[row, :row], abs=2e-3)


def test_pulls_and_constraints_refer_to_the_constraint(fitted: HypothesisResult) -> None:
    parameters = {one.name: one for one in fitted.fit.parameters}
    assert parameters["mu"].pull is parameters["mu"].prefit_uncertainty is None
    norm, stat, uncorrelated = (parameters[n] for n in ("norm", "stat[0]", "uncorr[1]"))
    assert (norm.prefit, norm.prefit_uncertainty) == (0.0, 1.0)
    assert (stat.prefit, stat.prefit_uncertainty) == (1.0, pytest.approx(5 / 200))
    assert uncorrelated.prefit == pytest.approx(1.0)
    assert uncorrelated.prefit_uncertainty == pytest.approx(7 / 52)
    for one in (norm, stat, uncorrelated):
        assert one.pull == pytest.approx((one.bestfit - one.prefit) / one.prefit_uncertainty)
        assert one.constraint == pytest.approx(one.uncertainty / one.prefit_uncertainty)


def test_yields_and_their_uncertainties_are_those_of_cabinetry(
    fitted: HypothesisResult, cabinetrys: Any, model: tuple
) -> None:
    made, _ = model
    pyhf.set_backend("numpy", "scipy")
    after = cabinetry.model_utils.prediction(made, fit_results=cabinetrys)
    before = cabinetry.model_utils.prediction(made)
    for channel in fitted.fit.channels:
        index = made.config.channels.index(channel.name)
        for prediction, when, tolerance in ((before, "prefit", 1e-9), (after, "postfit", 5e-3)):
            rows = dict(zip(made.config.samples, prediction.model_yields[index], strict=True))
            deviations = prediction.total_stdev_model_bins[index]
            names = [*made.config.samples, None]
            for sample in channel.samples:
                found = getattr(sample.yields, when)
                assert found == pytest.approx(rows[sample.name], rel=tolerance)
                sigma = getattr(sample.yields, f"{when}_uncertainty")
                assert sigma == pytest.approx(deviations[names.index(sample.name)], rel=tolerance)
            total = getattr(channel.total, f"{when}_uncertainty")
            assert total == pytest.approx(deviations[-1], rel=tolerance)
            parts = np.sum([getattr(one.yields, when) for one in channel.samples], axis=0)
            assert getattr(channel.total, when) == pytest.approx(parts)
    signal_region = next(one for one in fitted.fit.channels if one.name == "SR")
    assert signal_region.data == [58.0, 56.0, 33.0]


def test_ranking_is_that_of_cabinetry(
    ask: Ask, engine: EngineOptions, model: tuple, cabinetrys: Any
) -> None:
    found = ask(RankingRequest(engine=engine))
    made, data = model
    pyhf.set_backend("numpy", "scipy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = cabinetry.fit.ranking(
            made, data, fit_results=cabinetrys, custom_fit=True, tolerance=1e-3
        )
    labels = list(other.labels)
    impacts = found.ranking.impacts
    assert (found.status, found.ranking.poi.name) == ("ok", "mu")
    assert sorted(one.parameter.name for one in impacts) == sorted(labels)
    for impact in impacts:
        index = labels.index(impact.parameter.name)
        for field in ("prefit_up", "prefit_down", "postfit_up", "postfit_down"):
            expected = getattr(other, field)[index]
            assert getattr(impact, field) == pytest.approx(expected, abs=3e-3)
    sizes = [max(abs(one.postfit_up), abs(one.postfit_down)) for one in impacts]
    assert sizes == sorted(sizes, reverse=True)


def test_the_background_only_fit_needs_no_poi(ask: Ask, engine: EngineOptions, spec: dict) -> None:
    found = ask(FitRequest(background_only=True, engine=engine), BACKGROUND)
    assert (found.status, found.muhat, found.fit.poi) == ("ok", None, None)
    pyhf.set_backend("numpy", pyhf.optimize.scipy_optimizer(tolerance=1e-10))
    workspace = pyhf.Workspace(spec)
    codes = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}
    made = workspace.model(poi_name=None, modifier_settings=codes)
    data = workspace.data(made)
    _, value = pyhf.infer.mle.fit(data, made, return_fitted_val=True)
    assert found.twice_nll == pytest.approx(float(value), abs=1e-5)


def test_a_background_only_fit_holds_the_signal_at_zero(
    ask: Ask, engine: EngineOptions, spec: dict, make_signal: Callable
) -> None:
    whole = json.loads(json.dumps(spec))
    whole["channels"][0]["samples"].append(make_signal().patch[0]["value"])
    request = FitRequest(background_only=True, engine=engine)
    found, without = ask(request, BACKGROUND, whole), ask(request, BACKGROUND)
    poi = next(one for one in found.fit.parameters if one.name == "mu")
    assert (found.fit.poi, poi.bestfit, poi.fixed, poi.uncertainty) == ("mu", 0.0, True, None)
    assert "mu" not in found.fit.correlations.names
    # The signal's own normalisation adds its constraint term, log of a normal density at 0.
    extra = float(np.log(2 * np.pi))
    assert found.twice_nll == pytest.approx(without.twice_nll + extra, abs=1e-5)


def test_a_parameter_at_its_bound_says_so_and_has_one_end(
    ask: Ask, engine: EngineOptions, spec: dict, make_signal: Callable
) -> None:
    few = json.loads(json.dumps(spec))
    few["observations"][0]["data"] = [40.0, 30.0, 25.0]
    found = ask(FitRequest(intervals=True, engine=engine), make_signal(), few)
    poi = next(one for one in found.fit.parameters if one.name == "mu")
    assert (found.status, found.reason) == ("ok", None)
    assert (poi.bestfit, poi.at_bound, poi.uncertainty, poi.lower) == (0.0, True, None, None)
    assert 0 < poi.upper < 10
    assert "mu" not in found.fit.correlations.names
    ranked = ask(RankingRequest(engine=engine), make_signal(), few)
    assert ranked.ranking.poi.at_bound
    assert all(one.postfit_up >= 0 for one in ranked.ranking.impacts if one.postfit_up is not None)


def test_backends_and_interpolations(ask: Ask, fitted: HypothesisResult) -> None:
    engine = EngineOptions(engine="pyhf", backend="jax", optimizer="minuit")
    exact = ask(FitRequest(engine=engine))
    assert exact.engine == "pyhf/jax/minuit"
    for one, other in zip(exact.fit.parameters, fitted.fit.parameters, strict=True):
        assert one.bestfit == pytest.approx(other.bestfit, abs=3e-3 * one.uncertainty)
        assert one.uncertainty == pytest.approx(other.uncertainty, rel=3e-3)
    coarse = ask(FitRequest(model=ModelOptions(normsys="code1")))
    assert coarse.twice_nll != pytest.approx(fitted.twice_nll, abs=1e-6)


def test_a_minimum_above_a_known_one_is_doubted(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def below(*args: Any) -> tuple[list[float], float]:
        values, known = real(*args)
        return values, known - 0.5

    real = minuit._by_scipy
    monkeypatch.setattr(minuit, "_by_scipy", below)
    found = ask(FitRequest(engine=EngineOptions(engine="pyhf")))
    # Minuit alone, the last rung, does not meet the false minimum.
    assert [bool(one.problems) for one in found.attempts] == [True, True, True, False]
    assert "above a known minimum" in found.attempts[0].problems[0]
    assert found.status == "ok"


def test_impacts_without_a_valid_fit_make_the_ranking_suspect(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pyhf_fit.hold

    def breaks(found: BestFit, index: int, value: float) -> tuple[Any, bool]:
        values, valid = real(found, index, value)
        return values, valid and found.objective.names[index] != "norm"

    monkeypatch.setattr(pyhf_fit, "hold", breaks)
    found = ask(RankingRequest(engine=EngineOptions(engine="pyhf")))
    assert found.status == "suspect"
    assert found.reason == "no valid fit with norm held"
    last = found.ranking.impacts[-1]
    assert (last.parameter.name, last.postfit_up, last.prefit_down) == ("norm", None, None)


@pytest.mark.slow
def test_the_background_fit_of_staus_has_the_exact_hessian(ask: Ask, shared: Path) -> None:
    import jax

    from fitserve.pallet.load import load_pallet

    pallet = load_pallet(shared / "pallets" / "staus.tar.xz")
    found = ask(FitRequest(background_only=True), BACKGROUND, pallet.workspace)
    assert found.status == "ok"
    pyhf.set_backend("jax")
    workspace = pyhf.Workspace(pallet.workspace)
    codes = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}
    made = workspace.model(poi_name=None, modifier_settings=codes)
    data = pyhf.tensorlib.astensor(workspace.data(made))
    at = np.array([one.bestfit for one in found.fit.parameters])
    hessian = jax.jit(jax.hessian(lambda x: -2 * made.logpdf(x, data)[0]))(at)
    pyhf.set_backend("numpy", "scipy")
    free = [i for i, one in enumerate(found.fit.parameters) if one.uncertainty is not None]
    sigmas = np.sqrt(np.diag(2 * np.linalg.inv(np.asarray(hessian)[np.ix_(free, free)])))
    ours = [found.fit.parameters[i].uncertainty for i in free]
    assert ours == pytest.approx(sigmas, rel=2e-2)
