"""From where CLs was evaluated and crossed a threshold to the limits of a result."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from fitserve.contract import UpperLimits

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fitserve.contract import MuPoint
    from fitserve_worker.engines.crossing import Crossing

__all__ = ["in_order", "judged", "limits_of"]

_NAMES = ("observed", "expected_m2", "expected_m1", "expected_0", "expected_p1", "expected_p2")
# CLs falls with the signal strength; fits that are good to sqrt(q) = 1e-3 make it rise by less.
_RISE = 1e-3


def in_order(evaluated: Iterable[float]) -> list[float]:
    """Return signal strengths as a result has them: the first one, then the others rising.

    Examples
    --------
    >>> in_order([1.0, 3.0, 0.5])
    [1.0, 0.5, 3.0]
    """
    first, *others = evaluated
    return [first, *sorted(others)]


def limits_of(found: Sequence[Crossing], level: float) -> UpperLimits:
    """Return the limits of a result.

    Parameters
    ----------
    found
        Where the six curves cross, in the order of
        `fitserve_worker.engines.crossing.FLUCTUATIONS`.
    level
        Confidence level.
    """
    return UpperLimits(
        level=level,
        observed=found[0].mu,
        expected=[crossing.mu for crossing in found[1:]],
        reasons={
            name: crossing.reason
            for name, crossing in zip(_NAMES, found, strict=True)
            if crossing.reason
        },
    )


def judged(
    found: Sequence[Crossing], points: Sequence[MuPoint], known: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the status and the reason of a result with limits.

    Parameters
    ----------
    found
        Where the six curves cross.
    points
        Everything that was evaluated, as `in_order`: first at 1 or the bound next to it.
    known
        Other reasons to doubt the limits.

    Returns
    -------
    dict
        ``status`` and ``reason`` of a `fitserve.contract.HypothesisResult`, and its CLs where 1
        is out of bounds.
    """
    fields = _doubts(found, points, known)
    if points[0].mu != 1.0:
        fields |= {"CLs_obs": None, "CLs_exp": [None] * (len(_NAMES) - 1)}
    return fields


def _doubts(
    found: Sequence[Crossing], points: Sequence[MuPoint], other: Iterable[str]
) -> dict[str, Any]:
    by_mu = {point.mu: point for point in points}
    known = [by_mu[mu] for mu in sorted(by_mu) if by_mu[mu].CLs_obs is not None]
    if not known:
        return {"status": "failed", "reason": points[0].reason}
    doubts = dict.fromkeys(other) | {
        f"{name}: {crossing.reason}": None
        for name, crossing in zip(_NAMES, found, strict=True)
        if crossing.doubtful
    }
    for mu in sorted({mu for crossing in found for mu in crossing.ends}):
        if by_mu[mu].status != "ok":
            doubts[f"at mu = {mu:.4g}: {by_mu[mu].reason}"] = None
    for name, values in (
        ("observed", [point.CLs_obs for point in known]),
        ("median expected", [point.CLs_exp[2] for point in known]),
    ):
        falling = [value for value in values if value is not None]
        if any(later > earlier + _RISE for earlier, later in itertools.pairwise(falling)):
            doubts[f"the {name} CLs does not fall with mu everywhere"] = None
    if not doubts:
        return {"status": "ok", "reason": None}
    return {"status": "suspect", "reason": "; ".join(doubts)}
