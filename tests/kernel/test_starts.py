"""Fits from several starts: the lowest minimum counts, and other minima are reported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyhf
import pytest

from fitserve_contract import (
    EngineOptions,
    FitRequest,
    HypotestRequest,
    Hypothesis,
    LimitRequest,
    ModelOptions,
    ScanRequest,
    digest,
    request_digest,
)
from fitserve_worker.engines import answers
from fitserve_worker.engines.base import Work
from fitserve_worker.kernel.batch import compile_hypotheses
from fitserve_worker.kernel.fits import Loaded, load
from fitserve_worker.kernel.runtime import runtime
from fitserve_worker.kernel.spec import most_same_sided, read_sample
from fitserve_worker.kernel.starts import Cases, SecondMinima, deepened, falling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve_contract import HypothesisResult, Request


def _normfactor(name: str) -> dict[str, Any]:
    return {"name": name, "type": "normfactor", "data": None}


def _workspace(*, bounds: Sequence[float] = (0.0, 10.0), up: float = 24.0) -> dict[str, Any]:
    """Return one bin with more events than expected, and a systematic that only adds some."""
    shape = {"hi_data": [100.0 + up], "lo_data": [120.0]}
    background = {
        "name": "background",
        "data": [100.0],
        "modifiers": [{"name": "tilt", "type": "histosys", "data": shape}],
    }
    signal = {"name": "signal", "data": [6.0], "modifiers": [_normfactor("mu")]}
    parameters = [{"name": "mu", "bounds": [list(bounds)]}]
    return {
        "channels": [{"name": "SR", "samples": [background, signal]}],
        "observations": [{"name": "SR", "data": [115.0]}],
        "measurements": [{"name": "main", "config": {"poi": "mu", "parameters": parameters}}],
        "version": "1.0.0",
    }


def _loaded(workspace: dict[str, Any]) -> Loaded:
    hypothesis = Hypothesis(name="one", values=(), patch=[])
    (batch,) = compile_hypotheses(workspace, [hypothesis], ModelOptions()).batches
    return load(batch, [0], runtime())


def _answered(workspace: dict[str, Any], request: Request) -> HypothesisResult:
    hypothesis = Hypothesis(name="one", values=(), patch=[])
    work = Work(digest(workspace), workspace, [hypothesis], request, request_digest(request))
    (result,) = answers(work)
    return result


def _held_at_zero(loaded: Loaded, tilt: float) -> tuple[Cases, Any]:
    one, zero = np.zeros(1, dtype=int), np.zeros(1)
    cases = Cases(one, zero, loaded.observed)
    start = loaded.chunk.columns["init"][one].copy()
    start[0, 0] = tilt
    return cases, loaded.fit(one, start, loaded.observed, zero)


@pytest.mark.parametrize("tilt", [-0.8, 0.8])
def test_the_lower_of_two_minima_is_found_from_either(tilt: float) -> None:
    loaded = _loaded(_workspace())
    cases, ended = _held_at_zero(loaded, tilt)
    # Up reaches the data with less of the systematic than down.
    assert np.sign(ended.x[0, 0]) == np.sign(tilt)
    fits, seen = deepened(loaded, cases, ended)
    assert 0 < fits.x[0, 0] < 1
    model = pyhf.Workspace(_workspace()).model()
    data = pyhf.Workspace(_workspace()).data(model)
    mu = model.config.poi_index
    points = np.zeros((6001, 2))
    points[:, 1 - mu] = np.linspace(-3, 3, len(points))
    scan = [float(-2 * model.logpdf(point, data)[0]) for point in points]
    constant = 2 * loaded.chunk.constant[0]
    assert 2 * fits.value[0] + constant == pytest.approx(min(scan), abs=1e-5)
    # The second one is where the scan has it.
    below = min(scan[:3000])
    assert 2 * seen.rival[0] == pytest.approx(below - min(scan), abs=1e-3)


@pytest.mark.parametrize("up", [23.0, 30.0])
def test_a_lower_minimum_without_signal_has_all_digits(up: float) -> None:
    loaded = _loaded(_workspace(up=up))
    cases, ended = _held_at_zero(loaded, -0.8)
    fits, _ = deepened(loaded, cases, ended)
    assert fits.x[0, 0] > 0
    bounds = loaded.bounds(cases.hypothesis, cases.poi)
    exact = loaded.fit_between(cases.hypothesis, fits.x, cases.data, bounds, exact=True)
    # Asimov data are made of these parameters; for the minimum 1e-9 is enough.
    assert fits.x == pytest.approx(exact.x, abs=1e-11)


def test_one_minimum_has_no_rival() -> None:
    workspace = _workspace()
    workspace["channels"][0]["samples"][0]["modifiers"][0]["data"]["lo_data"] = [78.0]
    loaded = _loaded(workspace)
    cases, ended = _held_at_zero(loaded, 0.5)
    fits, seen = deepened(loaded, cases, ended)
    assert fits.value[0] == pytest.approx(ended.value[0], abs=1e-9)
    assert np.isinf(seen.rival[0])
    assert seen.starts[0] > 1
    assert seen.same[0] == seen.starts[0]
    assert seen.doubts(0, 1e9) == []


def test_a_second_minimum_is_reported_and_no_doubt() -> None:
    result = _answered(_workspace(), HypotestRequest())
    assert (result.status, result.engine) == ("ok", "kernel")
    assert 0.01 < result.diagnostics["second_minimum"] < 1
    assert "kernel doubt" not in result.diagnostics


def test_equally_deep_minima_without_signal_are_doubted() -> None:
    # Up and down do the same: which one the Asimov data are made of is arbitrary.
    result = _answered(_workspace(up=20.0), HypotestRequest(engine=EngineOptions(engine="kernel")))
    doubt = result.diagnostics["kernel doubt"]
    assert "the fit with background has a second minimum" in str(doubt)


@pytest.mark.parametrize(
    ("rival", "same", "starts", "close", "doubted"),
    [
        (np.inf, 30, 30, 0.0, False),
        (0.2, 20, 30, 0.0, False),
        (0.2, 20, 30, 0.5, True),
        (3.0, 1, 30, 0.0, True),
        (3.0, 1, 3, 0.0, False),
    ],
)
def test_what_is_doubted(
    rival: float, same: int, starts: int, close: float, *, doubted: bool
) -> None:
    seen = SecondMinima(np.array([rival]), np.array([same]), np.array([starts]), np.zeros(1))
    assert bool(seen.doubts(0, close)) is doubted


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([(0.0, 1.0), (1.0, 0.5), (3.0, 2.0)], None),
        ([(0.0, 1.0), (1.0, 1.5), (3.0, 2.0)], "from mu = 1 to 0"),
        ([(0.0, 5.0), (3.0, 2.0), (4.0, 1.0)], "from mu = 3 to 4"),
    ],
)
def test_a_profile_that_falls_away_from_its_minimum(
    points: list[tuple[float, float]], reason: str | None
) -> None:
    reasons = falling(points, (2.0, 0.4))
    assert (reason is None and not reasons) or reason in reasons[0]


def _cls(result: HypothesisResult) -> list[float]:
    return [result.CLs_obs, *result.CLs_exp]


@pytest.mark.parametrize("engine", ["kernel", "pyhf"])
@pytest.mark.parametrize("kind", ["hypotest", "limit", "scan"])
@pytest.mark.parametrize("events", [80.0, 92.0, 115.0])
def test_the_statistic_is_what_it_says_whatever_the_bounds(
    events: float, kind: str, engine: str
) -> None:
    def tested(bounds: tuple[float, float], test_stat: str) -> HypothesisResult:
        workspace = _workspace(bounds=bounds)
        workspace["channels"][0]["samples"][0]["modifiers"][0]["data"]["lo_data"] = [78.0]
        workspace["observations"][0]["data"] = [events]
        options = {"test_stat": test_stat, "engine": EngineOptions(engine=engine)}
        request = {
            "hypotest": lambda: HypotestRequest(**options),
            "limit": lambda: LimitRequest(**options),
            "scan": lambda: ScanRequest(mu=(1.0, 2.0), **options),
        }[kind]()
        return _answered(workspace, request)

    for test_stat in ("qtilde", "q"):
        from_zero, from_below = (tested(bounds, test_stat) for bounds in ((0, 10), (-10, 10)))
        assert from_zero.status == from_below.status == "ok"
        assert _cls(from_zero) == pytest.approx(_cls(from_below), abs=1e-4)
        if from_zero.limit:
            pair = [one.limit.observed for one in (from_zero, from_below)]
            assert pair[0] == pytest.approx(pair[1], rel=1e-3)
    # Both order the data by their best fit, so that with many events CLs are the same; with the
    # one's value in the other's distribution they are not.
    pair = [tested((0, 10), "q").CLs_obs, tested((-10, 10), "qtilde").CLs_obs]
    assert pair[0] == pytest.approx(pair[1], abs=0.01)


def test_q_tilde_with_a_best_fit_below_zero_is_equation_16() -> None:
    workspace = _workspace(bounds=(-10, 10))
    workspace["channels"][0]["samples"][0]["modifiers"] = []
    workspace["observations"][0]["data"] = [80.0]
    result = _answered(workspace, HypotestRequest())
    assert result.muhat == pytest.approx((80 - 100) / 6, abs=1e-5)

    def twice_nll(rate: float, count: float = 80.0) -> float:
        return 2 * (rate - count * np.log(rate))

    # arXiv:1007.1727: eq. 16 with L(0) below, eq. 65 and 66 for its distribution.
    q = twice_nll(106) - twice_nll(100)
    q_asimov = twice_nll(106, 100) - twice_nll(100, 100)
    from scipy.stats import norm

    sb = norm.sf((q + q_asimov) / (2 * np.sqrt(q_asimov)))
    b = norm.sf((q - q_asimov) / (2 * np.sqrt(q_asimov)))
    assert q > q_asimov
    assert result.CLs_obs == pytest.approx(sb / b, abs=1e-7)
    assert result.points[0].twice_delta_nll == pytest.approx(
        twice_nll(106) - twice_nll(80), abs=1e-7
    )


def test_cls_do_not_depend_on_how_hypotheses_are_cut_into_tasks(everything: Any) -> None:
    def results(*tasks: list[Hypothesis]) -> dict[str, list[float]]:
        request = HypotestRequest()
        named = {}
        for some in tasks:
            work = Work(
                digest(everything.workspace),
                everything.workspace,
                some,
                request,
                request_digest(request),
            )
            named |= {one.name: (one.engine, _cls(one)) for one in answers(work)}
        return named

    every = list(everything.hypotheses)
    whole = results(every)
    assert results(every) == whole
    for tasks in ([[one] for one in every], [every[::-1]]):
        again = results(*tasks)
        for name, (engine, cls) in whole.items():
            assert again[name][0] == engine == "kernel"
            assert again[name][1] == pytest.approx(cls, abs=1e-7)


@pytest.mark.parametrize("engine", ["kernel", "pyhf"])
def test_parameters_that_the_data_cannot_tell_apart_have_no_uncertainty_to_trust(
    engine: str,
) -> None:
    workspace = _workspace()
    background = workspace["channels"][0]["samples"][0]
    background["modifiers"] = [_normfactor("norm")]
    result = _answered(workspace, FitRequest(engine=EngineOptions(engine=engine)))
    assert result.status == "suspect"
    assert "the data do not tell mu, norm apart" in result.reason
    # A control region tells them apart.
    region = {"name": "CR", "samples": [{**background, "data": [1000.0]}]}
    workspace["channels"].append(region)
    workspace["observations"].append({"name": "CR", "data": [1010.0]})
    assert _answered(workspace, FitRequest(engine=EngineOptions(engine=engine))).status == "ok"


def test_signal_strengths_that_read_alike_are_told_apart() -> None:
    result = _answered(_workspace(), HypotestRequest(mu=(1.0, 1.0000001)))
    assert (result.status, len(result.points)) == ("ok", 2)


def test_how_far_systematics_move_a_bin_to_one_side() -> None:
    """100 events, so that one of them is a tenth of a standard deviation."""

    def sample(name: str, data: list[float], **shifts: tuple[float, float]) -> Any:
        modifiers: list[dict[str, Any]] = [
            {
                "name": one,
                "type": "histosys",
                "data": {"lo_data": [data[0] + low], "hi_data": [data[0] + high]},
            }
            for one, (low, high) in shifts.items()
        ]
        factor = {"hi": 1.1, "lo": 1.05}
        modifiers.append({"name": "scale", "type": "normsys", "data": factor})
        return read_sample("SR", {"name": name, "data": data, "modifiers": modifiers})

    # Both ways: no. Down by 5 or 8: 5. Up by 6 and 3 or by 1 and 3, in two samples: 4.
    first = sample("one", [60.0], both=(-9.0, 9.0), down=(-5.0, -8.0), up=(6.0, 1.0))
    second = sample("two", [40.0], up=(3.0, 3.0))
    # The factors of both samples move the bin up by 5 or 10.
    assert most_same_sided([first, second]) == pytest.approx((4.0 + 5.0) / 10)
    alone = first._replace(normsys=((), np.zeros((0, 2))))
    assert most_same_sided([alone]) == pytest.approx(5.0 / np.sqrt(60.0))
    fixed = first._replace(normsys=((), np.zeros((0, 2))), histosys=((), np.zeros((0, 2, 1))))
    assert most_same_sided([fixed]) == most_same_sided([]) == 0.0


def test_only_a_background_that_is_rugged_is_searched_with_weaker_constraints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bin is moved by 12 of 100 events, up and down, which is 1.2 standard deviations."""
    weaker = []
    real = Loaded.weaker

    def noted(self: Loaded, part: float) -> Loaded:
        weaker.append(part)
        return real(self, part)

    monkeypatch.setattr(Loaded, "weaker", noted)
    for up, rugged in ((12.0, False), (24.0, True)):
        loaded = _loaded(_workspace(up=up))
        assert loaded.rugged == rugged
        deepened(loaded, *_held_at_zero(loaded, 0.1))
        assert bool(weaker) == rugged


def test_weaker_constraints_are_that_much_weaker() -> None:
    loaded = _loaded(_workspace())
    weaker = loaded.weaker(0.25)
    assert weaker is loaded.weaker(0.25)
    one, zero = np.zeros(1, dtype=int), np.zeros(1)
    start = loaded.chunk.columns["init"][one]
    ends = [each.fit(one, start, loaded.observed, zero) for each in (loaded, weaker)]
    for part, end in zip((1.0, 0.25), ends, strict=True):
        # The bin's own pull and that of the constraint cancel at the minimum.
        pull = 1 - 115.0 / end.yields[0, loaded.slots[0]]
        step = 1e-6
        moved = loaded.evaluate(
            one, end.x + step * np.eye(end.x.shape[1])[:1], end.local, loaded.observed
        )[0]
        slope = (moved.yields[0, loaded.slots[0]] - end.yields[0, loaded.slots[0]]) / step
        assert pull * slope + part * end.x[0, 0] == pytest.approx(0.0, abs=1e-3)
