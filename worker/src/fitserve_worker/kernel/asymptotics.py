"""Asymptotic CLs from test statistics (arXiv:1007.1727), as pyhf defines them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from fitserve_worker.kernel.arraytypes import FloatArray

__all__ = ["CLs", "asymptotic_cls"]

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
