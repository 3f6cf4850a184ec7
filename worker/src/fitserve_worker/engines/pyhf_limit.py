"""Upper limits from evaluations of CLs, and the reasons to doubt them."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from fitserve.contract import UpperLimits
from fitserve_worker.engines.crossing import upper_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fitserve_worker.engines.asymptotic import Evaluation
    from fitserve_worker.engines.crossing import Crossing
    from fitserve_worker.engines.ladder import Climb

__all__ = ["find_limits"]

_NAMES = ("observed", "expected_m2", "expected_m1", "expected_0", "expected_p1", "expected_p2")
# CLs falls with the signal strength; fits that are good to sqrt(q) = 1e-3 make it rise by less.
_RISE = 1e-3


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
        return [best.CLs_obs, *best.CLs_exp] if best else [math.nan] * len(_NAMES)

    found = upper_limits(cls_at, bounds, level)
    first = next(iter(climbs))
    ordered = {mu: climbs[mu] for mu in (first, *sorted(set(climbs) - {first}))}
    limits = UpperLimits(
        level=level,
        observed=found[0].mu,
        expected=[crossing.mu for crossing in found[1:]],
        reasons={
            name: crossing.reason
            for name, crossing in zip(_NAMES, found, strict=True)
            if crossing.reason
        },
    )
    fields = _judged(found, climbs)
    if first != 1.0:
        fields |= {"CLs_obs": None, "CLs_exp": [None] * (len(_NAMES) - 1)}
    return ordered, limits, fields


def _judged(found: list[Crossing], climbs: Mapping[float, Climb[Evaluation]]) -> dict[str, Any]:
    if not any(one.best for one in climbs.values()):
        return {"status": "failed", "reason": next(iter(climbs.values())).reason}
    doubts = {
        f"{name}: {crossing.reason}": None
        for name, crossing in zip(_NAMES, found, strict=True)
        if crossing.doubtful
    }
    for mu in sorted({mu for crossing in found for mu in crossing.ends}):
        if climbs[mu].status != "ok":
            doubts[f"at mu = {mu:.4g}: {climbs[mu].reason}"] = None
    known = [one.best for _, one in sorted(climbs.items()) if one.best]
    for name, values in (
        ("observed", [one.CLs_obs for one in known]),
        ("median expected", [one.CLs_exp[2] for one in known]),
    ):
        if any(later > earlier + _RISE for earlier, later in itertools.pairwise(values)):
            doubts[f"the {name} CLs does not fall with mu everywhere"] = None
    if not doubts:
        return {"status": "ok", "reason": None}
    return {"status": "suspect", "reason": "; ".join(doubts)}
