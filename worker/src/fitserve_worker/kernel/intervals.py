"""Profile-likelihood intervals (MINOS), all ends of all parameters of a fit at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fitserve_worker.kernel.covariance import Places, hold

if TYPE_CHECKING:
    from fitserve_worker.kernel.arraytypes import BoolArray, FloatArray, IntArray
    from fitserve_worker.kernel.covariance import Best
    from fitserve_worker.kernel.fits import Loaded

__all__ = ["Ends", "profile_ends"]

# Of the square root of what -2 log L rises by, which is nearly the distance in standard
# deviations: how close to 1 it must come.
_CLOSE = 2e-4
_MOST = 40
# Steps after which a bracket that shrinks slowly is halved.
_PATIENCE = 6
# A rise of -2 log L below zero that shifts a significance by 1e-3.
_BELOW = 1e-6
_FURTHEST = 4.0


class Ends(NamedTuple):
    """Where the searches ended, each of shape (ends,).

    ``value`` is NaN for an end beyond the bound (``beyond``), or one that was not found.
    ``lower_minimum`` says that somewhere -2 log L was below its minimum.
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
        Of the parameter of each end.
    begin
        Its best value.
    step
        How far to look first, with its sign.
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
            at, found = which[row], root[row]
            if abs(found - 1) < _CLOSE:
                value[at], open_[at] = trial[at], False
            elif found > 1:
                outer[at], outer_root[at] = trial[at], found
            else:
                inner[at], inner_root[at] = trial[at], found
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
    """Set the next trials of ends that lie in a bracket: on its secant, or half-way."""
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
