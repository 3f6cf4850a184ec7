"""From the test statistics of toys to p-values, as pyhf defines them, and their errors.

p-values are fractions of toys with a test statistic of at least a value, CLs is CLs+b / CLb,
and expected values are percentiles over the background-only toys of the p-values at each
(``pyhf.infer.calculators.ToyCalculator.expected_pvalues``).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from fitserve.contract import ToyDistribution

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["PValues", "distribution", "edges_for", "fraction_error", "p_values"]

# Of the normal distribution at -2, -1, 0, 1 and 2 standard deviations, with pyhf's digits.
_PERCENTILES = (2.27501319, 15.86552539, 50.0, 84.13447461, 97.72498681)
_BINS = 60
# The picture reaches to this percentile of both distributions, and to the observed value.
_UPPERMOST = 99.8


class PValues(NamedTuple):
    """p-values and their statistical standard deviations; None where there is no value.

    Observed ones are of a single value of the test statistic, expected ones for background
    fluctuations of -2 to +2 sigma.
    """

    CLsb_obs: float | None
    CLsb_obs_error: float | None
    CLb_obs: float | None
    CLb_obs_error: float | None
    CLs_obs: float | None
    CLs_obs_error: float | None
    CLsb_exp: list[float | None]
    CLb_exp: list[float | None]
    CLs_exp: list[float | None]
    CLs_exp_error: list[float | None]


def p_values(signal: Array, background: Array, observed: float) -> PValues:
    """Return the p-values of an observed value, and those expected without signal.

    Parameters
    ----------
    signal, background
        Test statistic of the toys with signal and without, of shape (toys,), no NaN.
    observed
        Of the observed data, rounded as those are.

    Notes
    -----
    With S and B the fractions of toys beyond the value, the variance of CLs = S / B is
    (var S + CLs^2 var B) / B^2. For an expected value B is what the percentile says; in place
    of its variance comes that of the place where it is, sqrt(p (1 - p) / n) in the fraction p
    of n background-only toys, times the slope of S.

    Examples
    --------
    >>> import numpy as np
    >>> found = p_values(np.array([0.0, 0.0, 1.0, 4.0]), np.array([2.0, 3.0, 5.0, 6.0]), 3.0)
    >>> found.CLsb_obs, found.CLb_obs, round(found.CLs_obs, 4)
    (0.25, 0.75, 0.3333)
    """
    import numpy as np

    if not (len(signal) and len(background)):
        blank: list[float | None] = [None] * 5
        return PValues(None, None, None, None, None, None, blank, blank, blank, blank)
    above_signal, above_background = np.sort(signal), np.sort(background)

    def beyond(ordered: Array, values: Any) -> Array:
        found: Array = 1 - np.searchsorted(ordered, values, side="left") / len(ordered)
        return found

    clsb = float(beyond(above_signal, observed))
    clb = float(beyond(above_background, observed))
    clsb_error = fraction_error(clsb, len(signal))
    clb_error = fraction_error(clb, len(background))
    cls = clsb / clb if clb > 0 else None
    cls_error = None if cls is None else math.hypot(clsb_error, cls * clb_error) / clb

    each_signal = beyond(above_signal, background)
    each_background = beyond(above_background, background)
    at = np.array(_PERCENTILES)
    clsb_exp = np.percentile(each_signal, at)
    clb_exp = np.percentile(each_background, at)
    cls_exp = np.percentile(each_signal / each_background, at)
    part = at / 100
    place = 100 * np.sqrt(part * (1 - part) / len(background))
    low, high = (np.percentile(each_signal, np.clip(at + s * place, 0, 100)) for s in (-1, 1))
    own = [fraction_error(float(value), len(signal)) for value in clsb_exp]
    exp_error = np.hypot(own, (high - low) / 2) / clb_exp
    return PValues(
        clsb,
        clsb_error,
        clb,
        clb_error,
        cls,
        cls_error,
        clsb_exp.tolist(),
        clb_exp.tolist(),
        cls_exp.tolist(),
        exp_error.tolist(),
    )


def fraction_error(fraction: float, toys: int) -> float:
    """Return the standard deviation of a fraction of toys.

    It is that of the posterior of a binomial probability with a flat prior: sqrt(p (1 - p) /
    n) where there are many toys on both sides, and not zero where there are none on one.

    Examples
    --------
    >>> round(fraction_error(0.25, 10_000), 6), round(fraction_error(0.0, 10_000), 6)
    (0.00433, 0.0001)
    """
    inside = fraction * toys
    return math.sqrt((inside + 1) * (toys - inside + 1) / ((toys + 2) ** 2 * (toys + 3)))


def edges_for(signal: Array, background: Array, observed: float) -> list[float]:
    """Return edges from zero of up to 60 intervals, of a width that is a round number."""
    import numpy as np

    tops = [
        float(np.percentile(values, _UPPERMOST)) for values in (signal, background) if len(values)
    ]
    top = 1.05 * max(*tops, observed, 1e-3) if tops else max(observed, 1.0)
    raw = top / _BINS
    scale = 10.0 ** math.floor(math.log10(raw))
    width = next(step * scale for step in (1, 2, 2.5, 5, 10) if step * scale >= raw)
    return [round(index * width, 12) for index in range(math.ceil(top / width) + 1)]


def distribution(values: Array, edges: list[float], failed: int) -> ToyDistribution:
    """Return the histogram of a test statistic.

    Examples
    --------
    >>> import numpy as np
    >>> distribution(np.array([0.0, 0.0, 0.5, 2.0, 3.0]), [0.0, 1.0, 2.0], failed=1)
    ToyDistribution(zero=2, counts=[1, 0], beyond=2, failed=1)
    """
    import numpy as np

    positive = values[values > 0]
    inside = np.searchsorted(edges, positive, side="right") - 1
    counts = np.bincount(inside, minlength=len(edges))
    return ToyDistribution(
        zero=int(len(values) - len(positive)),
        counts=counts[:-1].tolist(),
        beyond=int(counts[-1]),
        failed=failed,
    )
