"""Where two engines answer the same question: whether they agree."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fitserve.contract import HypothesisResult

__all__ = ["disagreement"]

# pyhf's fits and the kernel's agree to 4e-5 in CLs on the published pallets; what differs by
# more than this is a different minimum. Limits follow CLs with a slope of the order of one.
_CLS = 1e-3
_LIMIT = 1e-2
# Of -2 log L: a thousandth of what one standard deviation costs.
_TWICE_NLL = 1e-3


def disagreement(kernel: HypothesisResult, pyhf: HypothesisResult) -> str | None:
    """Return in words how far the answers are apart, None if they agree.

    An answer without numbers disagrees with nothing.
    """
    for name, ours, theirs, tolerance in (
        ("limit", _limits(kernel), _limits(pyhf), None),
        ("CLs", _cls(kernel), _cls(pyhf), _CLS),
        ("-2 log L", _minimum(kernel), _minimum(pyhf), _TWICE_NLL),
    ):
        worst = _worst(ours, theirs, tolerance)
        if worst is not None:
            doubt = kernel.reason
            return f"the kernel finds {name} {worst[0]:.6g} ({doubt}), pyhf {worst[1]:.6g}"
    return None


def _worst(
    ours: Iterable[float | None], theirs: Iterable[float | None], tolerance: float | None
) -> tuple[float, float] | None:
    """Return the pair of numbers that is furthest apart, if that is beyond the tolerance."""
    worst, largest = None, 1.0
    for one, other in zip(ours, theirs, strict=False):
        if one is None or other is None:
            continue
        allowed = tolerance or _LIMIT * max(abs(one), abs(other), math.ulp(1.0))
        if abs(one - other) / allowed > largest:
            worst, largest = (one, other), abs(one - other) / allowed
    return worst


def _limits(result: HypothesisResult) -> list[float | None]:
    return [result.limit.observed, *result.limit.expected] if result.limit else []


def _cls(result: HypothesisResult) -> list[float | None]:
    # The points of a search for limits are where each engine looked.
    points = result.points[:1] if result.limit else result.points
    return [value for point in points for value in (point.CLs_obs, *point.CLs_exp)]


def _minimum(result: HypothesisResult) -> list[float | None]:
    return [result.twice_nll] if result.fit or result.ranking else []
