"""Maximum-likelihood fits by Minuit, with covariance and profile-likelihood intervals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyhf
from iminuit import Minuit

from fitserve_worker.engines.base import ABOVE
from fitserve_worker.engines.models import without_warnings
from fitserve_worker.engines.solution import listed
from fitserve_worker.kernel.covariance import BOUND_COST, BOUND_NEAR

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from fitserve_worker.engines.ladder import Rung
    from fitserve_worker.engines.models import BuiltModel

__all__ = ["BestFit", "Objective", "best_fit", "hold"]

# Starts are moved inside the bounds by this fraction of the range (or of 1): at a bound itself
# Minuit's transformed parameter has no slope.
_INSIDE = 1e-3
_CALLS = 100_000
# Minuit's tolerance, of which 0.002 is the estimated distance to the minimum: the usual 0.1 leaves
# parameters a hundredth of their uncertainty away.
_TOLERANCE = {False: 1e-2, True: 1e-4}


class Objective:
    """-2 log L of a model and data as a function of all its parameters.

    Attributes
    ----------
    bounds
        Of each parameter, shape (parameters, 2).
    fixed
        Which parameters are held, shape (parameters,).
    names
        Of the parameters, with an index where a modifier has several.
    """

    def __init__(self, built: BuiltModel, held: dict[int, float]) -> None:
        config = built.model.config
        self.bounds = np.asarray(config.suggested_bounds(), dtype=float)
        self.fixed = np.asarray(config.suggested_fixed(), dtype=bool)
        self.fixed[list(held)] = True
        self.names: list[str] = list(config.par_names)
        self._held = held
        self.value, self.gradient = _functions(built)

    def start(self, values: ArrayLike) -> NDArray[np.float64]:
        """Return initial values inside the bounds, shape (parameters,)."""
        low, high = self.bounds.T
        margin = _INSIDE * np.minimum(high - low, 1.0)
        inside = np.clip(np.asarray(values, dtype=float), low + margin, high - margin)
        inits = np.where(self.fixed, np.asarray(values, dtype=float), inside)
        for index, value in self._held.items():
            inits[index] = value
        return inits

    def minuit(self, values: ArrayLike, *, tight: bool = False, strategy: int = 1) -> Minuit:
        """Return a minimizer at the given values."""
        gradient = {} if self.gradient is None else {"grad": self.gradient}
        minuit = Minuit(self.value, self.start(values), name=self.names, **gradient)
        minuit.errordef = Minuit.LEAST_SQUARES  # -2 log L rises by 1 at one standard deviation
        minuit.limits = self.bounds.tolist()
        minuit.fixed = self.fixed.tolist()
        minuit.strategy = strategy
        minuit.tol = _TOLERANCE[tight]
        return minuit


def _functions(
    built: BuiltModel,
) -> tuple[Callable[[Any], float], Callable[[Any], NDArray[np.float64]] | None]:
    model, data = built
    if pyhf.tensorlib.name != "jax":
        return lambda x: float(-2 * model.logpdf(x, data)[0]), None
    import jax

    observed = pyhf.tensorlib.astensor(data)
    both = jax.jit(jax.value_and_grad(lambda x: -2 * model.logpdf(x, observed)[0]))
    return (
        lambda x: float(both(np.asarray(x))[0]),
        lambda x: np.asarray(both(np.asarray(x))[1]),
    )


class BestFit(NamedTuple):
    """The minimum of -2 log L.

    ``values`` and ``at_bound`` have shape (parameters,), ``covariance`` (parameters,
    parameters), zero for parameters that are fixed or at a bound. ``intervals`` has the ends,
    by parameter, of the profile-likelihood intervals that were requested; None for an end
    beyond the bound. ``state`` is what Minuit reports of the minimum, for a result's diagnostics.
    """

    objective: Objective
    values: NDArray[np.float64]
    at_bound: NDArray[np.bool_]
    covariance: NDArray[np.float64]
    twice_nll: float
    problems: list[str]
    intervals: dict[int, tuple[float | None, float | None]]
    state: dict[str, float | int | bool | str | None]

    @property
    def usable(self) -> bool:
        """Whether there are numbers at all."""
        return math.isfinite(self.twice_nll) and bool(np.isfinite(self.values).all())


def best_fit(
    built: BuiltModel,
    rung: Rung,
    start: Sequence[float],
    *,
    held: dict[int, float] | None = None,
    intervals: bool = False,
) -> BestFit:
    """Fit a model to its data.

    Parameters
    ----------
    built
        Model and data.
    rung
        The way to fit: Minuit from the start, or from where SLSQP ends.
    start
        Initial values of all parameters, in the model's order.
    held
        Values of parameters that are held, by index, besides those that the model fixes.
    intervals
        Whether to find profile-likelihood intervals (MINOS) of all free parameters.

    Raises
    ------
    pyhf.exceptions.FailedMinimization
        SLSQP says that it failed.
    """
    objective = Objective(built, held or {})
    with without_warnings():
        earlier = math.inf
        if rung.optimizer == "scipy":
            start, earlier = _by_scipy(built, objective, start)
        minuit = objective.minuit(start, tight=rung.tight)
        minuit.migrad(ncall=_CALLS)
        at_bound = _settle(objective, minuit)
        if minuit.nfit:
            # At strategy 1 noise in a second derivative may change an uncertainty by a percent;
            # 2 takes a few more steps for each parameter.
            minuit.strategy = 2
            minuit.hesse()
            minuit.strategy = 1
        problems = _problems(minuit, earlier)
        state = _state(objective, minuit, at_bound)
        ends = _intervals(objective, minuit, at_bound, problems) if intervals else {}
    covariance = np.zeros((len(objective.names),) * 2)
    if minuit.covariance is not None:
        covariance = np.array(minuit.covariance, dtype=float)
    values = np.array(minuit.values, dtype=float)
    return BestFit(
        objective, values, at_bound, covariance, float(minuit.fval), problems, ends, state
    )


def hold(best: BestFit, index: int, value: float) -> tuple[NDArray[np.float64], bool]:
    """Fit again with one parameter held, starting where the covariance predicts.

    Returns
    -------
    values
        All parameters, shape (parameters,).
    valid
        Whether Minuit found a valid minimum.
    """
    start = best.values.copy()
    variance = best.covariance[index, index]
    if variance > 0:
        start += best.covariance[index] / variance * (value - best.values[index])
    start[index] = value
    with without_warnings():
        minuit = best.objective.minuit(start, strategy=0)
        minuit.values[index] = value
        minuit.fixed[index] = True
        minuit.migrad(ncall=_CALLS)
        if not minuit.valid:
            minuit.strategy = 1
            minuit.migrad(ncall=_CALLS)
    return np.array(minuit.values, dtype=float), bool(minuit.valid)


def _by_scipy(
    built: BuiltModel, objective: Objective, start: Sequence[float]
) -> tuple[list[float], float]:
    pars, value = pyhf.infer.mle.fit(
        built.data,
        built.model,
        init_pars=objective.start(start).tolist(),
        fixed_params=objective.fixed.tolist(),
        return_fitted_val=True,
    )
    return [float(one) for one in pars], float(np.asarray(value).item())


def _settle(objective: Objective, minuit: Minuit) -> NDArray[np.bool_]:
    """Put parameters that are at a bound there, and fit the others again."""
    at_bound = np.zeros(len(objective.names), dtype=bool)
    best = float(minuit.fval)
    for index in np.flatnonzero(~objective.fixed):
        low, high = objective.bounds[index]
        value = minuit.values[index]
        bound = low if value - low < high - value else high
        if abs(value - bound) > BOUND_NEAR * min(high - low, 1.0):
            continue
        trial = np.array(minuit.values, dtype=float)
        trial[index] = bound
        if objective.value(trial) <= best + BOUND_COST:
            at_bound[index] = True
            minuit.values[index] = bound
            minuit.fixed[index] = True
    if at_bound.any() and minuit.nfit:
        minuit.migrad(ncall=_CALLS)
    return at_bound


def _state(
    objective: Objective, minuit: Minuit, at_bound: NDArray[np.bool_]
) -> dict[str, float | int | bool | str | None]:
    """Return what Minuit reports of the minimum; without free parameters it does not fit."""
    minimum = minuit.fmin
    names = [objective.names[index] for index in np.flatnonzero(at_bound)]
    return {
        "converged": bool(minimum.is_valid) if minuit.nfit else True,
        "iterations": int(minuit.nfcn),
        # Minuit's own is of -2 log L.
        "edm": float(minimum.edm) / 2 if minuit.nfit and math.isfinite(minimum.edm) else None,
        "positive_definite": bool(minimum.has_posdef_covar) if minuit.nfit else True,
        "at_bounds": len(names),
        **({"parameters_at_bounds": listed(names)} if names else {}),
    }


def _problems(minuit: Minuit, earlier: float) -> list[str]:
    if not math.isfinite(minuit.fval):
        return ["a result is not a finite number"]
    problems = []
    minimum = minuit.fmin
    if minuit.nfit and not minimum.is_valid:
        problems.append(f"Minuit finds no valid minimum: estimated distance {minimum.edm:.2g}")
    if minuit.nfit and not (minuit.covariance is not None and minimum.has_accurate_covar):
        problems.append("the covariance is not accurate: the Hessian is not positive definite")
    if minuit.fval > earlier + ABOVE:
        above = minuit.fval - earlier
        problems.append(f"the fit stopped {above:.2g} above a known minimum of -2 log L")
    return problems


def _intervals(
    objective: Objective, minuit: Minuit, at_bound: NDArray[np.bool_], problems: list[str]
) -> dict[int, tuple[float | None, float | None]]:
    intervals: dict[int, tuple[float | None, float | None]] = {}
    lower_minimum = False
    for index in np.flatnonzero(~objective.fixed & ~at_bound):
        name = objective.names[index]
        try:
            minuit.minos(name)
        except RuntimeError as error:
            problems.append(f"no interval of {name}: {error}")
            continue
        ends = minuit.merrors[name]
        value = minuit.values[index]
        # At a bound Minuit returns where it stopped; the end itself is beyond.
        intervals[int(index)] = (
            value + ends.lower if ends.lower_valid and not ends.at_lower_limit else None,
            value + ends.upper if ends.upper_valid and not ends.at_upper_limit else None,
        )
        lower_minimum |= ends.lower_new_min or ends.upper_new_min
        for end, valid, limited in (
            ("lower", ends.lower_valid, ends.at_lower_limit),
            ("upper", ends.upper_valid, ends.at_upper_limit),
        ):
            if not valid and not limited:
                problems.append(f"the {end} end of the interval of {name} was not found")
    for index in np.flatnonzero(at_bound):
        intervals[int(index)] = _one_sided(objective, minuit, int(index))
    if lower_minimum:
        problems.append("a lower minimum was found while looking for intervals")
    return intervals


def _one_sided(
    objective: Objective, minuit: Minuit, index: int
) -> tuple[float | None, float | None]:
    """Return the interval of a parameter that is at a bound: it has one end only."""
    from scipy.optimize import brentq

    low, high = objective.bounds[index]
    bound = float(minuit.values[index])
    best, values = float(minuit.fval), np.array(minuit.values, dtype=float)

    def rise(value: float) -> float:
        if value == bound:
            return -1.0
        profiled = objective.minuit(values, strategy=0)
        profiled.values[index] = value
        profiled.fixed[index] = True
        profiled.migrad(ncall=_CALLS)
        return float(profiled.fval) - best - 1.0

    far = high if bound == low else low
    if rise(far) < 0:
        return None, None
    end = float(brentq(rise, bound, far, xtol=1e-4 * (high - low), rtol=1e-4))
    return (None, end) if bound == low else (end, None)
