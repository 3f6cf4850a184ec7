"""Uncertainties of a best fit: covariance, fits with one parameter held, profile intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fitserve_worker.kernel.retries import persistent, sound

if TYPE_CHECKING:
    from fitserve_worker.kernel import BoolArray, FloatArray, IntArray
    from fitserve_worker.kernel.arrays import Bounds
    from fitserve_worker.kernel.fits import Fits, Loaded
    from fitserve_worker.kernel.program import Seconds

__all__ = [
    "BOUND_COST",
    "BOUND_NEAR",
    "Best",
    "Covariance",
    "Ends",
    "Held",
    "Places",
    "covariance",
    "hold",
    "profile_ends",
    "settle",
]

BOUND_COST, BOUND_NEAR = 1e-4, 1e-2
"""A parameter is at a bound where moving it there costs no more than this of -2 log L, which is a
hundredth of its uncertainty, and where it is within this fraction of its range (or of 1)."""
# Fits that are in memory at a time.
_BLOCK = 512
# How close to 1 the square root of the rise of -2 log L, nearly the distance in standard
# deviations, must come.
_CLOSE = 2e-4
_MOST = 40
# Steps after which a bracket that shrinks slowly is halved.
_PATIENCE = 6
# A rise of -2 log L below zero that shifts a significance by 1e-3.
_BELOW = 1e-6
_FURTHEST = 4.0


class Covariance(NamedTuple):
    """Covariances, zero for parameters that are held.

    ``columns`` (columns, columns) are those of columns, ``local`` (model bins, model bins) those
    of local parameters, and ``mixed`` (columns, model bins) those between the two.
    """

    columns: FloatArray
    mixed: FloatArray
    local: FloatArray


def covariance(seconds: Seconds, columns: BoolArray, bins: BoolArray) -> Covariance | None:
    """Return the inverse of the Hessian of -log L, None if it is not positive definite.

    Parameters
    ----------
    seconds
        Second derivatives.
    columns, bins
        Which columns and which bins' local parameters move, (columns,) and (model bins,).

    Notes
    -----
    With A, M and D the second derivatives in columns, mixed, and in local parameters, the
    covariance of the columns is the inverse of A - M D^-1 M^T, and the others follow from it.
    """
    n, m = len(columns), len(bins)
    stiff = seconds.local[bins]
    if (stiff <= 0).any():
        return None
    mixed = seconds.mixed[np.ix_(bins, columns)].T
    reach = mixed / stiff
    schur = seconds.columns[np.ix_(columns, columns)] - reach @ mixed.T
    try:
        factor = np.linalg.cholesky(schur)
    except np.linalg.LinAlgError:
        return None
    root = np.linalg.inv(factor)
    inverse = root.T @ root
    if not np.isfinite(inverse).all():
        return None
    made = Covariance(np.zeros((n, n)), np.zeros((n, m)), np.zeros((m, m)))
    made.columns[np.ix_(columns, columns)] = inverse
    made.mixed[np.ix_(columns, bins)] = -inverse @ reach
    made.local[np.ix_(bins, bins)] = reach.T @ inverse @ reach + np.diag(1 / stiff)
    return made


class Best(NamedTuple):
    """The best fit of one hypothesis.

    ``fit`` and ``bounds`` are of one fit. ``at_column`` (columns,) and ``at_bin`` (model bins,)
    say which free parameters are at a bound. ``covariance`` is None if there is none.
    """

    hypothesis: int
    fit: Fits
    bounds: Bounds
    seconds: Seconds
    at_column: BoolArray
    at_bin: BoolArray
    covariance: Covariance | None


def settle(loaded: Loaded, hypothesis: int, fit: Fits, bounds: Bounds) -> Best:
    """Put parameters that are at a bound there, fit the others again, and find the covariance.

    Parameters
    ----------
    loaded
        The hypotheses.
    hypothesis
        Index of the one that was fitted.
    fit, bounds
        One fit to its observed data, and its bounds.
    """
    slots = loaded.slots
    seconds = loaded.seconds(hypothesis, fit)
    columns, column_bound = _at_bound(
        fit.x[0],
        (bounds.lower[0], bounds.upper[0]),
        seconds.gradient,
        np.diag(seconds.columns),
    )
    bins, bin_bound = _at_bound(
        fit.local[0, slots],
        (bounds.local_lower[0, slots], bounds.local_upper[0, slots]),
        np.zeros(len(slots)),
        seconds.local,
    )
    moved = (columns & (fit.x[0] != column_bound)).any()
    moved |= (bins & (fit.local[0, slots] != bin_bound)).any()
    if moved:
        held = bounds.take(np.zeros(1, dtype=int))
        held.lower[0, columns] = held.upper[0, columns] = column_bound[columns]
        at = slots[bins]
        held.local_lower[0, at] = held.local_upper[0, at] = bin_bound[bins]
        one = np.array([hypothesis])
        fit = persistent(loaded, one, [fit.x], loaded.observed.take(one), held)
        seconds = loaded.seconds(hypothesis, fit)
    free = (bounds.lower[0] < bounds.upper[0]) & ~columns
    free_bins = (bounds.local_lower[0] < bounds.local_upper[0])[slots] & ~bins
    inverse = covariance(seconds, free, free_bins)
    return Best(hypothesis, fit, bounds, seconds, columns, bins, inverse)


def _at_bound(
    value: FloatArray,
    bounds: tuple[FloatArray, FloatArray],
    gradient: FloatArray,
    second: FloatArray,
) -> tuple[BoolArray, FloatArray]:
    """Return which free parameters are at a bound, and the bound next to each."""
    low, high = bounds
    bound = np.where(value - low < high - value, low, high)
    step = bound - value
    cost = 2 * (gradient * step + 0.5 * second * step**2)
    near = np.abs(step) <= BOUND_NEAR * np.minimum(high - low, 1.0)
    return (low < high) & near & (cost <= BOUND_COST), bound


class Places(NamedTuple):
    """Where parameters are, each of shape (parameters,).

    A ``column`` of the fit or a ``bin`` of the model; -1 in the other one, or in both.
    """

    column: IntArray
    bin: IntArray

    def take(self, which: IntArray) -> Places:
        """Return the places of some of the parameters."""
        return Places(self.column[which], self.bin[which])


class Held(NamedTuple):
    """Fits with a parameter held, each of shape (fits,).

    ``value`` is the objective, ``poi`` the parameter of interest (meaningless in a model without
    one), ``sound`` whether the fit ended at a minimum.
    """

    value: FloatArray
    poi: FloatArray
    sound: BoolArray


def hold(loaded: Loaded, best: Best, places: Places, values: FloatArray) -> Held:
    """Fit again with one parameter held at a time, starting where the covariance predicts.

    Parameters
    ----------
    loaded
        The hypotheses.
    best
        The best fit.
    places, values
        Place and value of the parameter that each fit holds, of shape (fits,).
    """
    poi = loaded.chunk.poi[best.hypothesis]
    done = []
    for first in range(0, len(values), _BLOCK):
        some = np.arange(first, min(first + _BLOCK, len(values)))
        fits = _hold(loaded, best, places.take(some), values[some])
        done.append(Held(fits.value, fits.x[:, poi], sound(fits)))
    return Held._make(np.concatenate(arrays) for arrays in zip(*done, strict=True))


def _hold(loaded: Loaded, best: Best, places: Places, values: FloatArray) -> Fits:
    count, slots = len(values), loaded.slots
    which = np.full(count, best.hypothesis)
    one = np.zeros(count, dtype=int)
    bounds, x = best.bounds.take(one), best.fit.x[one]
    columns, bins = np.flatnonzero(places.column >= 0), np.flatnonzero(places.bin >= 0)
    column, bin_ = places.column[columns], places.bin[bins]
    at = columns, column
    bounds.lower[at] = bounds.upper[at] = values[columns]
    at = bins, slots[bin_]
    bounds.local_lower[at] = bounds.local_upper[at] = values[bins]
    start = x.copy()
    if best.covariance is not None:
        matrices = best.covariance
        step = values[columns] - x[columns, column]
        start[columns] += _direction(
            matrices.columns[column], matrices.columns[column, column], step
        )
        step = values[bins] - best.fit.local[0, slots[bin_]]
        start[bins] += _direction(matrices.mixed.T[bin_], matrices.local[bin_, bin_], step)
    start[columns, column] = values[columns]
    initial = loaded.chunk.columns["init"][which]
    return persistent(loaded, which, [start, x, initial], loaded.observed.take(which), bounds)


def _direction(row: FloatArray, variance: FloatArray, step: FloatArray) -> FloatArray:
    moved: FloatArray = row * (step / np.where(variance > 0, variance, np.inf))[:, None]
    return moved


class Ends(NamedTuple):
    """Where the searches ended, each of shape (ends,).

    ``value`` is NaN for an end beyond the bound (``beyond``), or one that was not found.
    ``lower_minimum`` says that -2 log L was below its minimum somewhere.
    """

    value: FloatArray
    beyond: BoolArray
    lower_minimum: bool


def profile_ends(
    loaded: Loaded, best: Best, places: Places, begin: FloatArray, step: FloatArray, to: FloatArray
) -> Ends:
    """Find where -2 log L, minimised over all other parameters, is 1 above its minimum.

    Parameters
    ----------
    loaded
        The hypotheses.
    best
        The best fit.
    places
        Place of the parameter of each end.
    begin
        Its best-fit value.
    step
        The first step, with its sign.
    to
        Its bound on that side.
    """
    count = len(begin)
    inner, inner_root = begin.copy(), np.zeros(count)
    outer, outer_root = np.full(count, np.nan), np.full(count, np.nan)
    value, beyond = np.full(count, np.nan), np.zeros(count, dtype=bool)
    lower_minimum = False
    sign, first = np.sign(step), np.abs(step)
    trial = begin + sign * np.minimum(first, np.abs(to - begin))
    open_ = np.abs(to - begin) > 0
    beyond |= ~open_
    for round_ in range(_MOST):
        which = np.flatnonzero(open_)
        if not which.size:
            break
        held = hold(loaded, best, places.take(which), trial[which])
        rise = 2 * (held.value - best.fit.value[0])
        good = held.sound & np.isfinite(rise)
        lower_minimum |= bool((rise[good] < -_BELOW).any())
        root = np.sqrt(np.maximum(rise, 0.0))
        open_[which[~good]] = False
        for row in np.flatnonzero(good).tolist():
            at, distance = which[row], root[row]
            if abs(distance - 1) < _CLOSE:
                value[at], open_[at] = trial[at], False
            elif distance > 1:
                outer[at], outer_root[at] = trial[at], distance
            else:
                inner[at], inner_root[at] = trial[at], distance
                if trial[at] == to[at]:
                    beyond[at], open_[at] = True, False
        _next(np.flatnonzero(open_), round_, trial, (inner, inner_root), (outer, outer_root))
        far = np.isnan(outer) & open_
        trial[far] = _further(begin, inner, inner_root, first, sign, to)[far]
    return Ends(value, beyond, lower_minimum)


def _next(
    which: IntArray,
    round_: int,
    trial: FloatArray,
    inner: tuple[FloatArray, FloatArray],
    outer: tuple[FloatArray, FloatArray],
) -> None:
    """Set the next trials of ends that are bracketed: on the secant, or half-way."""
    (low, low_root), (high, high_root) = inner, outer
    with np.errstate(invalid="ignore"):
        fraction = (1 - low_root[which]) / (high_root[which] - low_root[which])
    if round_ > _PATIENCE and round_ % 2:
        fraction = np.full(len(which), 0.5)
    trial[which] = low[which] + np.clip(fraction, 0.02, 0.98) * (high[which] - low[which])


def _further(
    begin: FloatArray,
    inner: FloatArray,
    root: FloatArray,
    first: FloatArray,
    sign: FloatArray,
    to: FloatArray,
) -> FloatArray:
    """Return trials further out: where a straight line would reach 1, or a little beyond."""
    gone = np.abs(inner - begin)
    with np.errstate(divide="ignore", invalid="ignore"):
        guess = np.where(root > 0, gone / root, np.inf)
    reach = np.clip(1.02 * guess, 1.1 * np.maximum(gone, first / 10), _FURTHEST * gone + first)
    return begin + sign * np.minimum(reach, np.abs(to - begin))
