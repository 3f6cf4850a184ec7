"""Fits and tests of hypotheses: minima and CLs of pyhf, or lower minima."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyhf
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from fitserve_contract import Hypothesis, ModelOptions
from fitserve_worker.engines.ladder import Rung
from fitserve_worker.kernel.batch import compile_hypotheses
from fitserve_worker.kernel.fits import load
from fitserve_worker.kernel.hypotest import hypotest
from fitserve_worker.kernel.retries import doubts
from fitserve_worker.kernel.runtime import MAX_STEPS, Runtime, runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    Case = Any

CLS_TOLERANCE = 1e-4
NLL_TOLERANCE = 1e-4
# Minima of pyhf and the kernel that are this close are the same.
SAME = 1e-5


class Ours(NamedTuple):
    """Of one hypothesis at one signal strength; minima of -2 log L: free, null, fixed."""

    cls: np.ndarray
    minima: np.ndarray
    problems: list[str]
    parameters: list[np.ndarray]
    muhat: float


def _ours(
    case: Case,
    options: ModelOptions,
    mus: tuple[float, ...],
    test_stat: str,
    setting: Runtime | None = None,
) -> dict:
    compilation = compile_hypotheses(case.workspace, case.hypotheses, options)
    assert not compilation.unsupported
    answers = {}
    for batch in compilation.batches:
        loaded = load(batch, range(len(batch.members)), setting or runtime(), test_stat)
        tests = hypotest(loaded, mus, test_stat)
        for at, member in enumerate(batch.members):
            parameters = batch.parameters(at)
            for index, mu in enumerate(mus):
                fits = [tests.free, tests.null, tests.fixed[index], tests.asimov[index]]
                answers[member.name, mu] = Ours(
                    cls=np.array([tests.CLs_obs[at, index], *tests.CLs_exp[at, index]]),
                    minima=2
                    * np.array([fit.value[at] + loaded.chunk.constant[at] for fit in fits[:3]]),
                    problems=[one for fit in fits for one in doubts(loaded, fit, at)],
                    parameters=[parameters.join(fit.x[at], fit.local[at]) for fit in fits],
                    muhat=float(tests.muhat[at]),
                )
    return answers


class Theirs(NamedTuple):
    """As `Ours`, from pyhf with one optimizer.

    ``least`` are the fewest events that each fit expects in a bin.
    """

    cls: np.ndarray
    minima: np.ndarray
    muhat: float
    least: np.ndarray


def _theirs(model: Any, data: list[float], mu: float, test_stat: str, optimizer: Any) -> Theirs:
    pyhf.set_backend("numpy", optimizer)
    # Its lower bound decides which statistic pyhf computes, whatever its argument.
    bounds = model.config.suggested_bounds()
    low, high = bounds[model.config.poi_index]
    floor = max(low, 0.0) if test_stat == "qtilde" else min(low, -high)
    bounds[model.config.poi_index] = (floor, high)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        observed, expected, calculator = pyhf.infer.hypotest(
            mu,
            data,
            model,
            par_bounds=bounds,
            test_stat=test_stat,
            return_expected_set=True,
            return_calculator=True,
        )
        fits = calculator.fitted_pars
        ends = (fits.free_fit_to_data, fits.asimov_pars, fits.fixed_poi_fit_to_data)
        minima = [float(pyhf.infer.mle.twice_nll(fit, data, model)[0]) for fit in ends]
        least = [float(np.min(model.expected_actualdata(fit))) for fit in ends]
    return Theirs(
        np.array([observed, *expected], dtype=float),
        np.array(minima),
        float(fits.free_fit_to_data[model.config.poi_index]),
        np.array(least),
    )


def _optimizers() -> list[Any]:
    return [
        pyhf.optimize.scipy_optimizer(tolerance=1e-12, maxiter=2000),
        Rung("minuit", "initial", tight=True).make(),
    ]


def _all_of_theirs(model: Any, data: list[float]) -> list[Theirs]:
    """Return what pyhf finds at mu = 1 with each optimizer that does not fail."""
    fits = []
    for optimizer in _optimizers():
        try:
            fits.append(_theirs(model, data, 1.0, "qtilde", optimizer))
        except (pyhf.exceptions.FailedMinimization, ValueError, ArithmeticError):
            continue
    return [one for one in fits if np.isfinite(one.minima).all()]


@pytest.mark.parametrize(
    ("mus", "test_stat"), [((1.0, 0.25), "qtilde"), ((0.5,), "q")], ids=["qtilde", "q"]
)
def test_hypotheses_are_tested_as_by_pyhf(
    everything: Case,
    options: ModelOptions,
    pyhf_model: Callable,
    mus: tuple[float, ...],
    test_stat: str,
) -> None:
    ours = _ours(everything, options, mus, test_stat)
    assert len(ours) == 2 * len(mus)
    for index, hypothesis in enumerate(everything.hypotheses):
        model, data = pyhf_model(everything, index, options)
        for mu in mus:
            mine = ours[hypothesis.name, mu]
            theirs = _theirs(model, data, mu, test_stat, _optimizers()[0])
            assert mine.problems == []
            assert (mine.minima <= theirs.minima + NLL_TOLERANCE).all()
            np.testing.assert_allclose(mine.minima, theirs.minima, atol=SAME)
            np.testing.assert_allclose(mine.cls, theirs.cls, atol=CLS_TOLERANCE)
            assert mine.muhat == pytest.approx(theirs.muhat, abs=1e-3)


def test_minima_are_where_pyhf_finds_the_same_likelihood(
    everything: Case, pyhf_model: Callable
) -> None:
    options = ModelOptions()
    ours = _ours(everything, options, (1.0,), "qtilde")
    for index, hypothesis in enumerate(everything.hypotheses):
        model, data = pyhf_model(everything, index, options)
        mine = ours[hypothesis.name, 1.0]
        values = [float(pyhf.infer.mle.twice_nll(at, data, model)[0]) for at in mine.parameters[:3]]
        np.testing.assert_allclose(mine.minima, values, atol=1e-7)


def _single(data: list[float], signal: list[float], observed: list[float], **config: Any) -> Any:
    """Return a counting experiment with a correlated and an uncorrelated uncertainty."""
    workspace = {
        "channels": [
            {
                "name": "SR",
                "samples": [
                    {
                        "name": "bkg",
                        "data": data,
                        "modifiers": [
                            {
                                "name": "stat",
                                "type": "staterror",
                                "data": [0.1 * value for value in data],
                            },
                            {"name": "norm", "type": "normsys", "data": {"hi": 1.1, "lo": 0.9}},
                        ],
                    }
                ],
            }
        ],
        "observations": [{"name": "SR", "data": observed}],
        "measurements": [
            {"name": "m", "config": {"poi": "mu", "parameters": [{"name": "mu", **config}]}}
        ],
        "version": "1.0.0",
    }
    patch = [
        {
            "op": "add",
            "path": "/channels/0/samples/0",
            "value": {
                "name": "signal",
                "data": signal,
                "modifiers": [{"name": "mu", "type": "normfactor", "data": None}],
            },
        }
    ]
    return workspace, [Hypothesis(name="one", values=(), patch=patch)]


class _Case(NamedTuple):
    workspace: dict[str, Any]
    hypotheses: list[Hypothesis]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(_single([5.0, 3.0], [2.0, 2.0], [0.0, 0.0]), id="nothing observed"),
        pytest.param(_single([5.0, 3.0], [2.0, 2.0], [6.0, 0.0]), id="an empty bin"),
        pytest.param(_single([5.0, 0.0], [2.0, 0.0], [6.0, 0.0]), id="a bin without anything"),
        pytest.param(_single([5.0, 3.0], [2.0, 0.0], [60.0, 40.0]), id="mu at its upper bound"),
        pytest.param(_single([4e6, 3e6], [2e3, 5e3], [4.001e6, 3.002e6]), id="huge counts"),
        pytest.param(_single([5.0, 3.0], [900.0, 700.0], [6.0, 2.0]), id="far too strong"),
        pytest.param(_single([5.0, 3.0], [1e-3, 1e-3], [6.0, 2.0]), id="far too weak"),
        pytest.param(
            _single([50.0, 30.0], [9.0, 7.0], [41.0, 22.0], bounds=[[-4.0, 8.0]]),
            id="mu below zero",
        ),
    ],
)
def test_edges_are_those_of_pyhf(case: Any, pyhf_model: Callable) -> None:
    case = _Case(*case)
    mine = _ours(case, ModelOptions(), (1.0,), "qtilde")["one", 1.0]
    assert mine.problems == []
    model, data = pyhf_model(case, 0, ModelOptions())
    theirs = _all_of_theirs(model, data)
    best = np.min([one.minima for one in theirs], axis=0)
    assert (mine.minima <= best + NLL_TOLERANCE).all()
    # pyhf has no CLs where its fits end with a free one above a constrained one, and others
    # where they end above the minimum by as much as the signal makes (how much, and for which
    # counts, depends on the processor). So it is its likelihood that decides.
    np.testing.assert_allclose(mine.cls, _from_minima(model, data, mine), atol=CLS_TOLERANCE)
    lowest = np.minimum(best, mine.minima)
    agree = [one for one in theirs if np.abs(one.minima - lowest).max() <= SAME]
    differences = [np.abs(one.cls - mine.cls).max() for one in agree if np.isfinite(one.cls).all()]
    assert not differences or min(differences) <= CLS_TOLERANCE


def _from_minima(model: Any, data: list[float], mine: Ours) -> np.ndarray:
    """Return CLs at mu = 1 by pyhf's likelihood at the minima, and by its distributions.

    From each minimum pyhf goes on with Minuit, and the lower value counts. The test statistic
    is that of arXiv:1007.1727, eq. 16, with the Asimov data set of the background-only fit.
    """
    pyhf.set_backend("numpy", Rung("minuit", "initial", tight=True).make())
    free, null, fixed, asimov_fixed = mine.parameters
    asimov = model.expected_data(null)

    def minimum(at: np.ndarray, observed: Any, *, mu: float | None = None) -> float:
        held = model.config.suggested_fixed()
        held[model.config.poi_index] = mu is not None
        value = float(pyhf.infer.mle.twice_nll(at, observed, model)[0])
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                _, lower = pyhf.infer.mle.fit(
                    observed, model, init_pars=list(at), fixed_params=held, return_fitted_val=True
                )
        except pyhf.exceptions.FailedMinimization:
            return value
        return min(value, float(lower))

    q = 0.0
    if mine.muhat <= 1.0:
        best = minimum(free, data) if mine.muhat >= 0 else minimum(null, data, mu=0.0)
        q = max(minimum(fixed, data, mu=1.0) - best, 0.0)
    q_asimov = max(minimum(asimov_fixed, asimov, mu=1.0) - minimum(null, asimov), 0.0)
    root, root_asimov = np.sqrt(q), np.sqrt(q_asimov)
    statistic = root - root_asimov if root <= root_asimov else (q - q_asimov) / (2 * root_asimov)
    normal = pyhf.infer.calculators.AsymptoticTestStatDistribution
    signal, background = normal(-root_asimov), normal(0.0)
    values = [statistic, *(background.expected_value(n) for n in (2, 1, 0, -1, -2))]
    return np.array([signal.pvalue(one) / background.pvalue(one) for one in values], dtype=float)


def test_a_fit_does_not_depend_on_its_company(everything: Case) -> None:
    together = _ours(everything, ModelOptions(), (1.0,), "qtilde")
    for hypothesis in everything.hypotheses:
        alone = _ours(_Case(everything.workspace, [hypothesis]), ModelOptions(), (1.0,), "qtilde")[
            hypothesis.name, 1.0
        ]
        both = together[hypothesis.name, 1.0]
        np.testing.assert_allclose(alone.cls, both.cls, atol=1e-7)
        np.testing.assert_allclose(alone.minima, both.minima, atol=1e-8)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """Return how a GPU is used, but with few fits in a call and few evaluations in a round."""
    monkeypatch.setattr("fitserve_worker.kernel.runtime._GPU_FITS", 8)
    return runtime()._replace(in_turn=False, rounds=(2, 3, MAX_STEPS - 5), threads=1)


@pytest.mark.parametrize("options", ["default", "kinked"], indirect=True)
def test_fits_that_are_done_at_once_and_in_rounds_are_the_same(
    everything: Case, at_once: Runtime, options: ModelOptions
) -> None:
    many = _Case(
        everything.workspace,
        [
            Hypothesis(name=f"{one.name} {copy}", values=(), patch=one.patch)
            for copy in range(3)
            for one in everything.hypotheses
        ],
    )
    in_turn = _ours(many, options, (1.0,), "qtilde")
    rounds = _ours(many, options, (1.0,), "qtilde", at_once)
    assert in_turn.keys() == rounds.keys()
    for key, one in in_turn.items():
        assert rounds[key].problems == one.problems == []
        np.testing.assert_allclose(rounds[key].cls, one.cls, atol=1e-5)
        np.testing.assert_allclose(rounds[key].minima, one.minima, atol=1e-7)


def test_evaluations_of_all_rounds_are_counted(everything: Case, at_once: Runtime) -> None:
    (batch,) = compile_hypotheses(
        everything.workspace, everything.hypotheses, ModelOptions()
    ).batches
    members = range(len(batch.members))

    def fits(setting: Runtime) -> Any:
        loaded = load(batch, members, setting)
        every = np.arange(len(members))
        return loaded.fit(every, loaded.chunk.columns["init"][every], loaded.observed)

    needed = fits(at_once)
    assert needed.converged.all()
    assert needed.steps.min() > sum(at_once.rounds[:1])
    few = fits(at_once._replace(rounds=(2, 2)))
    assert not few.converged.any()
    assert (few.steps == 4).all()
    assert few.value.sum() < fits(at_once._replace(rounds=(1,))).value.sum()


def test_how_many_fits_are_done_at_once_depends_on_their_size(at_once: Runtime) -> None:
    assert at_once.calls(1) == (2, 8)
    assert at_once.calls(2**40) == (1,)
    assert runtime().calls(2**40) == (runtime().capacity,)


def test_many_hypotheses_are_fitted_in_pieces(everything: Case) -> None:
    """More than fit into one call of the program, and with threads."""
    hypotheses = [
        Hypothesis(name=f"{one.name} {copy}", values=(), patch=one.patch)
        for copy in range(20)
        for one in everything.hypotheses
    ]
    (batch,) = compile_hypotheses(everything.workspace, hypotheses, ModelOptions()).batches
    setting = runtime()
    assert len(hypotheses) > setting.capacity
    members = range(setting.capacity)
    alone = hypotest(load(batch, members, setting), (1.0,), "qtilde")
    threads = hypotest(load(batch, members, setting._replace(threads=2)), (1.0,), "qtilde")
    np.testing.assert_array_equal(alone.CLs_obs, threads.CLs_obs)
    for parity in range(2):
        one = alone.CLs_obs[parity::2, 0]
        # The first one's fits start elsewhere, so that the last bits are others.
        assert np.ptp(one) < 1e-9


def _generated(data: st.DataObject, models: Callable, codes: Any, pyhf_model: Callable) -> None:
    """Compare on a model without systematics that move a yield the same way twice."""
    drawn, options = data.draw(models(wild=False)), data.draw(codes)
    case = _Case(drawn.workspace, drawn.hypotheses[:1])
    assume(not compile_hypotheses(case.workspace, case.hypotheses, options).unsupported)
    mine = _ours(case, options, (1.0,), "qtilde")["h0", 1.0]
    if mine.problems:
        event(mine.problems[0])
        return
    event("sound")
    model, observed = pyhf_model(case, 0, options)
    for one in _all_of_theirs(model, observed):
        # Negative events in an empty bin are no probability, though pyhf has a number.
        assert ((mine.minima <= one.minima + NLL_TOLERANCE) | (one.least < 0)).all()


RELAXED = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=RELAXED)
@given(data=st.data())
def test_minima_of_generated_models_are_no_higher_than_those_of_pyhf(
    data: st.DataObject, models_strategy: Callable, any_options: Any, pyhf_model: Callable
) -> None:
    _generated(data, models_strategy, any_options, pyhf_model)
