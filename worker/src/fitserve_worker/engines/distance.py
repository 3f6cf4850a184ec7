"""How far pyhf's fits are from their minima, by derivatives where they ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["distance"]

# Steps of finite differences: the first one, in units of 1 or of the parameter, and what -2 log L
# should rise by in one; the second is made where the first misses that by more than the factor.
_STEP = 1e-2
_RISE = 1e-3
_FACTOR = 30.0
_LARGEST = 0.5


def distance(
    function: Callable[[NDArray[np.float64]], float],
    at: Sequence[float],
    bounds: Sequence[tuple[float, float]],
    fixed: Sequence[bool],
) -> float:
    """Return about how much lower than at a point -2 log L can be, one parameter at a time.

    Optimizers stop where a step gains little in their own units, and say that they converged:
    with a weak signal, whose strength hardly changes -2 log L, long before its minimum. This is
    the sum over the parameters of what a step to where the parabola of first and second
    derivative is lowest gains, between the bounds.

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
