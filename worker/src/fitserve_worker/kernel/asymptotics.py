"""Test statistics (arXiv:1007.1727) as pyhf defines them: lower bounds of fits, asymptotic CLs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from fitserve_worker.kernel import FloatArray

__all__ = ["CLs", "asymptotic_cls", "compared_floor", "poi_floor"]

_SIGMAS = np.array([2.0, 1.0, 0.0, -1.0, -2.0])


class CLs(NamedTuple):
    """Observed CLs, of shape (n,), and expected ones for -2 to +2 sigma, of shape (n, 5)."""

    observed: FloatArray
    expected: FloatArray


def asymptotic_cls(q: FloatArray, q_asimov: FloatArray, test_stat: str) -> CLs:
    """Return CLs for values of the test statistic.

    Parameters
    ----------
    q, q_asimov
        Test statistic on the observed data, and on the Asimov data of the background-only
        hypothesis, of shape (n,).
    test_stat
        ``"qtilde"`` (eq. 16 of arXiv:1007.1727, distributed as eq. 65 and 66) or ``"q"``
        (eq. 14).

    Notes
    -----
    With s = sqrt(q_A), CLs is Phi(-(t + s)) / Phi(-t), t being sqrt(q) - s, and for q-tilde
    above q_A (q - q_A) / (2 s). Where s is zero the two hypotheses are the same, and CLs is
    one. Logarithms of tail probabilities keep it accurate when it is tiny.

    Examples
    --------
    >>> import numpy as np
    >>> both = asymptotic_cls(np.array([4.0, 0.0]), np.array([1.0, 0.0]), "qtilde")
    >>> both.observed.round(6), both.expected[0].round(6)
    (array([0.092949, 1.      ]), array([0.059336, 0.143393, 0.317311, 0.594287, 0.860931]))
    """
    from scipy.special import log_ndtr

    root, width = np.sqrt(q), np.sqrt(q_asimov)
    blind = width == 0
    safe = np.where(blind, 1.0, width)
    t = root - width
    if test_stat == "qtilde":
        t = np.where(root > width, (q - q_asimov) / (2 * safe), t)

    def ratio(t: FloatArray, s: FloatArray) -> FloatArray:
        logarithm: FloatArray = log_ndtr(-(t + s)) - log_ndtr(-t)
        return np.exp(logarithm)

    observed = np.where(blind, 1.0, ratio(t, width))
    expected = ratio(_SIGMAS, width[:, None])
    return CLs(observed, expected)


def poi_floor(lower: ArrayLike, upper: ArrayLike, test_stat: str) -> NDArray[np.float64]:
    """Return the lower bound of the best-fit signal strength.

    q compares with the best fit wherever it is (arXiv:1007.1727, eq. 14): a lower bound of zero
    or above, pyhf's default, would make it q-tilde. The range is then as wide below zero as above.
    A lower bound below zero is kept. For q-tilde (eq. 16) any bound may stay, as a best fit below
    zero counts as one at zero.

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
    """Return the lower bound with which the best fit is the one a test statistic compares with.

    It is that of `poi_floor`, with the same parameters; for q-tilde it is never below zero.

    Examples
    --------
    >>> compared_floor([0.0, -5.0, 0.5], [10.0, 10.0, 10.0], "qtilde").tolist()
    [0.0, 0.0, 0.5]
    """
    floor = poi_floor(lower, upper, test_stat)
    return np.maximum(floor, 0.0) if test_stat == "qtilde" else floor
