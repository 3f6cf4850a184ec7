"""Best fits and impacts of nuisance parameters by the fit kernel, watched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fitserve.contract import FitAnswer, FitRequest, RankingRequest
from fitserve_worker.engines.kernel_pieces import of_kind
from fitserve_worker.engines.kernel_solution import Fitted, settled
from fitserve_worker.engines.kernel_yields import channel_yields
from fitserve_worker.engines.solution import correlations, degenerate, parameters, ranked
from fitserve_worker.kernel.covariance import hold, profile_ends
from fitserve_worker.kernel.retries import persistent
from fitserve_worker.kernel.starts import Asked, deepened
from fitserve_worker.kernel.strengths import Strengths

if TYPE_CHECKING:
    from fitserve_worker.engines.kernel_pieces import Piece
    from fitserve_worker.engines.solution import Solution
    from fitserve_worker.kernel import FloatArray, IntArray
    from fitserve_worker.kernel.arrays import Bounds
    from fitserve_worker.kernel.fits import Fits
    from fitserve_worker.kernel.starts import SecondMinima

__all__ = ["answer_fit", "answer_ranking"]

# Where a parameter at a bound has no uncertainty its interval is first looked for this far
# away, in its range.
_FIRST = 0.01


def answer_fit(piece: Piece) -> tuple[list[dict[str, Any]], FloatArray | None]:
    """Return fields of the results of hypotheses, and where the next ones may start."""
    request = of_kind(piece.work, FitRequest)
    bounds, fits, seen, start = _held_at_zero(piece) if request.background_only else _free(piece)
    answers = []
    for index in range(piece.loaded.size):
        one = settled(piece, index, fits, bounds, seen)
        problems = [*one.problems]
        answer = None
        if one.best.covariance is not None:
            found = one.solution()
            problems += degenerate(found)
            if request.intervals:
                found = found._replace(intervals=_intervals(one, found, problems))
            answer = FitAnswer(
                poi=None if one.poi is None else piece.batch.poi,
                parameters=parameters(found),
                correlations=correlations(found),
                channels=channel_yields(one, found),
            )
        answers.append({**one.fields(problems), "fit": answer})
    return answers, start


def answer_ranking(piece: Piece) -> tuple[list[dict[str, Any]], FloatArray | None]:
    """Return fields of the results of hypotheses, and where the next ones may start.

    All fits of a hypothesis, with each nuisance parameter held up and down, before and after
    the fit, are done by one call.
    """
    of_kind(piece.work, RankingRequest)
    bounds, fits, seen, start = _free(piece)
    answers = []
    for index in range(piece.loaded.size):
        one = settled(piece, index, fits, bounds, seen)
        problems = [*one.problems]
        ranking = None
        poi = one.poi
        if one.best.covariance is not None and poi is not None:

            def shifts(
                which: IntArray, values: FloatArray, one: Fitted = one
            ) -> list[float | None]:
                return _shifts(one, which, values)

            found = one.solution()
            problems += degenerate(found)
            ranking, broken = ranked(found, poi, shifts)
            if broken:
                problems.insert(0, f"no valid fit with {', '.join(broken)} held")
        answers.append({**one.fields(problems), "ranking": ranking})
    return answers, start


def _free(piece: Piece) -> tuple[Bounds, Fits, SecondMinima, FloatArray | None]:
    """Fit with all parameters free, as for tests of the signal: from fits with it held."""
    loaded = piece.loaded
    low, high = loaded.poi_bounds.T
    strengths = Strengths(loaded, np.clip(1.0, low, high), "qtilde", piece.start)
    start = strengths.null.x[0] if bool(strengths.null.converged[0]) else None
    bounds = loaded.bounds(np.arange(loaded.size))
    return bounds, strengths.free, strengths.minima, start


def _held_at_zero(piece: Piece) -> tuple[Bounds, Fits, SecondMinima, None]:
    """Fit without a signal: its strength at zero, if there is one."""
    loaded = piece.loaded
    every = np.arange(loaded.size)
    held = np.where(loaded.chunk.poi[every] >= 0, 0.0, np.nan)
    bounds = loaded.bounds(every, held)
    initial = loaded.chunk.columns["init"][every]
    fits = persistent(loaded, every, [initial], loaded.observed, bounds, exact=True)
    fits, seen = deepened(loaded, Asked(every, held, loaded.observed), fits)
    return bounds, fits, seen, None


def _shifts(one: Fitted, which: IntArray, values: FloatArray) -> list[float | None]:
    """Return how far the parameter of interest moves with parameters held at values."""
    column = one.piece.loaded.chunk.poi[one.at]
    places = one.places.take(which)
    shifts: list[float | None] = [0.0] * len(which)  # of parameters that act on nothing
    acts = np.flatnonzero((places.column >= 0) | (places.bin >= 0))
    if not acts.size:
        return shifts
    held = hold(one.piece.loaded, one.best, places.take(acts), values[acts])
    moved = held.poi - one.best.fit.x[0, column]
    good = held.sound & np.isfinite(moved)
    for row, at in enumerate(acts.tolist()):
        shifts[at] = float(moved[row]) if good[row] else None
    return shifts


def _intervals(
    one: Fitted, found: Solution, problems: list[str]
) -> dict[int, tuple[float | None, float | None]]:
    """Return the profile-likelihood intervals of all parameters that are not fixed."""
    made: dict[int, tuple[float | None, float | None]] = {}
    low, high = found.bounds.T
    sigmas = found.uncertainties
    acts = (one.places.column >= 0) | (one.places.bin >= 0)
    searched = []
    for index in np.flatnonzero(~found.fixed).tolist():
        if acts[index]:
            searched += [(index, -1.0), (index, 1.0)]
            continue
        # Only its constraint, a parabola, knows of it.
        below, above = found.values[index] - sigmas[index], found.values[index] + sigmas[index]
        made[index] = (
            float(below) if below >= low[index] else None,
            float(above) if above <= high[index] else None,
        )
    which = np.array([index for index, _ in searched], dtype=int)
    sign = np.array([side for _, side in searched])
    first = np.where(sigmas > 0, sigmas, _FIRST * (high - low))
    ends = profile_ends(
        one.piece.loaded,
        one.best,
        one.places.take(which),
        found.values[which],
        sign * first[which],
        np.where(sign > 0, high[which], low[which]),
    )
    for row in range(0, len(which), 2):
        index = int(which[row])
        both = [None if np.isnan(value) else float(value) for value in ends.value[row : row + 2]]
        made[index] = both[0], both[1]
        for at, side in ((row, "lower"), (row + 1, "upper")):
            if np.isnan(ends.value[at]) and not ends.beyond[at]:
                problems.append(
                    f"the {side} end of the interval of {found.names[index]} was not found"
                )
    if ends.lower_minimum:
        problems.append("a lower minimum was found while looking for intervals")
    return made
