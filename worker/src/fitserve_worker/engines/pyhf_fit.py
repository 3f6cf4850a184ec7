"""From a best fit to what is told of it: parameters, correlations, impacts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fitserve.contract import Correlations, FitAnswer, FittedParameter, Impact, RankingAnswer
from fitserve_worker.engines.minuit import hold
from fitserve_worker.engines.yields import channel_yields

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from fitserve_worker.engines.minuit import BestFit
    from fitserve_worker.engines.models import BuiltModel

__all__ = ["fit_answer", "ranking_answer"]

# Correlations are told to this many decimals: more are not known, and they are many.
_DECIMALS = 5


def fit_answer(built: BuiltModel, found: BestFit) -> FitAnswer:
    """Return parameters, correlations and yields of a fit."""
    config = built.model.config
    poi = None if config.poi_index is None else config.par_names[config.poi_index]
    constraints = _constraints(built)
    widths = np.where(found.objective.fixed, 0.0, constraints.widths)
    return FitAnswer(
        poi=poi,
        parameters=_parameters(found, constraints),
        correlations=_correlations(found),
        channels=channel_yields(built, found, constraints.centres, widths),
    )


def ranking_answer(built: BuiltModel, found: BestFit) -> tuple[RankingAnswer, list[str]]:
    """Fit again with each nuisance parameter held up and down.

    Returns
    -------
    ranking
        The impacts, the largest after the fit first.
    problems
        Names of the parameters for which a fit did not converge.
    """
    poi = built.model.config.poi_index
    constraints = _constraints(built)
    parameters = _parameters(found, constraints)
    low, high = found.objective.bounds.T
    broken: list[str] = []
    impacts = []
    for index, parameter in enumerate(parameters):
        if index == poi or parameter.fixed:
            continue

        def shift(step: float, index: int = index) -> float | None:
            value = float(np.clip(found.values[index] + step, low[index], high[index]))
            values, valid = hold(found, index, value)
            if not valid:
                broken.append(found.objective.names[index])
                return None
            return float(values[poi] - found.values[poi])

        impacts.append(
            Impact(
                parameter=parameter,
                **_both("postfit", parameter.uncertainty, shift),
                **_both("prefit", parameter.prefit_uncertainty, shift),
            )
        )
    impacts.sort(key=_size, reverse=True)
    return RankingAnswer(poi=parameters[poi], impacts=impacts), list(dict.fromkeys(broken))


def _both(
    name: str, width: float | None, shift: Callable[[float], float | None]
) -> dict[str, float | None]:
    if not width:
        return {f"{name}_up": None, f"{name}_down": None}
    return {f"{name}_up": shift(width), f"{name}_down": shift(-width)}


def _size(impact: Impact) -> float:
    return max(abs(impact.postfit_up or 0.0), abs(impact.postfit_down or 0.0))


class _Constraints(NamedTuple):
    """Centres and widths of the constraints, (parameters,); a width of zero is none."""

    centres: NDArray[np.float64]
    widths: NDArray[np.float64]


def _constraints(built: BuiltModel) -> _Constraints:
    config = built.model.config
    centres = np.asarray(config.suggested_init(), dtype=float)
    widths = np.zeros(len(centres))
    for name in config.par_order:
        parameters = config.param_set(name)
        if not parameters.constrained:
            continue
        where = config.par_slice(name)
        auxiliary = np.asarray(parameters.auxdata, dtype=float)
        if parameters.pdf_type == "poisson":
            auxiliary = auxiliary / np.asarray(parameters.factors, dtype=float)
        centres[where] = auxiliary
        widths[where] = parameters.width()
    return _Constraints(centres, widths)


def _parameters(found: BestFit, constraints: _Constraints) -> list[FittedParameter]:
    made = []
    free = set(found.free.tolist())
    sigmas = found.uncertainties
    for index, name in enumerate(found.objective.names):
        fixed = bool(found.objective.fixed[index])
        value, centre = float(found.values[index]), float(constraints.centres[index])
        sigma = float(sigmas[index]) if index in free else None
        width = None if fixed else float(constraints.widths[index]) or None
        lower, upper = found.intervals.get(index, (None, None))
        made.append(
            FittedParameter(
                name=name,
                bestfit=value,
                uncertainty=sigma,
                prefit=centre,
                prefit_uncertainty=width,
                pull=(value - centre) / width if width else None,
                constraint=sigma / width if width and sigma is not None else None,
                lower=lower,
                upper=upper,
                fixed=fixed,
                at_bound=bool(found.at_bound[index]),
            )
        )
    return made


def _correlations(found: BestFit) -> Correlations:
    free, sigmas = found.free, found.uncertainties
    names = [found.objective.names[index] for index in free]
    if not (sigmas[free] > 0).all():
        return Correlations(names=[], lower=[])
    matrix = found.covariance[np.ix_(free, free)] / np.outer(sigmas[free], sigmas[free])
    rounded = np.round(matrix, _DECIMALS).tolist()
    return Correlations(names=names, lower=[row[:count] for count, row in enumerate(rounded)])
