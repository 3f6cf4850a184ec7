"""What the kernel engine answers beside CLs, held against the reference engine's answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyhf
import pytest

from fitserve_contract import (
    EngineOptions,
    FitRequest,
    HypothesisResult,
    LimitRequest,
    RankingRequest,
    Request,
    ScanRequest,
    digest,
    kind_of,
    request_digest,
)
from fitserve_worker.engines import kernel_engine, kernel_fit
from fitserve_worker.engines.base import Work
from fitserve_worker.engines.kernel_engine import KernelEngine
from fitserve_worker.engines.pyhf_engine import PyhfEngine
from fitserve_worker.kernel import strengths

if TYPE_CHECKING:
    from collections.abc import Callable

    from fitserve_worker.engines.kernel_fit import Fitted

KERNEL, PYHF = EngineOptions(engine="kernel"), EngineOptions(engine="pyhf")
REQUESTS: list[Callable[[EngineOptions], Request]] = [
    lambda engine: LimitRequest(engine=engine),
    lambda engine: ScanRequest(mu=(0.0, 0.7, 3.0), engine=engine),
    lambda engine: FitRequest(engine=engine),
    lambda engine: RankingRequest(engine=engine),
]


@pytest.fixture(scope="module")
def rich(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the workspace with what it lacks: luminosity, a free norm, data at a bound."""
    made = json.loads(json.dumps(spec))
    signal_region, control_region = made["channels"]
    lumi = {"name": "lumi", "type": "lumi", "data": None}
    free = {"name": "k", "type": "normfactor", "data": None}
    signal_region["samples"].append(
        {
            "name": "another",
            "data": [5.0, 0.0, 9.0],
            "modifiers": [lumi, {"name": "more", "type": "staterror", "data": [1.0, 0.0, 2.0]}],
        }
    )
    control_region["samples"].insert(
        0, {"name": "another", "data": [30.0], "modifiers": [lumi, free]}
    )
    signal_region["samples"][1]["modifiers"].append(free)
    config = {"name": "lumi", "auxdata": [1.0], "sigmas": [0.02], "bounds": [[0.9, 1.1]]}
    config["inits"] = [1.0]
    tight = {"name": "uncorr", "bounds": [[0.99, 1.01], [0.0, 5.0], [0.0, 5.0]]}
    made["measurements"][0]["config"]["parameters"] = [config, tight]
    return made


@pytest.fixture(scope="module")
def both(
    rich: dict[str, Any], make_signal: Callable
) -> Callable[[Callable[[EngineOptions], Request]], list[tuple[HypothesisResult, ...]]]:
    """Return a function that has both engines answer a request of two hypotheses."""
    hypotheses = [make_signal(scale, f"S{scale}") for scale in (0.1, 4.0)]

    def work(request: Request) -> Work:
        return Work(digest(rich), rich, hypotheses, request, request_digest(request))

    references: dict[str, list[HypothesisResult]] = {}

    def ask(make: Callable[[EngineOptions], Request]) -> list[tuple[HypothesisResult, ...]]:
        request = make(PYHF)
        kind = kind_of(request)
        if kind not in references:
            # The usual tolerance leaves sqrt(q) of a weak signal a hundredth away.
            tight = PyhfEngine(PYHF, tight=True)
            references[kind] = list(tight.answers(work(request)))
        answers = list(KernelEngine(lambda: PyhfEngine(PYHF)).answers(work(make(KERNEL))))
        return list(zip(answers, references[kind], strict=True))

    return ask


@pytest.mark.parametrize("make", REQUESTS, ids=["limit", "scan", "fit", "ranking"])
def test_the_same_is_answered_and_no_minimum_is_higher(make: Callable, both: Callable) -> None:
    for ours, theirs in both(make):
        assert (ours.status, ours.reason, ours.engine) == ("ok", None, "kernel")
        assert theirs.status == "ok"
        assert (ours.name, ours.key != theirs.key) == (theirs.name, True)
        assert ours.twice_nll <= theirs.twice_nll + 1e-4
        assert ours.twice_nll == pytest.approx(theirs.twice_nll, abs=1e-3)
        assert ours.diagnostics["parameters_at_bounds"].split(", ").count("uncorr[0]") == 1


def test_limits(both: Callable) -> None:
    found, rescaled = [], []
    for ours, theirs in both(REQUESTS[0]):
        assert ours.limit.reasons.keys() == theirs.limit.reasons.keys()
        for one, other in zip(
            (ours.limit.observed, *ours.limit.expected),
            (theirs.limit.observed, *theirs.limit.expected),
            strict=True,
        ):
            found.append(one)
            assert one == (None if other is None else pytest.approx(other, rel=1e-3))
        assert ours.points[0].mu == 1.0
        assert all(point.status == "ok" for point in ours.points)
        at_one = theirs.points[0]
        assert ours.points[0].CLs_obs == pytest.approx(at_one.CLs_obs, abs=1e-4)
        assert ours.points[0].twice_delta_nll == pytest.approx(at_one.twice_delta_nll, abs=1e-4)
        # Both engines measure the signal of the same hypotheses in other units.
        assert (ours.limit.rescaled > 1) == (theirs.limit.rescaled > 1)
        rescaled.append(ours.limit.rescaled > 1)
    assert None not in found
    assert set(rescaled) == {True, False}


def test_scans(both: Callable) -> None:
    for ours, theirs in both(REQUESTS[1]):
        for one, other in zip(ours.points, theirs.points, strict=True):
            assert one.mu == other.mu
            assert one.CLs_obs == pytest.approx(other.CLs_obs, abs=1e-3)
            assert one.CLs_exp == pytest.approx(other.CLs_exp, abs=1e-3)
            assert one.twice_delta_nll == pytest.approx(other.twice_delta_nll, abs=1e-4)


def test_fits(both: Callable) -> None:
    for ours, theirs in both(REQUESTS[2]):
        for one, other in zip(ours.fit.parameters, theirs.fit.parameters, strict=True):
            same = ("name", "prefit", "prefit_uncertainty", "fixed", "at_bound")
            for field in same:
                assert getattr(one, field) == getattr(other, field), (one, other)
            sigma = other.uncertainty or 0.1
            assert one.bestfit == pytest.approx(other.bestfit, abs=1e-2 * sigma)
            assert (one.uncertainty is None) == (other.uncertainty is None)
            if one.uncertainty is not None:
                assert one.uncertainty == pytest.approx(sigma, rel=1e-2)
        assert ours.fit.correlations.names == theirs.fit.correlations.names
        for row, other in zip(
            ours.fit.correlations.lower, theirs.fit.correlations.lower, strict=True
        ):
            assert row == pytest.approx(other, abs=1e-2)


def test_yields_of_a_fit_are_those_of_its_parameters(
    both: Callable, rich: dict[str, Any], make_signal: Callable
) -> None:
    ours, theirs = both(REQUESTS[2])[1]
    pyhf.set_backend("numpy", "scipy")
    patched = pyhf.Workspace(rich).model(
        patches=[make_signal(4.0).patch],
        modifier_settings={
            "normsys": {"interpcode": "code4"},
            "histosys": {"interpcode": "code4p"},
        },
    )
    assert [one.name for one in ours.fit.channels] == patched.config.channels
    for when, name in (("postfit", "bestfit"), ("prefit", "prefit")):
        at = [getattr(one, name) for one in ours.fit.parameters]
        rows = patched.main_model.expected_data(at, return_by_sample=True)
        for channel, other in zip(ours.fit.channels, theirs.fit.channels, strict=True):
            bins = patched.config.channel_slices[channel.name]
            assert channel.data == other.data
            assert getattr(channel.total, when) == pytest.approx(
                np.sum(rows, axis=0)[bins].tolist(), rel=1e-9
            )
            for sample, same in zip(channel.samples, other.samples, strict=True):
                assert sample.name == same.name
                expected = rows[patched.config.samples.index(sample.name), bins]
                assert getattr(sample.yields, when) == pytest.approx(expected.tolist(), rel=1e-9)
                sigma = f"{when}_uncertainty"
                assert getattr(sample.yields, sigma) == pytest.approx(
                    getattr(same.yields, sigma), rel=1e-6 if when == "prefit" else 1e-2, abs=1e-9
                )


def test_the_covariance_is_the_inverse_of_the_exact_hessian(
    both: Callable, rich: dict[str, Any], make_signal: Callable
) -> None:
    import jax

    ours, _ = both(REQUESTS[2])[1]
    pyhf.set_backend("jax")
    workspace = pyhf.Workspace(rich)
    made = workspace.model(
        patches=[make_signal(4.0).patch],
        modifier_settings={
            "normsys": {"interpcode": "code4"},
            "histosys": {"interpcode": "code4p"},
        },
    )
    data = pyhf.tensorlib.astensor(workspace.data(made))
    at = np.array([one.bestfit for one in ours.fit.parameters])
    hessian = np.asarray(jax.jit(jax.hessian(lambda x: -made.logpdf(x, data)[0]))(at))
    pyhf.set_backend("numpy", "scipy")
    free = [i for i, one in enumerate(ours.fit.parameters) if one.uncertainty is not None]
    exact = np.linalg.inv(hessian[np.ix_(free, free)])
    sigmas = np.sqrt(np.diag(exact))
    assert [ours.fit.parameters[i].uncertainty for i in free] == pytest.approx(sigmas, rel=1e-6)
    correlations = exact / np.outer(sigmas, sigmas)
    for row, values in enumerate(ours.fit.correlations.lower):
        assert values == pytest.approx(correlations[row, :row], abs=1.1e-5)


def test_impacts(both: Callable) -> None:
    for ours, theirs in both(REQUESTS[3]):
        impacts = {one.parameter.name: one for one in ours.ranking.impacts}
        assert len(impacts) == len(theirs.ranking.impacts)
        # Minuit's fits with a parameter held stop a little above their minimum.
        tolerance = 1e-2 * (ours.ranking.poi.uncertainty or 1.0)
        for other in theirs.ranking.impacts:
            one = impacts[other.parameter.name]
            for field in ("postfit_up", "postfit_down", "prefit_up", "prefit_down"):
                expected = getattr(other, field)
                got = getattr(one, field)
                assert (got is None) == (expected is None), (field, one, other)
                if got is not None:
                    assert got == pytest.approx(expected, abs=tolerance), (field, one)
        sizes = [max(abs(i.postfit_up or 0), abs(i.postfit_down or 0)) for i in impacts.values()]
        assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("make", REQUESTS[1:], ids=["scan", "fit", "ranking"])
def test_what_the_kernel_doubts_pyhf_answers(
    make: Callable, both: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (kernel_fit, strengths):
        monkeypatch.setattr(module, "doubts", lambda *_: ["is odd"])
    for ours, theirs in both(make):
        assert (ours.status, ours.engine.split("/")[0]) == ("ok", "pyhf")
        assert "is odd" in ours.diagnostics["kernel doubt"]
        assert ours.twice_nll == pytest.approx(theirs.twice_nll, abs=1e-3)


def test_where_pyhf_disagrees_with_a_doubted_fit_both_are_told(
    both: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = kernel_fit.Fitted.fields

    def off(self: Fitted, problems: list[str]) -> dict[str, Any]:
        fields = real(self, [*problems, "the fit is odd"])
        return {**fields, "twice_nll": fields["twice_nll"] + 1.0}

    monkeypatch.setattr(kernel_fit.Fitted, "fields", off)
    for ours, theirs in both(REQUESTS[3]):
        assert ours.status == "suspect"
        told = f"the kernel finds -2 log L {theirs.twice_nll + 1:.5g}"
        assert ours.reason.startswith(told[:-1])
        assert "the fit is odd" in ours.reason


def test_fits_with_a_parameter_held_that_fail_are_no_impact(
    both: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = kernel_fit.hold

    def fails(*arguments: Any) -> Any:
        held = real(*arguments)
        sound = held.sound.copy()
        sound[0] = False
        return held._replace(sound=sound)

    monkeypatch.setattr(kernel_fit, "hold", fails)
    # What the kernel itself says; no second opinion is asked for.
    monkeypatch.setattr(kernel_engine, "answer_by", lambda *_: None)
    monkeypatch.setattr(kernel_engine, "weighed", lambda mine, _: mine)
    for ours, _ in both(REQUESTS[3]):
        assert ours.status == "suspect"
        assert ours.reason.startswith("no valid fit with ")
        failed = ours.reason.removeprefix("no valid fit with ").split(" ")[0]
        broken = next(i for i in ours.ranking.impacts if i.parameter.name == failed)
        assert broken.postfit_up is None or broken.prefit_up is None
