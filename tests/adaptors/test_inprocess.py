"""The likelihood in one's own process, against pyhf, and what it keeps."""

from __future__ import annotations

import warnings

import pyhf
import pytest

from fitserve_contract import EngineOptions, Hypothesis
from fitserve_worker.inprocess import Likelihood, SignalError
from fitserve_worker.kernel.program import run

LUMI = {"name": "lumi", "type": "lumi", "data": None}
SIGNAL = {"SR0": [3.0], "SR2": [2.5], "SR4": [1.0]}
CODES = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}


@pytest.fixture(scope="module")
def likelihood(workspace: dict) -> Likelihood:
    return Likelihood(workspace, modifiers=[LUMI])


@pytest.fixture(scope="module")
def by_pyhf(workspace: dict, likelihood: Likelihood) -> tuple:
    pyhf.set_backend("numpy", pyhf.optimize.scipy_optimizer(tolerance=1e-10))
    made = pyhf.Workspace(workspace)
    model = made.model(patches=[likelihood.signal(SIGNAL).patch], modifier_settings=CODES)
    return model, made.data(model)


def test_limits_and_cls_are_those_of_pyhf(likelihood: Likelihood, by_pyhf: tuple) -> None:
    model, data = by_pyhf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        observed, expected = pyhf.infer.intervals.upper_limits.upper_limit(
            data, model, scan=None, rtol=1e-5
        )
        cls = pyhf.infer.hypotest(0.7, data, model, test_stat="qtilde")
    found = likelihood.upper_limit(SIGNAL)
    assert found.status == "ok"
    assert found.limit.observed == pytest.approx(float(observed), rel=1e-4)
    assert found.limit.expected == pytest.approx([float(one) for one in expected], rel=1e-3)
    assert likelihood.hypotest(SIGNAL, 0.7).CLs_obs == pytest.approx(float(cls), abs=1e-5)


def test_likelihoods_are_those_of_pyhf(likelihood: Likelihood, by_pyhf: tuple) -> None:
    model, data = by_pyhf
    _, free = pyhf.infer.mle.fit(data, model, return_fitted_val=True)
    held = [
        float(pyhf.infer.mle.fixed_poi_fit(mu, data, model, return_fitted_val=True)[1]) / 2
        for mu in (0.0, 1.0, 9.0)
    ]
    found = likelihood.profile(SIGNAL, (0.0, 1.0, 9.0))
    assert found.free == pytest.approx(float(free) / 2, abs=1e-6)
    assert found.held == pytest.approx(held, abs=1e-6)
    assert found.background == pytest.approx(held[0], abs=1e-6)
    assert likelihood.max_likelihood(SIGNAL) == pytest.approx((found.muhat, found.free), abs=1e-6)
    assert likelihood.negative_log_likelihood(SIGNAL, 1.0) == pytest.approx(held[1], abs=1e-6)


def test_strengths_beyond_the_bounds_are_those_of_a_stronger_signal(
    likelihood: Likelihood,
) -> None:
    strong = {name: [30 * events[0]] for name, events in SIGNAL.items()}
    ours = likelihood.negative_log_likelihood(SIGNAL, 30.0)
    assert ours == pytest.approx(likelihood.negative_log_likelihood(strong, 1.0), abs=1e-7)


def test_one_signal_after_the_other_compiles_nothing(likelihood: Likelihood) -> None:
    likelihood.upper_limit(SIGNAL)
    before = run._cache_size()
    for at in range(5):
        likelihood.upper_limit({f"SR{at}": [0.1 + at], f"SR{(at + 1) % 5}": [1e-3]})
    assert run._cache_size() == before


def test_several_signals_are_as_one_by_one_whatever_their_form(likelihood: Likelihood) -> None:
    patch = likelihood.signal({"SR1": [4.0]}).patch
    named = Hypothesis(name="mine", values=(1.0,), patch=likelihood.signal(SIGNAL).patch)
    several = likelihood.upper_limit([SIGNAL, patch, named])
    assert [one.name for one in several][2] == "mine"
    for one, alone in zip(several, (SIGNAL, patch, named), strict=True):
        other = likelihood.upper_limit(alone)
        assert one.limit.observed == pytest.approx(other.limit.observed, rel=1e-5)
    assert several[0].limit.observed == pytest.approx(several[2].limit.observed, rel=1e-5)


def test_other_observations_and_another_engine(workspace: dict, likelihood: Likelihood) -> None:
    apriori = likelihood.with_nominal_observations()
    assert apriori.observations["SR0"] == [24.3]
    slow = Likelihood(
        apriori.workspace, modifiers=[LUMI], engine=EngineOptions(engine="pyhf")
    ).upper_limit(SIGNAL)
    fast = apriori.upper_limit(SIGNAL)
    assert (slow.engine, fast.engine) == ("pyhf/numpy/scipy", "kernel")
    assert fast.limit.observed == pytest.approx(slow.limit.observed, rel=1e-3)


@pytest.mark.parametrize(
    ("signal", "cause"),
    [
        ({"SR9": [1.0]}, "there is no channel 'SR9'"),
        ({"SR0": [1.0, 2.0]}, "are not 1 finite numbers"),
        ({"SR0": [float("nan")]}, "are not 1 finite numbers"),
        ({"SR0": "many"}, "are not 1 finite numbers"),
        ("SR0", "this is no signal"),
        (7, "this is no signal"),
    ],
)
def test_what_is_no_signal_is_said(likelihood: Likelihood, signal: object, cause: str) -> None:
    with pytest.raises(SignalError, match=cause):
        likelihood.upper_limit(signal)


def test_what_is_no_workspace_is_said(workspace: dict) -> None:
    with pytest.raises(SignalError, match="this is no workspace"):
        Likelihood({"channels": []})
    with pytest.raises(SignalError, match="this is no workspace"):
        Likelihood(workspace, measurement="other")
