"""A best fit by the fit kernel in terms of all parameters, in pyhf's order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fitserve_worker.engines.kernel_pieces import at_bounds, finite, of_fits
from fitserve_worker.engines.solution import Solution, listed
from fitserve_worker.kernel.covariance import Places, covariance, settle
from fitserve_worker.kernel.retries import doubts
from fitserve_worker.kernel.starts import AMBIGUOUS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve_worker.engines.kernel_pieces import Piece
    from fitserve_worker.kernel import BoolArray, FloatArray, IntArray
    from fitserve_worker.kernel.arrays import Bounds
    from fitserve_worker.kernel.constraints import Parameters
    from fitserve_worker.kernel.covariance import Best
    from fitserve_worker.kernel.fits import Fits
    from fitserve_worker.kernel.parameters import ParameterSet
    from fitserve_worker.kernel.starts import SecondMinima

__all__ = ["Fitted", "settled"]


class Fitted(NamedTuple):
    """A hypothesis after its best fit: which one of its piece, and the reasons to doubt it."""

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
            known = best.covariance
            mixed = known.mixed[np.ix_(column, bins)]
            matrix[np.ix_(in_column, in_column)] = known.columns[np.ix_(column, column)]
            matrix[np.ix_(in_column, in_bin)] = mixed
            matrix[np.ix_(in_bin, in_column)] = mixed.T
            matrix[np.ix_(in_bin, in_bin)] = known.local[np.ix_(bins, bins)]
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


_ENDS = ("lower", "upper")
# Slopes, in units of standard deviations, and parts of a second derivative that are none.
_LEVEL = 1e-5
_FLAT = 1e-7


def settled(piece: Piece, index: int, fits: Fits, bounds: Bounds, seen: SecondMinima) -> Fitted:
    """Return what a fit comes to when parameters at bounds are held there.

    Parameters
    ----------
    piece
        Hypotheses.
    index
        Which of them.
    fits, bounds
        A fit for each of them, and between what.
    seen
        What other starts of these led to.
    """
    one = np.array([index])
    loaded = piece.loaded
    best = settle(loaded, index, fits.take(one), bounds.take(one))
    found = doubts(loaded, best.fit, 0, loaded.observed.events[index])
    problems = [f"the fit {what}" for what in [*found, *seen.doubts(index, AMBIGUOUS)]]
    if best.covariance is None:
        problems.append("the covariance is not accurate: the Hessian is not positive definite")
    parameters = piece.batch.parameters(piece.members[index])
    flat = _flat_at_bounds(best)
    if flat.any():
        none = np.zeros(piece.batch.shape.bins, dtype=bool)
        names = piece.batch.names_at(piece.members[index], flat, none)
        problems.append(
            f"the data do not determine {listed(names)}: -2 log L is flat off the bound too"
        )
    return Fitted(piece, index, parameters, _places(piece, parameters), best, problems, seen)


def _flat_at_bounds(best: Best) -> BoolArray:
    """Tell which columns at a bound could leave it at no cost, if others followed.

    What is left of the second derivative where all others are at their best, in units of the
    second derivative, is 1 - R^2 with R the global correlation.
    """
    seconds, bounds = best.seconds, best.bounds
    stiff = np.diag(seconds.columns)
    small = np.abs(seconds.gradient) < _LEVEL * np.sqrt(np.maximum(stiff, 0.0))
    level: BoolArray = best.at_column & small
    if not level.any():
        return level
    moving = (bounds.lower[0] < bounds.upper[0]) & (level | ~best.at_column)
    known = covariance(seconds, moving, ~best.at_bin & (seconds.local > 0))
    if known is None:
        return level
    with np.errstate(divide="ignore"):
        left = 1 / (np.diag(known.columns) * stiff)
    flat: BoolArray = level & (left < _FLAT)
    return flat


def _places(piece: Piece, parameters: Parameters) -> Places:
    bin_of = np.full(piece.batch.shape.bins, -1)
    bin_of[piece.loaded.slots] = np.arange(len(piece.loaded.slots))
    columns, bins = [], []
    for made, place in parameters.sets:
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
