"""Upper limits by pyhf's evaluations of CLs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fitserve_worker.engines.crossing import FLUCTUATIONS, upper_limits
from fitserve_worker.engines.limits import in_order, judged, limits_of
from fitserve_worker.engines.points import at_strengths

if TYPE_CHECKING:
    from collections.abc import Callable

    from fitserve.contract import UpperLimits
    from fitserve_worker.engines.asymptotic import Evaluation
    from fitserve_worker.engines.ladder import Climb

__all__ = ["find_limits"]


def find_limits(
    climb: Callable[[float], Climb[Evaluation]], bounds: tuple[float, float], level: float
) -> tuple[dict[float, Climb[Evaluation]], UpperLimits, dict[str, Any]]:
    """Find the observed and expected upper limits of a hypothesis.

    Parameters
    ----------
    climb
        Evaluates CLs at a signal strength.
    bounds
        Of the parameter of interest.
    level
        Confidence level.

    Returns
    -------
    climbs
        Everything that was evaluated, by signal strength: first at 1 (or the bound next to
        it), then in rising order.
    limits
        The limits.
    fields
        ``status`` and ``reason`` of the result, and its CLs where 1 is out of bounds.
    """
    climbs: dict[float, Climb[Evaluation]] = {}

    def cls_at(mu: float) -> list[float]:
        climbs[mu] = climb(mu)
        best = climbs[mu].best
        return [best.CLs_obs, *best.CLs_exp] if best else [math.nan] * len(FLUCTUATIONS)

    found = upper_limits(cls_at, bounds, level)
    ordered = {mu: climbs[mu] for mu in in_order(climbs)}
    points = at_strengths(ordered)["points"]
    return ordered, limits_of(found, level), judged(found, points)
