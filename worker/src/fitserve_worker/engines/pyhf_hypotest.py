"""pyhf's asymptotic CLs at one signal strength, from any start, and the reasons to doubt it."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyhf

from fitserve_worker.engines.base import cls_problems
from fitserve_worker.engines.ladder import Rung
from fitserve_worker.engines.models import build, without_warnings
from fitserve_worker.kernel.asymptotics import compared_floor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from fitserve_contract import HypotestRequest, Hypothesis
    from fitserve_worker.engines.base import Work
    from fitserve_worker.engines.models import BuiltModel

__all__ = ["Evaluation", "evaluate", "from_elsewhere", "quiet_pyhf", "statistic_bounds"]

# Steps of finite differences: the first one, in units of 1 or of the parameter, and the rise of
# -2 log L that one should give; a second is made where the first misses it by more than the factor.
_STEP = 1e-2
_RISE = 1e-3
_FACTOR = 30.0
_LARGEST = 0.5
# Fits that end above the true minimum shift sqrt(q), on which CLs depends with a slope
# below one. Good fits of the published pallets shift it by less than 1e-6, a weak signal
# fitted with an optimizer's usual tolerance by 1e-2.
_SHIFT = 1e-3
# The largest signal strength to start from.
_MOST = 2.0


class Evaluation(NamedTuple):
    """CLs of one hypothesis at one signal strength, and the reasons to doubt them.

    ``muhat`` and ``twice_nll`` are of the free fit to the observed data; ``shift`` is how
    much sqrt(q) is wrong because minima of -2 log L lie above known ones. ``twice_delta_nll`` is
    the rise of -2 log L when the signal strength is held, ``q_asimov`` that of the Asimov data,
    whose minimum is known; ``twice_nll_background`` is of the fit without signal.
    """

    CLs_obs: float
    CLs_exp: list[float]
    muhat: float
    twice_nll: float
    shift: float
    problems: list[str]
    twice_delta_nll: float = math.nan
    q_asimov: float = math.nan
    twice_nll_background: float = math.nan

    @property
    def usable(self) -> bool:
        """Whether every CLs is a number."""
        return all(map(math.isfinite, (self.CLs_obs, *self.CLs_exp)))


def quiet_pyhf() -> None:
    """Keep pyhf from logging failed fits: they are recorded in their results."""
    logging.getLogger("pyhf").setLevel(logging.CRITICAL)


def evaluate(built: BuiltModel, mu: float, test_stat: str, start: Sequence[float]) -> Evaluation:
    """Run pyhf's asymptotic calculator (arXiv:1007.1727) from a given start.

    Parameters
    ----------
    built
        Model and data.
    mu
        The signal strength to test.
    test_stat
        ``"qtilde"`` or ``"q"``.
    start
        Initial values of all parameters, in the model's order.

    Raises
    ------
    pyhf.exceptions.FailedMinimization
        The optimizer says that it failed.
    """
    config = built.model.config
    poi = config.poi_index
    between = statistic_bounds(built, test_stat)
    with without_warnings():
        observed, expected, calculator = pyhf.infer.hypotest(
            mu,
            built.data,
            built.model,
            init_pars=_inside(start, between),
            par_bounds=between,
            test_stat=test_stat,
            return_expected_set=True,
            return_calculator=True,
        )
        fits = _fits(built, calculator.fitted_pars, between)
        muhat, free = fits.muhat, fits.free
        if between[poi][0] > config.suggested_bounds()[poi][0]:
            # For q-tilde the best fit is at zero or above; the reported one may be below.
            pars, value = pyhf.infer.mle.fit(
                built.data, built.model, init_pars=list(start), return_fitted_val=True
            )
            if float(np.asarray(value).item()) < free:
                muhat, free = float(pars[poi]), float(np.asarray(value).item())
    cls_obs = float(observed)
    cls_exp = [float(value) for value in expected]
    shift = _shift(fits, mu)
    return Evaluation(
        CLs_obs=cls_obs,
        CLs_exp=cls_exp,
        muhat=muhat,
        twice_nll=free,
        shift=shift,
        problems=_problems(cls_obs, cls_exp, shift),
        twice_delta_nll=fits.fixed - free,
        q_asimov=max(0.0, fits.asimov_fixed - min(fits.asimov_free, fits.asimov_exact)),
        twice_nll_background=fits.background,
    )


def statistic_bounds(built: BuiltModel, test_stat: str) -> list[tuple[float, float]]:
    """Return the bounds of all parameters with which pyhf's fits give a test statistic.

    Whatever its argument, the lower bound of the parameter of interest decides which one pyhf
    computes: for q-tilde that must be zero, for q below.
    """
    config = built.model.config
    bounds = [(float(low), float(high)) for low, high in config.suggested_bounds()]
    low, high = bounds[config.poi_index]
    bounds[config.poi_index] = (float(compared_floor(low, high, test_stat)), high)
    return bounds


def _inside(start: Sequence[float], bounds: Sequence[tuple[float, float]]) -> list[float]:
    return [min(max(one, low), high) for one, (low, high) in zip(start, bounds, strict=True)]


class _Fits(NamedTuple):
    """-2 log L at the five minima of a hypothesis test, and at a sixth that is exact.

    ``free``, ``fixed`` and ``background`` are of the observed data with the signal
    strength free, at the tested value and at zero; ``asimov_*`` of the Asimov data set,
    whose own parameters are its exact minimum, ``asimov_exact``. ``away`` is how much lower
    free, fixed, background and asimov_fixed are by `_distance`.
    """

    muhat: float
    free: float
    fixed: float
    background: float
    asimov_free: float
    asimov_fixed: float
    asimov_exact: float
    away: tuple[float, float, float, float]


def _fits(
    built: BuiltModel,
    pars: pyhf.infer.calculators.HypoTestFitResults,
    bounds: list[tuple[float, float]],
) -> _Fits:
    model, data = built
    asimov = list(model.expected_data(pars.asimov_pars))

    def twice_nll(at: Sequence[float], to: Sequence[float]) -> float:
        return float(np.asarray(pyhf.infer.mle.twice_nll(at, to, model)).item())

    fixed = list(model.config.suggested_fixed())
    held = [*fixed]
    held[model.config.poi_index] = True

    def away(at: Sequence[float], to: Sequence[float], constant: Sequence[bool]) -> float:
        return _distance(lambda x: twice_nll(x.tolist(), to), at, bounds, constant)

    return _Fits(
        muhat=float(pars.free_fit_to_data[model.config.poi_index]),
        free=twice_nll(pars.free_fit_to_data, data),
        fixed=twice_nll(pars.fixed_poi_fit_to_data, data),
        background=twice_nll(pars.asimov_pars, data),
        asimov_free=twice_nll(pars.free_fit_to_asimov, asimov),
        asimov_fixed=twice_nll(pars.fixed_poi_fit_to_asimov, asimov),
        asimov_exact=twice_nll(pars.asimov_pars, asimov),
        away=(
            away(pars.free_fit_to_data, data, fixed),
            away(pars.fixed_poi_fit_to_data, data, held),
            away(pars.asimov_pars, data, held),
            away(pars.fixed_poi_fit_to_asimov, asimov, held),
        ),
    )


def _shift(fits: _Fits, mu: float) -> float:
    """Return the error of sqrt(q) that the known minima, and slopes at the fits, show.

    A free fit is never above a constrained one to the same data. Where the best signal
    strength is above the tested one q is zero whatever the minimum (arXiv:1007.1727,
    equation 14), so that the minima of the observed data do not matter.
    """
    free, fixed, background, expected = fits.away
    observed = 0.0
    if fits.muhat <= mu:
        lowest = min(fits.free - free, fits.fixed - fixed, fits.background - background)
        observed = abs(_root(fits.fixed - fixed - lowest) - _root(fits.fixed - fits.free))
    lowest = min(fits.asimov_free, fits.asimov_exact)
    fitted = _root(fits.asimov_fixed - fits.asimov_free)
    asimov = abs(_root(fits.asimov_fixed - expected - lowest) - fitted)
    return max(observed, asimov)


def _root(q: float) -> float:
    return math.sqrt(max(q, 0.0)) if math.isfinite(q) else math.nan


def _problems(cls_obs: float, cls_exp: list[float], shift: float) -> list[str]:
    values = [cls_obs, *cls_exp]
    if not all(map(math.isfinite, (*values, shift))):
        return ["a result is not a finite number"]
    problems = cls_problems(np.array([values]))
    if shift > _SHIFT:
        problems.append(f"a fit stopped above its minimum: sqrt(q) is wrong by {shift:.2g}")
    return problems


def from_elsewhere(
    work: Work, hypothesis: Hypothesis, request: HypotestRequest, seed: int
) -> Iterator[Evaluation]:
    """Yield pyhf's evaluation from each of three starts, if it has numbers.

    The starts are the initial values with all constrained parameters moved by their widths: up,
    down, and at random, the last with a random signal strength too.

    Parameters
    ----------
    work
        The task.
    hypothesis
        One of its hypotheses.
    request
        A test of one signal strength.
    seed
        Seed of the random start.
    """
    built = build(work, hypothesis.patch)
    rung = Rung(request.engine.optimizer, "elsewhere", tight=True)
    pyhf.set_backend(request.engine.backend, rung.make())
    (mu,) = request.mu
    for start in _starts(built, seed):
        try:
            evaluation = evaluate(built, mu, request.test_stat, start)
        except (pyhf.exceptions.FailedMinimization, ValueError, ArithmeticError):
            continue
        if evaluation.usable:
            yield evaluation


def _starts(built: BuiltModel, seed: int) -> Iterator[list[float]]:
    config = built.model.config
    initial = np.asarray(config.suggested_init(), dtype=float)
    low, high = np.asarray(config.suggested_bounds(), dtype=float).T
    width = np.zeros(len(initial))
    for name in config.par_order:
        parameter = config.param_set(name)
        if parameter.constrained:
            width[config.par_slice(name)] = parameter.width()
    width[np.asarray(config.suggested_fixed(), dtype=bool)] = 0.0
    random = np.random.default_rng(seed)
    poi = config.poi_index
    moved = initial + width * random.normal(size=len(initial))
    moved[poi] = random.uniform(low[poi], max(low[poi], min(_MOST, high[poi])))
    for start in (initial + width, initial - width, moved):
        yield np.clip(start, low, high).tolist()


def _distance(
    function: Callable[[NDArray[np.float64]], float],
    at: Sequence[float],
    bounds: Sequence[tuple[float, float]],
    fixed: Sequence[bool],
) -> float:
    """Return about how much lower than at a point -2 log L can be, one parameter at a time.

    Optimizers report convergence where a step gains little in their own units: with a weak signal,
    whose strength hardly changes -2 log L, long before its minimum. This is the sum of the gains
    of a step in each parameter, within its bounds, to the minimum of the parabola given by the
    first and second derivatives.

    Parameters
    ----------
    function
        -2 log L of all parameters.
    at
        Where a fit ended.
    bounds, fixed
        Of the parameters.
    """
    point = np.asarray(at, dtype=float)
    here = function(point)
    total = 0.0
    for index in np.flatnonzero(~np.asarray(fixed, dtype=bool)).tolist():
        low, high = bounds[index]
        step = _STEP * max(1.0, abs(point[index]))
        slope, bend = _derivatives(function, point, here, index, (low, high), step)
        rise = 0.5 * bend * step**2
        if bend > 0 and not _RISE / _FACTOR < rise < _RISE * _FACTOR:
            step = min((2 * _RISE / bend) ** 0.5, _LARGEST * (high - low) / 2)
            slope, bend = _derivatives(function, point, here, index, (low, high), step)
        if bend > 0:
            move = min(max(-slope / bend, low - point[index]), high - point[index])
            total -= move * (slope + 0.5 * bend * move)
    return total


def _derivatives(
    function: Callable[[NDArray[np.float64]], float],
    point: NDArray[np.float64],
    here: float,
    index: int,
    bounds: tuple[float, float],
    step: float,
) -> tuple[float, float]:
    """Return first and second derivative, from one side where the other is out of bounds."""

    def value(offset: float) -> float:
        moved = point.copy()
        moved[index] += offset
        return function(moved)

    low, high = bounds
    if low <= point[index] - step and point[index] + step <= high:
        above, below = value(step), value(-step)
        return (above - below) / (2 * step), (above - 2 * here + below) / step**2
    step = step if point[index] + 2 * step <= high else -step
    first, second = value(step), value(2 * step)
    return (
        (4 * first - second - 3 * here) / (2 * step),
        (second - 2 * first + here) / step**2,
    )
