"""From pyhf's best fit to what is told of it: parameters, correlations, impacts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fitserve.contract import FitAnswer, RankingAnswer
from fitserve_worker.engines.minuit import hold
from fitserve_worker.engines.solution import Solution, correlations, degenerate, parameters, ranked
from fitserve_worker.engines.yields import channel_yields

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fitserve_worker.engines.minuit import BestFit
    from fitserve_worker.engines.models import BuiltModel

__all__ = ["fit_answer", "ranking_answer"]


def fit_answer(built: BuiltModel, found: BestFit) -> tuple[FitAnswer, list[str]]:
    """Return parameters, correlations and yields of a fit, and what speaks against them."""
    config = built.model.config
    solution = _solution(built, found)
    widths = np.where(found.objective.fixed, 0.0, solution.widths)
    answer = FitAnswer(
        poi=None if config.poi_index is None else config.par_names[config.poi_index],
        parameters=parameters(solution),
        correlations=correlations(solution),
        channels=channel_yields(built, found, solution.centres, widths),
    )
    return answer, degenerate(solution)


def ranking_answer(built: BuiltModel, found: BestFit) -> tuple[RankingAnswer, list[str]]:
    """Fit again with each nuisance parameter held up and down.

    Returns
    -------
    ranking
        The impacts, the largest after the fit first.
    problems
        What speaks against it.
    """
    poi = built.model.config.poi_index

    def shifts(which: NDArray[np.int64], at: NDArray[np.float64]) -> list[float | None]:
        made: list[float | None] = []
        for index, value in zip(which.tolist(), at.tolist(), strict=True):
            values, valid = hold(found, index, value)
            made.append(float(values[poi] - found.values[poi]) if valid else None)
        return made

    solution = _solution(built, found)
    ranking, broken = ranked(solution, poi, shifts)
    failed = [f"no valid fit with {', '.join(broken)} held"] if broken else []
    return ranking, failed + degenerate(solution)


def _solution(built: BuiltModel, found: BestFit) -> Solution:
    config = built.model.config
    centres = np.asarray(config.suggested_init(), dtype=float)
    widths = np.zeros(len(centres))
    for name in config.par_order:
        constrained = config.param_set(name)
        if not constrained.constrained:
            continue
        where = config.par_slice(name)
        auxiliary = np.asarray(constrained.auxdata, dtype=float)
        if constrained.pdf_type == "poisson":
            auxiliary = auxiliary / np.asarray(constrained.factors, dtype=float)
        centres[where] = auxiliary
        widths[where] = constrained.width()
    return Solution(
        names=found.objective.names,
        values=found.values,
        bounds=found.objective.bounds,
        fixed=found.objective.fixed,
        at_bound=found.at_bound,
        covariance=found.covariance,
        centres=centres,
        widths=widths,
        intervals=found.intervals,
    )
