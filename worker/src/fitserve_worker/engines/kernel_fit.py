"""Best fits and impacts of nuisance parameters by the fit kernel, and reasons to doubt them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fitserve_contract import FitAnswer, FitRequest, RankingRequest
from fitserve_worker.engines.base import of_kind
from fitserve_worker.engines.kernel_hypotest import at_bounds, finite, next_start, of_fits
from fitserve_worker.engines.solution import (
    Channel,
    Solution,
    correlations,
    degenerate,
    listed,
    parameters,
    ranked,
    yields_by_channel,
)
from fitserve_worker.kernel.covariance import (
    Covariance,
    Places,
    covariance,
    hold,
    profile_ends,
    settle,
)
from fitserve_worker.kernel.patches import sample_names
from fitserve_worker.kernel.retries import doubts, persistent
from fitserve_worker.kernel.starts import AMBIGUOUS, Cases, deepened
from fitserve_worker.kernel.strengths import Strengths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve_contract import ChannelYields
    from fitserve_worker.engines.kernel_hypotest import Piece
    from fitserve_worker.kernel import BoolArray, FloatArray, IntArray
    from fitserve_worker.kernel.arrays import Bounds
    from fitserve_worker.kernel.constraints import Parameters
    from fitserve_worker.kernel.covariance import Best
    from fitserve_worker.kernel.fits import Fits
    from fitserve_worker.kernel.parameters import ParameterSet
    from fitserve_worker.kernel.starts import SecondMinima

__all__ = ["Fitted", "answer_fit", "answer_ranking"]

_ENDS = ("lower", "upper")
# Smaller slopes, in units of standard deviations, and fractions of a second derivative are zero.
_LEVEL = 1e-5
_FLAT = 1e-7
# The first step in the search for the interval of a parameter without an uncertainty, at a bound,
# as a fraction of its range.
_FIRST = 0.01


def answer_fit(piece: Piece) -> tuple[list[dict[str, Any]], FloatArray | None]:
    """Return fields of the results of hypotheses, and where the next ones may start."""
    request = of_kind(piece.work, FitRequest)
    bounds, fits, seen, start = _held_at_zero(piece) if request.background_only else _free(piece)
    answers = []
    for index in range(piece.loaded.size):
        one = _settled(piece, index, fits, bounds, seen)
        problems = [*one.problems]
        answer = None
        if one.best.covariance is not None:
            solution = one.solution()
            problems += degenerate(solution)
            if request.intervals:
                solution = solution._replace(intervals=_intervals(one, solution, problems))
            answer = FitAnswer(
                poi=None if one.poi is None else piece.batch.poi,
                parameters=parameters(solution),
                correlations=correlations(solution),
                channels=_channel_yields(one, solution),
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
        one = _settled(piece, index, fits, bounds, seen)
        problems = [*one.problems]
        ranking = None
        poi = one.poi
        if one.best.covariance is not None and poi is not None:

            def shifts(
                which: IntArray, values: FloatArray, one: Fitted = one
            ) -> list[float | None]:
                return _shifts(one, which, values)

            solution = one.solution()
            problems += degenerate(solution)
            ranking, broken = ranked(solution, poi, shifts)
            if broken:
                problems.insert(0, f"no valid fit with {', '.join(broken)} held")
        answers.append({**one.fields(problems), "ranking": ranking})
    return answers, start


def _free(piece: Piece) -> tuple[Bounds, Fits, SecondMinima, FloatArray | None]:
    """Fit with all parameters free, as for tests of the signal: from fits with it held."""
    loaded = piece.loaded
    low, high = loaded.poi_bounds.T
    strengths = Strengths(loaded, np.clip(1.0, low, high), "qtilde", piece.start)
    bounds = loaded.bounds(np.arange(loaded.size))
    return bounds, strengths.free, strengths.minima, next_start(strengths.null)


def _held_at_zero(piece: Piece) -> tuple[Bounds, Fits, SecondMinima, None]:
    """Fit with the signal strength at zero, if there is one."""
    loaded = piece.loaded
    every = np.arange(loaded.size)
    held = np.where(loaded.chunk.poi[every] >= 0, 0.0, np.nan)
    bounds = loaded.bounds(every, held)
    initial = loaded.chunk.columns["init"][every]
    fits = persistent(loaded, every, [initial], loaded.observed, bounds, exact=True)
    fits, seen = deepened(loaded, Cases(every, held, loaded.observed), fits)
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
    one: Fitted, solution: Solution, problems: list[str]
) -> dict[int, tuple[float | None, float | None]]:
    """Return the profile-likelihood intervals of all parameters that are not fixed."""
    made: dict[int, tuple[float | None, float | None]] = {}
    low, high = solution.bounds.T
    sigmas = solution.uncertainties
    acts = (one.places.column >= 0) | (one.places.bin >= 0)
    searched = []
    for index in np.flatnonzero(~solution.fixed).tolist():
        if acts[index]:
            searched += [(index, -1.0), (index, 1.0)]
            continue
        # It enters only its constraint, a parabola.
        value, sigma = solution.values[index], sigmas[index]
        below, above = value - sigma, value + sigma
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
        solution.values[which],
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
                    f"the {side} end of the interval of {solution.names[index]} was not found"
                )
    if ends.lower_minimum:
        problems.append("a lower minimum was found while looking for intervals")
    return made


class Fitted(NamedTuple):
    """A hypothesis after its best fit: its index in the piece, and the reasons to doubt the fit."""

    piece: Piece
    at: int
    parameters: Parameters
    places: Places
    best: Best
    problems: list[str]
    minima: SecondMinima

    @property
    def poi(self) -> int | None:
        """Index of the parameter of interest, if there is one."""
        column = self.piece.loaded.chunk.poi[self.at]
        return int(np.flatnonzero(self.places.column == column)[0]) if column >= 0 else None

    def fields(self, problems: Sequence[str]) -> dict[str, Any]:
        """Return fields of a result."""
        chunk, fit = self.piece.loaded.chunk, self.best.fit
        column = chunk.poi[self.at]
        every = self.piece.loaded.size
        return {
            "status": "suspect" if problems else "ok",
            "reason": "; ".join(problems) or None,
            "CLs_obs": None,
            "CLs_exp": [None] * 5,
            "points": [],
            "muhat": finite(fit.x[0, column]) if column >= 0 else None,
            "twice_nll": finite(2 * (fit.value[0] + chunk.constant[self.at])),
            "diagnostics": {
                **of_fits([fit], 0),
                # Of all parameters, which is what uncertainties are from.
                "positive_definite": self.best.covariance is not None,
                **at_bounds(self.piece, self.at, fit.take(np.zeros(every, dtype=int))),
                **self.minima.second(self.at),
            },
        }

    def solution(self) -> Solution:
        """Return the fit; its covariance is zero where there is none."""
        best = self.best
        sets = [made for made, _ in self.parameters.sets]
        in_column, in_bin = self.where
        column, bins = self.places.column[in_column], self.places.bin[in_bin]
        fixed = np.concatenate([made.fixed for made in sets])
        # A parameter of interest that the request holds counts as fixed.
        fixed[in_column] = best.bounds.lower[0, column] >= best.bounds.upper[0, column]
        at_bound = np.zeros(len(fixed), dtype=bool)
        at_bound[in_column], at_bound[in_bin] = best.at_column[column], best.at_bin[bins]
        centres = np.concatenate([_centres(made) for made in sets])
        widths = np.where(fixed, 0.0, np.concatenate([_widths(made) for made in sets]))
        matrix = np.diag(np.where(self.parameters.idle, widths**2, 0.0))
        if best.covariance is not None:
            matrices = best.covariance
            mixed = matrices.mixed[np.ix_(column, bins)]
            matrix[np.ix_(in_column, in_column)] = matrices.columns[np.ix_(column, column)]
            matrix[np.ix_(in_column, in_bin)] = mixed
            matrix[np.ix_(in_bin, in_column)] = mixed.T
            matrix[np.ix_(in_bin, in_bin)] = matrices.local[np.ix_(bins, bins)]
        low, high = (np.concatenate([getattr(made, end) for made in sets]) for end in _ENDS)
        return Solution(
            names=self.parameters.names,
            values=self.parameters.join(best.fit.x[0], best.fit.local[0]),
            bounds=np.stack([low, high], axis=1),
            fixed=fixed,
            at_bound=at_bound,
            covariance=matrix,
            centres=centres,
            widths=widths,
            intervals={},
        )

    @property
    def where(self) -> tuple[IntArray, IntArray]:
        """Indices of the parameters that are columns, and of those that are local ones."""
        return np.flatnonzero(self.places.column >= 0), np.flatnonzero(self.places.bin >= 0)


def _settled(piece: Piece, index: int, fits: Fits, bounds: Bounds, seen: SecondMinima) -> Fitted:
    """Return a fit with parameters that are at bounds held there.

    Parameters
    ----------
    piece
        Hypotheses.
    index
        Index of one of them.
    fits, bounds
        A fit for each of them, and its bounds.
    seen
        What other starts of these led to.
    """
    one = np.array([index])
    loaded = piece.loaded
    best = settle(loaded, index, fits.take(one), bounds.take(one))
    reasons = doubts(loaded, best.fit, 0, loaded.observed.events[index])
    problems = [f"the fit {what}" for what in [*reasons, *seen.doubts(index, AMBIGUOUS)]]
    if best.covariance is None:
        problems.append("the covariance is not accurate: the Hessian is not positive definite")
    of_hypothesis = piece.batch.parameters(piece.members[index])
    flat = _flat_at_bounds(best)
    if flat.any():
        none = np.zeros(piece.batch.shape.bins, dtype=bool)
        names = piece.batch.names_at(piece.members[index], flat, none)
        problems.append(
            f"the data do not determine {listed(names)}: -2 log L stays flat off the bound"
        )
    return Fitted(piece, index, of_hypothesis, _places(piece, of_hypothesis), best, problems, seen)


def _flat_at_bounds(best: Best) -> BoolArray:
    """Tell which columns at a bound could leave it at no cost, if others followed.

    The second derivative with all others at their best, in units of the second derivative, is
    1 - R^2 with R the global correlation.
    """
    seconds, bounds = best.seconds, best.bounds
    stiff = np.diag(seconds.columns)
    small = np.abs(seconds.gradient) < _LEVEL * np.sqrt(np.maximum(stiff, 0.0))
    level: BoolArray = best.at_column & small
    if not level.any():
        return level
    moving = (bounds.lower[0] < bounds.upper[0]) & (level | ~best.at_column)
    inverse = covariance(seconds, moving, ~best.at_bin & (seconds.local > 0))
    if inverse is None:
        return level
    with np.errstate(divide="ignore"):
        left = 1 / (np.diag(inverse.columns) * stiff)
    flat: BoolArray = level & (left < _FLAT)
    return flat


def _places(piece: Piece, of_hypothesis: Parameters) -> Places:
    bin_of = np.full(piece.batch.shape.bins, -1)
    bin_of[piece.loaded.slots] = np.arange(len(piece.loaded.slots))
    columns, bins = [], []
    for made, place in of_hypothesis.sets:
        nowhere = np.full(len(made), -1)
        columns.append(nowhere if place.columns is None else place.columns)
        bins.append(nowhere if place.slots is None else bin_of[place.slots])
    return Places(np.concatenate(columns), np.concatenate(bins))


def _centres(made: ParameterSet) -> FloatArray:
    if made.constraint == "none":
        return made.init
    return made.aux / made.scale if made.constraint == "poisson" else made.aux


def _widths(made: ParameterSet) -> FloatArray:
    if made.constraint == "none":
        return np.zeros(len(made))
    return 1 / np.sqrt(made.scale) if made.constraint == "poisson" else made.scale


def _channel_yields(fitted: Fitted, solution: Solution) -> list[ChannelYields]:
    """Return the yields of all channels, in the model's order.

    Uncertainties are linear, as those by pyhf (`fitserve_worker.engines.pyhf_fit`):
    V = J C J^T with C the covariance of the parameters and J the derivatives of the yields,
    taken over plus and minus one standard deviation of each parameter. In a local parameter
    yields are straight lines.
    """
    piece = fitted.piece
    postfit = fitted.best.covariance
    if postfit is None:
        raise ValueError("yields after a fit need its covariance")
    column, at = (place[place >= 0] for place in fitted.places)
    in_column, in_bin = fitted.where
    prefit = Covariance(*(np.zeros_like(part) for part in postfit))
    prefit.columns[column, column] = solution.widths[in_column] ** 2
    prefit.local[at, at] = solution.widths[in_bin] ** 2
    member = piece.members[fitted.at]
    slots = piece.batch.sample_slots(member)
    order = sample_names(piece.work.workspace, _patch(fitted))
    layout = piece.batch.layout
    return yields_by_channel(
        [
            Channel(name, layout.bin_range(name), [(one, slots[name, one]) for one in order[name]])
            for name, _ in layout.channels
        ],
        piece.loaded.observed.events[fitted.at, piece.loaded.slots],
        _propagated(fitted, solution, solution.centres, prefit),
        _propagated(fitted, solution, solution.values, postfit),
    )


def _patch(fitted: Fitted) -> list[dict[str, object]]:
    name = fitted.piece.batch.members[fitted.piece.members[fitted.at]].name
    return next(list(one.patch) for one in fitted.piece.work.hypotheses if one.name == name)


def _propagated(
    fitted: Fitted, solution: Solution, values: FloatArray, matrices: Covariance
) -> tuple[FloatArray, FloatArray]:
    """Return yields and uncertainties, both (slots + 1, model bins); the last row is the sum."""
    shape = fitted.piece.batch.shape
    x, local = fitted.parameters.split(values, shape.columns, shape.bins)
    low, high = (
        fitted.parameters.split(ends, shape.columns, shape.bins)[0] for ends in solution.bounds.T
    )
    sigma = np.sqrt(np.maximum(np.diag(matrices.columns), 0.0))
    ends = np.stack([np.clip(x + sigma, low, high), np.clip(x - sigma, low, high)])
    ends[:, sigma == 0] = x[sigma == 0]
    of = fitted.piece.loaded.sample_yields(fitted.at, x, local, ends)
    variance = np.maximum(np.diag(matrices.local), 0.0)

    def uncertainty(by_column: FloatArray, by_local: FloatArray) -> FloatArray:
        of_columns = np.sum((matrices.columns @ by_column) * by_column, axis=0)
        between = 2 * by_local * np.sum(matrices.mixed * by_column, axis=0)
        total: FloatArray = of_columns + between + by_local**2 * variance
        return np.sqrt(np.maximum(total, 0.0))

    sigmas = [uncertainty(of.by_column[:, row], of.by_local[row]) for row in range(len(of.yields))]
    sigmas.append(uncertainty(of.by_column.sum(axis=1), of.by_local.sum(axis=0)))
    return np.vstack([of.yields, of.yields.sum(axis=0)]), np.stack(sigmas)
