"""The reference that judges fitserve: pyhf's likelihood, and answers that are known otherwise."""

from __future__ import annotations

import numpy as np
import pyhf
import pytest
from iminuit import Minuit
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from tension.likelihood import Likelihood
from tension.models import draw
from tension.reference import right

SEED = 7


def _points(likelihood: Likelihood, count: int, number: int) -> np.ndarray:
    random = np.random.default_rng(number)
    widths = np.where(np.isnan(likelihood.widths), 0.5, likelihood.widths)
    moves = 1.3 * widths * random.normal(size=(count, len(widths)))
    points = np.clip(likelihood.inits + moves, likelihood.lower, likelihood.upper)
    return points[np.isfinite(likelihood.value(points, likelihood.data))]


def _pyhf(spec: dict) -> tuple[pyhf.Model, list[float], list[int]]:
    """Return pyhf's model and data, and where its parameters are among the likelihood's."""
    workspace = pyhf.Workspace(spec, validate=False)
    model = workspace.model(validate=False)
    names = Likelihood(spec).names
    assert sorted(names) == sorted(model.config.par_names)
    return model, workspace.data(model), [names.index(name) for name in model.config.par_names]


@pytest.mark.parametrize("number", range(0, 1000, 40))
def test_the_likelihood_is_that_of_pyhf(number: int) -> None:
    spec = draw(SEED, number).patched
    likelihood = Likelihood(spec)
    model, data, order = _pyhf(spec)
    assert model.config.suggested_init() == likelihood.inits[order].tolist()
    bounds = np.stack([likelihood.lower, likelihood.upper], axis=1)[order]
    assert np.array_equal(model.config.suggested_bounds(), bounds)
    points = _points(likelihood, 8, number)
    assert len(points) > 2
    theirs = [-2 * float(model.logpdf(point[order], data)[0]) for point in points]
    assert likelihood.value(points, likelihood.data) == pytest.approx(theirs, rel=1e-11)
    expected = likelihood.expected(points)
    for point, events in zip(points, expected.events, strict=True):
        mine = dict(zip(model.config.channels, np.split(events, _ends(spec)), strict=True))
        yields = model.expected_actualdata(point[order])
        slices = model.config.channel_slices
        for channel in model.config.channels:
            assert mine[channel] == pytest.approx(yields[slices[channel]], rel=1e-11)


def _ends(spec: dict) -> np.ndarray:
    return np.cumsum([len(one["samples"][0]["data"]) for one in spec["channels"]])[:-1]


def test_a_bin_without_events_may_expect_less_than_nothing_as_in_pyhf() -> None:
    spec = _one_bin([{"name": "a", "type": "histosys", "data": {"hi_data": [70], "lo_data": [30]}}])
    point = {"mu": 0.3, "a": -3.0}
    for events, allowed in ((0.0, True), (1.0, False)):
        spec["observations"][0]["data"] = [events]
        likelihood = Likelihood(spec)
        model, data, order = _pyhf(spec)
        mine = np.array([[point[name] for name in likelihood.names]])
        value = likelihood.value(mine, likelihood.data)[0]
        assert np.isfinite(value) == allowed
        if allowed:
            assert value == pytest.approx(-2 * model.logpdf(mine[0][order], data)[0], rel=1e-12)


@pytest.mark.parametrize("number", range(0, 1000, 200))
def test_gradients_are_those_of_differences(number: int) -> None:
    likelihood = Likelihood(draw(SEED, number).patched)
    points = _points(likelihood, 4, number)
    value, gradient, _ = likelihood.derivatives(points, likelihood.data)
    assert np.array_equal(value, likelihood.value(points, likelihood.data))
    for index in range(len(likelihood.names)):
        step = np.zeros(len(likelihood.names))
        step[index] = 1e-6
        ends = [likelihood.value(points + sign * step, likelihood.data) for sign in (1, -1)]
        slope = (ends[0] - ends[1]) / 2e-6
        inside = np.isfinite(slope)
        scale = 1e-5 * np.abs(gradient).max()
        assert gradient[inside, index] == pytest.approx(slope[inside], rel=1e-5, abs=scale)


def _one_bin(modifiers: list[dict]) -> dict:
    signal = {"name": "mu", "type": "normfactor", "data": None}
    samples = [
        {"name": "signal", "data": [10.0], "modifiers": [signal]},
        {"name": "background", "data": [50.0], "modifiers": modifiers},
    ]
    return {
        "channels": [{"name": "SR", "samples": samples}],
        "observations": [{"name": "SR", "data": [54.0]}],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }


def _poisson(expected: float, data: float) -> float:
    return 2 * (expected - data * np.log(expected))


def _cls(q: float, q_asimov: float) -> list[float]:
    """Return CLs from q-tilde below that of the Asimov data (arXiv:1007.1727, eq. 66)."""
    assert q < q_asimov
    root, root_a = np.sqrt(q), np.sqrt(q_asimov)
    return [
        norm.sf(root) / norm.sf(root - root_a),
        *(norm.sf(at + root_a) / norm.sf(at) for at in (2, 1, 0, -1, -2)),
    ]


def test_a_counting_experiment() -> None:
    minima = right(_one_bin([]), 1)
    q = _poisson(60, 54) - _poisson(54, 54)
    q_asimov = _poisson(60, 50) - _poisson(50, 50)
    assert minima.muhat == pytest.approx(0.4, abs=1e-6)
    assert [minima.q, minima.q_asimov] == pytest.approx([q, q_asimov], abs=1e-9)
    assert [minima.CLs_obs, *minima.CLs_exp] == pytest.approx(_cls(q, q_asimov), abs=1e-9)
    assert not minima.ambiguous
    assert minima.minima == [1, 1, 1, 1]


def test_a_systematic_that_adds_whichever_way_it_moves_has_two_minima() -> None:
    # 50 + 4 |alpha|, smooth within 1: at mu = 0 alpha moves up or down, equally well.
    data = {"hi_data": [54.0], "lo_data": [54.0]}
    minima = right(_one_bin([{"name": "either", "type": "histosys", "data": data}]), 1)

    def profile(mu: float, observed: float, centre: float) -> tuple[float, float]:
        def value(alpha: float) -> float:
            inner = 4 / 8 * alpha**2 * (15 - 10 * alpha**2 + 3 * alpha**4)
            added = 4 * alpha if alpha > 1 else inner
            return _poisson(50 + added + 10 * mu, observed) + (alpha - centre) ** 2

        lowest = minimize_scalar(value, bounds=(0, 5), options={"xatol": 1e-10}, method="bounded")
        return lowest.x, lowest.fun

    alpha, null = profile(0, 54, 0)
    _, fixed = profile(1, 54, 0)
    free = _poisson(54, 54)
    assert minima.minima[1] == 2
    assert [minima.null - minima.twice_nll, minima.fixed - minima.twice_nll] == pytest.approx(
        [null - free, fixed - free], abs=1e-8
    )
    assert minima.muhat == pytest.approx(0.4, abs=1e-5)
    inner = 4 / 8 * alpha**2 * (15 - 10 * alpha**2 + 3 * alpha**4)
    assert 0 < alpha < 1
    at, asimov = profile(1, 50 + inner, alpha)
    q_asimov = asimov - _poisson(50 + inner, 50 + inner)
    assert 0 < at < alpha
    assert minima.q_asimov == pytest.approx(q_asimov, abs=1e-6)
    # Which of the two the Asimov data come from changes nothing, by symmetry.
    assert minima.change == pytest.approx(0, abs=1e-6)
    assert [minima.CLs_obs, *minima.CLs_exp] == pytest.approx(
        _cls(fixed - free, q_asimov), abs=1e-7
    )


def test_nothing_is_lower_that_minuit_finds_with_the_likelihood_of_pyhf() -> None:
    spec = draw(1, 51).patched
    minima = right(spec, 1)
    model, data, order = _pyhf(spec)
    starts = _points(Likelihood(spec), 16, 51)[:, order]

    def value(point: np.ndarray) -> float:
        with np.errstate(all="ignore"):
            return float(np.nan_to_num(-2 * model.logpdf(point, data)[0], nan=1e10))

    ends = []
    for start in [np.array(model.config.suggested_init()), *starts]:
        minuit = Minuit(value, start)
        minuit.limits = model.config.suggested_bounds()
        ends.append(minuit.migrad().fval)
    assert minima.minima[0] > 1
    assert max(ends) > minima.twice_nll + 1
    assert min(ends) == pytest.approx(minima.twice_nll, abs=1e-2)
    assert min(ends) > minima.twice_nll - 1e-6
