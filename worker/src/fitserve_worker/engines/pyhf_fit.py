"""From pyhf's best fit to the fields of a result: parameters, correlations, yields, impacts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fitserve_contract import FitAnswer, RankingAnswer
from fitserve_worker.engines.minuit import hold
from fitserve_worker.engines.solution import (
    Channel,
    Solution,
    correlations,
    degenerate,
    parameters,
    ranked,
    yields_by_channel,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fitserve_contract import ChannelYields
    from fitserve_worker.engines.minuit import BestFit
    from fitserve_worker.engines.models import BuiltModel

    Array = NDArray[np.float64]

__all__ = ["fit_answer", "ranking_answer"]


def fit_answer(built: BuiltModel, best: BestFit) -> tuple[FitAnswer, list[str]]:
    """Return parameters, correlations and yields of a fit, and the reasons to doubt them."""
    config = built.model.config
    solution = _solution(built, best)
    widths = np.where(best.objective.fixed, 0.0, solution.widths)
    answer = FitAnswer(
        poi=None if config.poi_index is None else config.par_names[config.poi_index],
        parameters=parameters(solution),
        correlations=correlations(solution),
        channels=_channel_yields(built, best, solution.centres, widths),
    )
    return answer, degenerate(solution)


def ranking_answer(built: BuiltModel, best: BestFit) -> tuple[RankingAnswer, list[str]]:
    """Fit again with each nuisance parameter held up and down.

    Returns
    -------
    ranking
        The impacts, the largest after the fit first.
    problems
        The reasons to doubt it.
    """
    poi = built.model.config.poi_index

    def shifts(which: NDArray[np.int64], at: NDArray[np.float64]) -> list[float | None]:
        made: list[float | None] = []
        for index, value in zip(which.tolist(), at.tolist(), strict=True):
            values, valid = hold(best, index, value)
            made.append(float(values[poi] - best.values[poi]) if valid else None)
        return made

    solution = _solution(built, best)
    ranking, broken = ranked(solution, poi, shifts)
    failed = [f"no valid fit with {', '.join(broken)} held"] if broken else []
    return ranking, failed + degenerate(solution)


def _solution(built: BuiltModel, best: BestFit) -> Solution:
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
        names=best.objective.names,
        values=best.values,
        bounds=best.objective.bounds,
        fixed=best.objective.fixed,
        at_bound=best.at_bound,
        covariance=best.covariance,
        centres=centres,
        widths=widths,
        intervals=best.intervals,
    )


def _channel_yields(
    built: BuiltModel, best: BestFit, prefit: Array, widths: Array
) -> list[ChannelYields]:
    """Return the yields of all channels, in the model's order.

    Uncertainties are linear: V = J C J^T with C the covariance of the parameters and J the
    derivatives of the yields, taken over plus and minus one standard deviation of each
    parameter as cabinetry does.

    Parameters
    ----------
    built
        Model and data.
    best
        The fit.
    prefit, widths
        Centres and widths of the constraints, both of shape (parameters,); the width is zero
        where there is none.
    """
    before, before_sigma = _propagated(built, best, prefit, np.diag(widths**2))
    after, after_sigma = _propagated(built, best, best.values, best.covariance)
    config = built.model.config
    observed = np.asarray(built.data[: config.nmaindata], dtype=float)
    channels = [
        Channel(
            channel["name"],
            config.channel_slices[channel["name"]],
            [
                (sample["name"], config.samples.index(sample["name"]))
                for sample in channel["samples"]
            ],
        )
        for channel in built.model.spec["channels"]
    ]
    return yields_by_channel(
        sorted(channels, key=lambda one: config.channels.index(one.name)),
        observed,
        (before, before_sigma),
        (after, after_sigma),
    )


def _propagated(
    built: BuiltModel, best: BestFit, at: Array, covariance: Array
) -> tuple[Array, Array]:
    """Return yields and their uncertainties, both (samples + 1, bins); the last is the sum."""
    central = _expected(built, at)
    sigma = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    moving = np.flatnonzero(sigma > 0)
    if not len(moving):
        return central, np.zeros_like(central)
    low, high = best.objective.bounds.T
    slopes = []
    for index in moving:
        ends = []
        for sign in (1.0, -1.0):
            moved = at.copy()
            moved[index] = np.clip(at[index] + sign * sigma[index], low[index], high[index])
            ends.append((moved[index], _expected(built, moved)))
        (up, above), (down, below) = ends
        slopes.append((above - below) / (up - down))
    jacobian = np.stack(slopes)
    chosen = covariance[np.ix_(moving, moving)]
    variance = np.einsum("isb,ij,jsb->sb", jacobian, chosen, jacobian, optimize=True)
    return central, np.sqrt(np.maximum(variance, 0.0))


def _expected(built: BuiltModel, at: Array) -> Array:
    each = built.model.main_model.expected_data(at.tolist(), return_by_sample=True)
    samples = np.asarray(each, dtype=float)
    return np.vstack([samples, samples.sum(axis=0)])
