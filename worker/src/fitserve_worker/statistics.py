"""What test statistics ask of the signal strength's bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["compared_floor", "poi_floor"]


def poi_floor(lower: ArrayLike, upper: ArrayLike, test_stat: str) -> NDArray[np.float64]:
    """Return how far down the best fit of the signal strength is looked for.

    q compares with the best fit wherever it is (arXiv:1007.1727, eq. 14): a lower bound of zero
    or above, which is what pyhf has where a measurement says nothing, would make it q-tilde.
    The range is then as wide below zero as above. A lower bound below zero is kept. For q-tilde
    (eq. 16) the bound may be what it is, as a best fit below zero counts as one at zero.

    Parameters
    ----------
    lower, upper
        Bounds of the signal strength.
    test_stat
        ``"qtilde"`` or ``"q"``.

    Examples
    --------
    >>> poi_floor([0.0, -5.0], [10.0, 10.0], "q").tolist()
    [-10.0, -5.0]
    >>> poi_floor([0.0, -5.0], [10.0, 10.0], "qtilde").tolist()
    [0.0, -5.0]
    """
    low: Any = np.asarray(lower, dtype=float)
    widened: NDArray[np.float64] = np.where(low >= 0, -np.abs(np.asarray(upper)), low)
    return widened if test_stat == "q" else low


def compared_floor(lower: ArrayLike, upper: ArrayLike, test_stat: str) -> NDArray[np.float64]:
    """Return the bound with which the best fit is what a test statistic compares with.

    Parameters and the range for q are those of `poi_floor`; for q-tilde it is never below zero.

    Examples
    --------
    >>> compared_floor([0.0, -5.0, 0.5], [10.0, 10.0, 10.0], "qtilde").tolist()
    [0.0, 0.0, 0.5]
    """
    floor = poi_floor(lower, upper, test_stat)
    return np.maximum(floor, 0.0) if test_stat == "qtilde" else floor
