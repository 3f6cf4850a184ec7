"""Two engines' answers to the same question: whether they agree, and which one holds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from fitserve_contract import KERNEL_DOUBT
from fitserve_worker.engines.base import cls_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fitserve_contract import HypothesisResult, MuPoint

__all__ = ["weighed"]

# pyhf's fits and the kernel's agree to 4e-5 in CLs on the published pallets; a larger difference
# than this means a different minimum. Limits follow CLs with a slope of the order of one.
_CLS = 1e-3
_LIMIT = 1e-2
# In -2 log L: a thousandth of the rise at one standard deviation.
_TWICE_NLL = 1e-3


class _Pair(NamedTuple):
    """A number by both engines, and their distance in units of the tolerance."""

    name: str
    kernel: float
    pyhf: float
    distance: float


def weighed(kernel: HypothesisResult, pyhf: HypothesisResult) -> HypothesisResult:
    """Return the result of a doubted answer of the kernel and a second opinion by pyhf.

    Where pyhf trusts its own answer and it is the same, that is the result. Where it differs, or
    pyhf doubts it, the result is ``suspect`` and its reason has both numbers and the doubts about
    each; the numbers are then those of the lower minimum. Where pyhf has none, the kernel's
    stays, as ``suspect``; only where the kernel has none either the result is ``failed``.

    Parameters
    ----------
    kernel, pyhf
        Answers to the same question. The kernel's has the reason to doubt it.
    """
    if pyhf.status == "failed":
        reason = f"{kernel.reason}; pyhf has no number: {pyhf.reason}"
        result, changed = (
            (kernel, {"status": "suspect", "reason": reason})
            if _answered(kernel)
            else (pyhf, {"reason": reason})
        )
    elif _higher(pyhf, kernel):
        above = (pyhf.twice_nll or 0.0) - (kernel.twice_nll or 0.0)
        reason = f"{kernel.reason}; pyhf's minimum of -2 log L is {above:.2g} higher"
        result, changed = kernel, {"status": "suspect", "reason": reason}
    else:
        result, changed = pyhf, _beside(kernel, pyhf)
    doubt: dict[str, float | str | None] = {
        KERNEL_DOUBT: kernel.reason,
        "kernel CLs_obs": kernel.CLs_obs,
    }
    return msgspec.structs.replace(
        result,
        attempts=[*kernel.attempts, *pyhf.attempts],
        fit_time=kernel.fit_time + pyhf.fit_time,
        setup_time=kernel.setup_time + pyhf.setup_time,
        diagnostics={**result.diagnostics, **doubt},
        **changed,
    )


def _higher(pyhf: HypothesisResult, kernel: HypothesisResult) -> bool:
    """Whether pyhf ended in a higher minimum than the kernel."""
    if pyhf.twice_nll is None or kernel.twice_nll is None or not _answered(kernel):
        return False
    return pyhf.twice_nll > kernel.twice_nll + _TWICE_NLL


def _answered(result: HypothesisResult) -> bool:
    """Whether a result has a number that answers its request."""
    if result.status == "failed":
        return False
    answers = (result.limit, result.fit, result.ranking)
    return any(one is not None for one in answers) or any(map(_complete, result.points))


def _complete(point: MuPoint) -> bool:
    # Below a signal strength of zero there is no CLs.
    values = cls_of(point) if point.mu >= 0 else [point.twice_delta_nll]
    return None not in values


def _beside(kernel: HypothesisResult, pyhf: HypothesisResult) -> dict[str, Any]:
    """Return the fields of pyhf's result that change beside the kernel's."""
    worst = max(_pairs(kernel, pyhf), key=lambda pair: pair.distance, default=None)
    if worst is None:
        if pyhf.status == "ok":
            return {}
        return {"reason": f"the kernel has no number ({kernel.reason}), pyhf: {pyhf.reason}"}
    if pyhf.status == "ok" and worst.distance <= 1:
        return {}
    reason = f"the kernel finds {worst.name} {worst.kernel:.6g} ({kernel.reason}), "
    reason += f"pyhf {worst.pyhf:.6g}" + (f" ({pyhf.reason})" if pyhf.reason else "")
    # In a search for limits the engines evaluate CLs at different signal strengths.
    points = pyhf.points if pyhf.limit else _doubted(kernel, pyhf, reason)
    return {"status": "suspect", "reason": reason, "points": points}


def _doubted(kernel: HypothesisResult, pyhf: HypothesisResult, reason: str) -> list[MuPoint]:
    """Return pyhf's points; those at which the kernel finds another CLs are suspect."""
    others = {point.mu: point for point in kernel.points}
    return [
        msgspec.structs.replace(point, status="suspect", reason=point.reason or reason)
        if point.mu in others
        and any(pair.distance > 1 for pair in _compared([others[point.mu]], [point]))
        else point
        for point in pyhf.points
    ]


def _pairs(kernel: HypothesisResult, pyhf: HypothesisResult) -> Iterator[_Pair]:
    """Yield the numbers that both have, limits first."""
    yield from _apart("limit", _limits(kernel), _limits(pyhf), None)
    yield from (
        _compared(kernel.points[:1], pyhf.points[:1])
        if pyhf.limit
        else _compared(kernel.points, pyhf.points)
    )
    yield from _apart("-2 log L", _minimum(kernel), _minimum(pyhf), _TWICE_NLL)


def _compared(kernel: Iterable[MuPoint], pyhf: Iterable[MuPoint]) -> Iterator[_Pair]:
    for ours, theirs in zip(kernel, pyhf, strict=False):
        yield from _apart("CLs", cls_of(ours), cls_of(theirs), _CLS)


def _apart(
    name: str,
    ours: Iterable[float | None],
    theirs: Iterable[float | None],
    tolerance: float | None,
) -> Iterator[_Pair]:
    """Yield the pairs of numbers; a tolerance of None stands for the relative one of limits."""
    for one, other in zip(ours, theirs, strict=False):
        if one is None or other is None:
            continue
        allowed = tolerance or _LIMIT * max(abs(one), abs(other), math.ulp(1.0))
        yield _Pair(name, one, other, abs(one - other) / allowed)


def _limits(result: HypothesisResult) -> list[float | None]:
    return [result.limit.observed, *result.limit.expected] if result.limit else []


def _minimum(result: HypothesisResult) -> list[float | None]:
    return [result.twice_nll] if result.fit or result.ranking else []
