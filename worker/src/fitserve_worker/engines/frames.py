r"""Units of the signal strength in which a limit is of the order of one.

Limits are sought within the bounds of the parameter of interest (POI), which say nothing about
where they are: a signal may be a thousand times too weak or too strong. Where that is so the POI
is measured in another unit. It is the same as multiplying the signal by this unit: the POI, within
its published bounds, then stands for signal strengths that are as much larger or smaller.

The first unit follows from counting alone. Without systematics the test statistic of the Asimov
data of the background is

.. math:: q_A(\mu) = 2 \sum_i \left[\mu s_i - b_i \ln(1 + \mu s_i / b_i)\right]

(arXiv:1007.1727, eq. 25 onwards), and the median expected limit is where its root is the quantile
of (1 + level) / 2.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from fitserve_contract import ABOVE_BOUND, NORMFACTOR_BOUNDS
from fitserve_worker.engines.limits import FLUCTUATIONS, z_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve_contract import LimitRequest, ModelOptions, MuPoint, UpperLimits
    from fitserve_worker.engines.limits import Crossing
    from fitserve_worker.kernel import FloatArray

__all__ = [
    "MOST_FRAMES",
    "NO_SIGNAL",
    "Frame",
    "above_bound",
    "first_frame",
    "likely_limit",
    "next_frame",
    "without_signal",
]

MOST_FRAMES = 6
"""Units that are tried before a limit is given up."""

NO_SIGNAL = "there is no limit: the signal expects no events in any bin"

# A limit this far from one, as counting has it, is worth another unit from the outset. Systematics
# may make it a hundred times as large; then it is found in the end.
_WEAK, _STRONG = 3.0, 0.01
# A limit is put here in a new unit, but no nearer to the bound than this part of it.
_TARGET, _ROOM = 1.0, 0.2
# No unit grows by more or less than this at once.
_LEAST_GROWTH, _MOST_GROWTH = 4.0, 1e4
_LARGEST = 1e100
# Where there are no events, a bin still counts as having some background.
_LEAST_EVENTS = 0.1


class Frame(NamedTuple):
    """How the POI is measured: its bounds ``low`` and ``high`` are in units of ``unit``.

    ``scale`` is how many times as wide as usual the bounds are. It is not the unit where
    the samples that the POI acts on cannot be told from the background.
    """

    low: float
    high: float
    unit: float = 1.0
    scale: float = 1.0

    @property
    def usual(self) -> bool:
        """Whether the POI is measured as it is published."""
        return self.unit == 1.0 and self.scale == 1.0

    def without_unit(self) -> Frame:
        """Return the same bounds in units of one."""
        return Frame(self.low * self.unit, self.high * self.unit, 1.0, self.scale)


def likely_limit(signal: FloatArray, events: FloatArray, level: float) -> float:
    """Return the median expected limit of a counting experiment; infinite without a signal.

    Parameters
    ----------
    signal, events
        Events of the signal and of all else in each bin.
    level
        Confidence level.

    Examples
    --------
    >>> import numpy as np
    >>> round(likely_limit(np.array([1.0]), np.array([10000.0]), 0.95), 1)
    197.3
    >>> likely_limit(np.array([0.0]), np.array([100.0]), 0.95)
    inf
    """
    signal = np.abs(signal)
    size = float(signal.max(initial=0.0))
    if not 0 < size < math.inf:
        return math.inf
    shape, events = signal / size, np.maximum(events, _LEAST_EVENTS)
    target = NormalDist().inv_cdf((1 + level) / 2) ** 2

    def beyond(strength: float) -> bool:
        more = strength * shape
        return float(2 * (more - events * np.log1p(more / events)).sum()) > target

    high = 1.0
    while not beyond(high):
        high *= 4
    low = high
    while beyond(low):
        low /= 4
    for _ in range(20):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return math.sqrt(low * high) / size


def first_frame(likely: float, bounds: tuple[float, float], request: LimitRequest) -> Frame:
    """Return how to measure the POI, given where its limit is likely to be.

    Parameters
    ----------
    likely
        The limit that is likely.
    bounds
        Of the POI.
    request
        What is asked. With ``mu_max`` the bounds stay where they are.
    """
    weak = min(bounds[1], NORMFACTOR_BOUNDS[1])
    if not math.isfinite(likely) or _STRONG * min(weak, 1.0) < likely < _WEAK * weak:
        return Frame(*bounds)
    return _frame(likely, bounds, request.model)


def _frame(limit: float, bounds: tuple[float, float], options: ModelOptions) -> Frame:
    low, high = bounds
    limit = min(limit, _LARGEST)
    if options.mu_max is not msgspec.UNSET:
        # The bounds are the user's.
        unit = _power_of_two(min(limit, _ROOM * high))
        return Frame(low / unit, high / unit, unit, 1.0)
    unit = _power_of_two(limit / min(_TARGET, _ROOM * high))
    return Frame(low, high, unit, unit)


def _power_of_two(value: float) -> float:
    """Return the power of two that is nearest: to change to it and back changes no digit."""
    return 2.0 ** round(math.log2(value))


def next_frame(
    frame: Frame,
    crossings: Sequence[Crossing],
    points: Sequence[MuPoint],
    bounds: tuple[float, float],
    request: LimitRequest,
) -> Frame | None:
    """Return how to measure the POI next, if a limit was above its bound.

    Parameters
    ----------
    frame, crossings, points
        How it was measured, where curves cross, and everything that was evaluated, in units of one.
    bounds, request
        As for `first_frame`.
    """
    above = [curve for curve, one in enumerate(crossings) if above_bound(one)]
    if not above or request.model.mu_max is not msgspec.UNSET:
        return None
    last = max(points, key=lambda point: point.mu)
    if frame.high * frame.unit < bounds[1]:
        return Frame(*bounds)
    values = [last.CLs_obs, *last.CLs_exp]
    growth = max(_growth(values[curve], FLUCTUATIONS[curve], request.level) for curve in above)
    limit = last.mu * min(max(growth, _LEAST_GROWTH), _MOST_GROWTH)
    return _frame(limit, bounds, request.model) if limit < _LARGEST else None


def above_bound(crossing: Crossing) -> bool:
    """Tell whether a limit is above the bound of the POI."""
    return crossing.reason is not None and crossing.reason.startswith(ABOVE_BOUND)


def without_signal(limits: UpperLimits) -> UpperLimits:
    """Return limits of which there are none, since there is no signal to scale."""
    return msgspec.structs.replace(limits, reasons=dict.fromkeys(limits.reasons, NO_SIGNAL))


def _growth(cls: float | None, fluctuation: float, level: float) -> float:
    """Extrapolate from a CLs to its limit: z is nearly straight in mu, and known at zero."""
    if cls is None:
        return _LEAST_GROWTH
    begin = -fluctuation
    risen = z_of(cls, fluctuation) - begin
    return (z_of(1 - level, fluctuation) - begin) / risen if risen > 0 else _MOST_GROWTH
