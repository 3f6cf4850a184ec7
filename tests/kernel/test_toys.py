"""The kernel's fits to toys: of the model's own data, and where the likelihood has no minimum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyhf
import pytest
from scipy.optimize import minimize

from fitserve_contract import (
    Hypothesis,
    ModelOptions,
    ToyRange,
    ToysRequest,
    digest,
    request_digest,
)
from fitserve_worker.engines.base import Work
from fitserve_worker.engines.kernel_engine import KernelEngine
from fitserve_worker.engines.models import BuiltModel
from fitserve_worker.engines.pyhf_engine import PyhfEngine
from fitserve_worker.engines.pyhf_toys import law_of
from fitserve_worker.kernel.batch import compile_hypotheses
from fitserve_worker.kernel.fits import load
from fitserve_worker.kernel.hypotest import hypotest
from fitserve_worker.kernel.runtime import runtime
from fitserve_worker.kernel.toys import Centre, ToyMaker, toy_statistics
from fitserve_worker.sampling import Sampler

MU = {"name": "mu", "type": "normfactor", "data": None}


def _workspace(channels: list[dict[str, Any]], data: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "channels": channels,
        "observations": [{"name": name, "data": values} for name, values in data.items()],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }


def _signal(data: list[float], modifiers: list[dict[str, Any]] | None = None) -> Hypothesis:
    sample = {"name": "signal", "data": data, "modifiers": [MU, *(modifiers or [])]}
    patch = [{"op": "add", "path": "/channels/0/samples/0", "value": sample}]
    return Hypothesis(name="S", values=(1.0,), patch=patch)


def _many_kinds() -> tuple[dict[str, Any], Hypothesis]:
    """Return a model with every kind of auxiliary measurement, and parameters without effect."""
    shape = {"hi_data": [22.0, 13.0, 4.5], "lo_data": [18.5, 11.0, 3.5]}
    region = {
        "name": "SR",
        "samples": [
            {
                "name": "top",
                "data": [20.0, 12.0, 4.0],
                "modifiers": [
                    {"name": "jes", "type": "histosys", "data": shape},
                    {"name": "stat_SR", "type": "staterror", "data": [1.0, 0.8, 0.0]},
                    {"name": "lumi", "type": "lumi", "data": None},
                ],
            },
            {
                "name": "fakes",
                "data": [5.0, 0.0, 1.0],
                "modifiers": [
                    {"name": "fake", "type": "shapesys", "data": [1.5, 0.0, 0.5]},
                    {"name": "same", "type": "normsys", "data": {"hi": 1.0, "lo": 1.0}},
                ],
            },
        ],
    }
    control = {
        "name": "CR",
        "samples": [
            {
                "name": "top",
                "data": [300.0],
                "modifiers": [
                    {"name": "norm", "type": "normfactor", "data": None},
                    {"name": "jes", "type": "normsys", "data": {"hi": 1.04, "lo": 0.97}},
                    {"name": "held", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9}},
                ],
            }
        ],
    }
    workspace = _workspace([region, control], {"SR": [27.0, 11.0, 7.0], "CR": [310.0]})
    workspace["measurements"][0]["config"]["parameters"] = [
        {
            "name": "lumi",
            "inits": [1.0],
            "bounds": [[0.5, 1.5]],
            "auxdata": [1.0],
            "sigmas": [0.02],
        },
        {"name": "held", "fixed": True, "inits": [0.4]},
    ]
    return workspace, _signal([3.0, 5.0, 2.0], [
        {"name": "sig", "type": "normsys", "data": {"hi": 1.1, "lo": 0.92}}
    ])  # fmt: skip


def _loaded(workspace: dict[str, Any], hypothesis: Hypothesis) -> tuple[Any, Any]:
    batch = compile_hypotheses(workspace, [hypothesis], ModelOptions()).batches[0]
    return batch, load(batch, [0], runtime())


def _pyhf(workspace: dict[str, Any], hypothesis: Hypothesis) -> BuiltModel:
    pyhf.set_backend("numpy", pyhf.optimize.scipy_optimizer(tolerance=1e-10))
    made = pyhf.Workspace(workspace)
    codes = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}
    model = made.model(patches=[hypothesis.patch], modifier_settings=codes)
    return BuiltModel(model, made.data(model))


def test_toys_are_drawn_from_the_distributions_that_pyhf_has() -> None:
    workspace, hypothesis = _many_kinds()
    batch, loaded = _loaded(workspace, hypothesis)
    built = _pyhf(workspace, hypothesis)
    tests = hypotest(loaded, (1.0,), "qtilde")
    fits = tests.fixed[0]
    maker = ToyMaker(batch, loaded, fits, key=3)
    parameters = batch.parameters(0)
    assert parameters.names == built.model.config.par_names
    at = parameters.join(fits.x[0], fits.local[0])
    ours, theirs = maker.law, law_of(built, at)
    for mine, reference in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-10, atol=1e-12)

    # pyhf's own sampling has the same means and widths, item by item.
    np.random.seed(5)  # noqa: NPY002 - what pyhf samples with
    sample = np.asarray(built.model.make_pdf(pyhf.tensorlib.astensor(at)).sample((20_000,)))
    means = np.concatenate([theirs.rates, theirs.centres])
    squares = np.where(theirs.widths > 0, theirs.widths**2, theirs.centres)
    widths = np.sqrt(np.concatenate([theirs.rates, squares]))
    assert np.abs((sample.mean(axis=0) - means) / (widths / np.sqrt(20_000))).max() < 4.5
    assert sample.std(axis=0) == pytest.approx(widths, rel=0.03)


def test_the_test_statistic_of_each_toy_is_that_of_pyhf() -> None:
    workspace, hypothesis = _many_kinds()
    batch, loaded = _loaded(workspace, hypothesis)
    built = _pyhf(workspace, hypothesis)
    model = built.model
    tests = hypotest(loaded, (1.0,), "qtilde")
    toys = ToyRange(first=40, count=15)
    for fits, at_mu, key in ((tests.fixed[0], tests.fixed[0], 1), (tests.null, tests.asimov[0], 2)):
        maker = ToyMaker(batch, loaded, fits, key)
        centre = Centre(fits.yields[0], at_mu.x[0], fits.x[0])
        statistics = toy_statistics(loaded, maker, toys, 1.0, centre)
        assert statistics.fits >= 2 * toys.count
        at = batch.parameters(0).join(fits.x[0], fits.local[0])
        events, auxiliary = Sampler(law_of(built, at), key).draw(toys)
        config = model.config
        for data, value in zip(
            np.concatenate([events, auxiliary], axis=1), statistics.values, strict=True
        ):
            theirs = pyhf.infer.test_statistics.qmu_tilde(
                1.0,
                data.tolist(),
                model,
                config.suggested_init(),
                config.suggested_bounds(),
                config.suggested_fixed(),
            )
            assert value == pytest.approx(max(float(theirs), 0.0), abs=1e-3)


def _emptied() -> tuple[dict[str, Any], Hypothesis]:
    """Return a model in which a systematic empties a bin, and more."""
    shape = {"hi_data": [7.0, 80.0], "lo_data": [-3.0, 80.0]}
    region = {
        "name": "SR",
        "samples": [
            {
                "name": "fakes",
                "data": [2.0, 80.0],
                "modifiers": [
                    {"name": "fake", "type": "histosys", "data": shape},
                    {"name": "norm", "type": "normsys", "data": {"hi": 1.6, "lo": 0.6}},
                ],
            }
        ],
    }
    return _workspace([region], {"SR": [2.0, 80.0]}), _signal([1.5, 4.0])


def test_a_toy_without_a_minimum_is_fitted_with_events_kept_positive() -> None:
    workspace, hypothesis = _emptied()
    batch, loaded = _loaded(workspace, hypothesis)
    model = _pyhf(workspace, hypothesis).model
    tests = hypotest(loaded, (1.0,), "qtilde")
    fits = tests.null
    maker = ToyMaker(batch, loaded, fits, key=4)
    toys = ToyRange(first=0, count=60)
    centre = Centre(fits.yields[0], tests.asimov[0].x[0], fits.x[0])
    statistics = toy_statistics(loaded, maker, toys, 1.0, centre)
    assert np.isfinite(statistics.values).all()
    assert 0 < statistics.positive < toys.count
    events, auxiliary = maker.sampler.draw(toys)
    empty = np.flatnonzero(events[:, 0] == 0)[:12]
    for index in empty:
        data = np.concatenate([events[index], auxiliary[index]])
        expected = _kept_positive(model, data)
        assert statistics.values[index] == pytest.approx(expected, abs=0.02)


def test_pyhf_s_fits_of_such_toys_are_failures() -> None:
    workspace, hypothesis = _emptied()
    request = ToysRequest(toys=25, seed=4)
    work = Work(digest(workspace), workspace, [hypothesis], request, request_digest(request))
    result = next(iter(PyhfEngine(request.engine).answers(work)))
    values = np.frombuffer(result.toy_values.background, "<f4")
    assert 0 < np.isnan(values).sum() < 25
    by_kernel = next(iter(KernelEngine(lambda: PyhfEngine(request.engine)).answers(work)))
    ours = np.frombuffer(by_kernel.toy_values.background, "<f4")
    both = ~np.isnan(values)
    np.testing.assert_allclose(ours[both], values[both], rtol=0, atol=1e-3)
    assert by_kernel.toy_values.positive > 0


def _kept_positive(model: Any, data: np.ndarray) -> float:
    """Return the test statistic at 1 where all expected events are positive, by SLSQP."""
    bounds = np.array(model.config.suggested_bounds())
    poi = model.config.poi_index

    def lowest(low: float, high: float) -> tuple[float, float]:
        held = bounds.copy()
        held[poi] = low, high
        starts = [np.clip(model.config.suggested_init(), *held.T)]
        starts += [
            np.clip(s, *held.T) for s in np.random.default_rng(1).normal(0, 1, (4, len(held)))
        ]
        fits = [
            minimize(
                lambda x: float(-2 * model.logpdf(x, data)[0]),
                start,
                method="SLSQP",
                bounds=held,
                constraints={
                    "type": "ineq",
                    "fun": lambda x: model.expected_actualdata(x) - 1e-7,
                },
                options={"ftol": 1e-11, "maxiter": 500},
            )
            for start in starts
        ]
        best = min((fit for fit in fits if fit.success), key=lambda fit: fit.fun)
        return float(best.fun), float(best.x[poi])

    with np.errstate(all="ignore"):
        fixed, _ = lowest(1.0, 1.0)
        free, muhat = lowest(*bounds[poi])
    return 0.0 if muhat > 1 else max(0.0, fixed - free)
