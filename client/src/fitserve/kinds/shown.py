"""Which of several numbers of a run is shown where there is room for one.

Tables, counts, contours, reports and exports take the signal strength and the confidence level from
here, so that they agree and can say which.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from fitserve_contract import ABOVE_BOUND, LimitRequest, MuPoint, cls_strengths

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fitserve_contract import HypothesisResult, Request

__all__ = [
    "LIMITS",
    "Beyond",
    "above_bound",
    "at_strength",
    "beyond_bound",
    "confidence_level",
    "exclusion_words",
    "level_text",
    "limit_text",
    "of_strength",
    "shown_strength",
]

LIMITS = ("observed", "expected_m2", "expected_m1", "expected_0", "expected_p1", "expected_p2")
"""Names of the limits of a hypothesis, as in ``reasons`` of `fitserve_contract.UpperLimits`."""

_FLUCTUATIONS = (0.0, -2.0, -1.0, 0.0, 1.0, 2.0)
_LEVEL = 0.95
# An extrapolation is uncertain, and to search a little further costs nothing.
_ROOM = 1.5
_FURTHEST = 1000.0


def shown_strength(request: Request) -> float | None:
    """Return the signal strength that is shown: of those with CLs the nearest to 1.

    A hypothesis as published has a signal strength of 1. None is for requests without CLs.

    Examples
    --------
    >>> from fitserve_contract import FitRequest, HypotestRequest
    >>> shown_strength(HypotestRequest(mu=(0.5, 1.0, 2.0)))
    1.0
    >>> shown_strength(FitRequest()) is None
    True
    """
    return min(cls_strengths(request), key=lambda mu: abs(mu - 1), default=None)


def confidence_level(request: Request) -> float:
    """Return the level of exclusion: that of a request for limits, and 0.95 of all others."""
    return request.level if isinstance(request, LimitRequest) else _LEVEL


def level_text(level: float) -> str:
    """Return a confidence level as titles and tables have it.

    Examples
    --------
    >>> level_text(0.95)
    '95% CL'
    """
    return f"{100 * level:g}% CL"


def exclusion_words(request: Request) -> str:
    """Return the level and signal strength of exclusion in words.

    Examples
    --------
    >>> exclusion_words(LimitRequest(level=0.9))
    '90% CL, mu = 1'
    """
    mu = shown_strength(request)
    level = level_text(confidence_level(request))
    return level if mu is None else f"{level}, mu = {mu:g}"


def of_strength(request: Request) -> str:
    """Return the signal strength for the title of CLs; it is empty where that is 1 only.

    Examples
    --------
    >>> from fitserve_contract import HypotestRequest
    >>> of_strength(HypotestRequest(mu=(0.5, 2.0))), of_strength(HypotestRequest())
    (' (mu = 0.5)', '')
    """
    mu = shown_strength(request)
    return "" if mu is None or cls_strengths(request) == (1.0,) else f" (mu = {mu:g})"


def at_strength(request: Request, result: HypothesisResult, mu: float) -> MuPoint:
    """Return the CLs of a hypothesis at a signal strength that was asked for.

    Its status is that of this signal strength, where there are several.
    """
    point = next((one for one in result.points if math.isclose(one.mu, mu)), None)
    several = len(cls_strengths(request)) > 1
    if point is not None:
        judged = {"status": result.status, "reason": result.reason}
        return point if several else msgspec.structs.replace(point, **judged)
    # A result that failed as a whole has a reason and no points.
    if not several or result.status == "failed":
        return MuPoint(
            mu=mu,
            CLs_obs=result.CLs_obs,
            CLs_exp=result.CLs_exp,
            status=result.status,
            reason=result.reason,
        )
    return MuPoint(
        mu=mu,
        CLs_obs=None,
        CLs_exp=[None] * 5,
        status="failed",
        reason="there is no result at this signal strength",
    )


def limit_text(result: HypothesisResult, name: str) -> str:
    """Return one of `LIMITS` as a table has it: ``> 10`` where it is above the POI's bound."""
    limit = result.limit
    if limit is None:
        return "-"
    value = dict(zip(LIMITS, (limit.observed, *limit.expected), strict=True))[name]
    if value is not None:
        return f"{value:.4g}"
    bound = above_bound(result, name)
    return "-" if bound is None else f"> {bound:.4g}"


def above_bound(result: HypothesisResult, name: str) -> float | None:
    """Return the POI's upper bound where one of `LIMITS` is above it, else None."""
    limit = result.limit
    if limit is None or not limit.reasons.get(name, "").startswith(ABOVE_BOUND):
        return None
    # The search ended there.
    return max(point.mu for point in result.points)


class Beyond(NamedTuple):
    """Hypotheses with limits above the POI's upper bound.

    ``bound`` is the bound (the lowest, where they differ), ``mu_max`` one up to which all limits
    are likely to be found.
    """

    names: list[str]
    bound: float
    mu_max: float

    def __str__(self) -> str:
        count = len(self.names)
        limits = "1 hypothesis has limits" if count == 1 else f"{count} hypotheses have limits"
        return (
            f"{limits} above {self.bound:g}, the upper bound of the parameter of interest; "
            f"to look further: fitserve run PALLET --limit --mu-max {self.mu_max:g}"
        )


def beyond_bound(results: Iterable[HypothesisResult]) -> Beyond | None:
    """Return which hypotheses have limits above the bound, None where none has."""
    bounds: list[float] = []
    names, furthest = [], 0.0
    for one in results:
        above = [name for name in LIMITS if above_bound(one, name) is not None]
        if above:
            bounds.append(max(point.mu for point in one.points))
            names.append(one.name)
            furthest = max(furthest, _furthest(one, above))
    return Beyond(names, min(bounds), _rounded_up(_ROOM * furthest)) if names else None


def _furthest(result: HypothesisResult, above: Sequence[str]) -> float:
    """Extrapolate to the greatest limit: z of CLs is nearly straight in mu, and known at zero."""
    last = max(result.points, key=lambda point: point.mu)
    level = result.limit.level if result.limit else _LEVEL
    normal, steps = NormalDist(), [1.0]
    curves = zip(LIMITS, _FLUCTUATIONS, (last.CLs_obs, *last.CLs_exp), strict=True)
    for name, sigma, cls in curves:
        if name in above and cls is not None:
            share = normal.cdf(sigma)
            target = sigma - normal.inv_cdf((1 - level) * share)
            risen = sigma - normal.inv_cdf(min(cls, 1.0) * share)
            steps.append(target / risen if risen > 0 else _FURTHEST)
    return last.mu * min(max(steps), _FURTHEST)


def _rounded_up(value: float) -> float:
    """Return the next number with one digit.

    Examples
    --------
    >>> _rounded_up(147.0)
    200.0
    """
    unit = 10.0 ** math.floor(math.log10(value))
    return math.ceil(round(value / unit, 9)) * unit
