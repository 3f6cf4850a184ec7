"""A second answer by pyhf, for the hypotheses that a task wants to have verified.

pyhf begins with its tighter tolerance: with the usual one its own CLs may be wrong by more than
what is compared. What is doubted it fits with Minuit, and what pyhf fitted in the first place
it fits again with its other optimizer.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from fitserve.contract import (
    EngineOptions,
    HypotestRequest,
    LimitRequest,
    ScanRequest,
    Verification,
    request_digest,
)
from fitserve_worker.engines import UNFITTED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fitserve.contract import Hypothesis, HypothesisResult, MuPoint
    from fitserve_worker.engines.base import Work

__all__ = ["TOLERANCE", "verified"]

TOLERANCE = 1e-4
"""Greatest difference of two CLs that counts as agreement."""


def verified(
    work: Work, hypothesis: Hypothesis, result: HypothesisResult, *, doubted: bool = False
) -> HypothesisResult:
    """Return the result of a hypothesis with pyhf's answer beside it.

    It is suspect where a CLs differs from pyhf's by more than `TOLERANCE`. A result without
    CLs, or of no fit, is returned as it is: there is nothing to compare.

    Parameters
    ----------
    work
        The task.
    hypothesis, result
        One of its hypotheses, and what was found.
    doubted
        Whether that is doubted already.
    """
    claimed = _claimed(work, result)
    if not claimed or result.engine == UNFITTED:
        return result
    begin = time.perf_counter()
    optimizer = _optimizer(work, result, doubted=doubted)
    second = _by_pyhf(work, hypothesis, optimizer, [point.mu for point in claimed])
    differences = [
        _difference(ours, theirs) for ours, theirs in zip(claimed, second.points, strict=False)
    ]
    known = [value for value in differences if value is not None]
    verification = Verification(
        engine=second.engine,
        largest=max(known, default=None),
        tolerance=TOLERANCE,
        points=second.points,
        seconds=time.perf_counter() - begin,
        reason=second.reason,
    )
    wrong = {
        ours.mu: _reason(ours, theirs, verification)
        for ours, theirs, value in zip(claimed, second.points, differences, strict=False)
        if value is not None and value > TOLERANCE
    }
    return msgspec.structs.replace(result, verification=verification, **_doubted(result, wrong))


def _claimed(work: Work, result: HypothesisResult) -> list[MuPoint]:
    """Return the points to verify: all that were asked for, or those that decide a limit."""
    points = {point.mu: point for point in result.points if point.CLs_obs is not None}
    if isinstance(work.request, LimitRequest):
        limits = [result.limit.observed, result.limit.expected[2]] if result.limit else []
        wanted = [1.0, *(_nearest(points, value) for value in limits if value is not None)]
    elif isinstance(work.request, HypotestRequest | ScanRequest):
        # Without a signal CLs is one, and sqrt(q) of nothing is all rounding.
        wanted = [mu for mu in work.request.mu if mu > 0]
    else:
        wanted = []
    return [points[mu] for mu in dict.fromkeys(wanted) if mu in points]


def _nearest(strengths: Iterable[float], value: float) -> float:
    return min(strengths, key=lambda mu: abs(mu - value))


def _optimizer(
    work: Work, result: HypothesisResult, *, doubted: bool
) -> Literal["scipy", "minuit"]:
    optimizer: Literal["scipy", "minuit"] = work.request.engine.optimizer
    if doubted:
        optimizer = "minuit"
    if result.engine.endswith(optimizer):
        return "minuit" if optimizer == "scipy" else "scipy"
    return optimizer


def _by_pyhf(
    work: Work,
    hypothesis: Hypothesis,
    optimizer: Literal["scipy", "minuit"],
    strengths: list[float],
) -> HypothesisResult:
    from fitserve_worker.engines.pyhf_reference import PyhfEngine

    asked = work.request
    engine = EngineOptions(engine="pyhf", backend=asked.engine.backend, optimizer=optimizer)
    request = HypotestRequest(
        mu=tuple(strengths),
        test_stat=getattr(asked, "test_stat", "qtilde"),
        model=asked.model,
        engine=engine,
    )
    again = work._replace(
        hypotheses=[hypothesis], request=request, request_digest=request_digest(request)
    )
    return next(iter(PyhfEngine(engine, tight=True).hypotest(again)))


def _difference(ours: MuPoint, theirs: MuPoint) -> float | None:
    """Return the greatest difference in CLs, None where pyhf has no number."""
    pairs = zip((ours.CLs_obs, *ours.CLs_exp), (theirs.CLs_obs, *theirs.CLs_exp), strict=True)
    known = [abs(one - other) for one, other in pairs if one is not None and other is not None]
    return max(known) if len(known) == 1 + len(ours.CLs_exp) else None


def _reason(ours: MuPoint, theirs: MuPoint, verification: Verification) -> str:
    told = (
        f"at mu = {ours.mu:g} CLs is {ours.CLs_obs:.6g} (expected {ours.CLs_exp[2]:.6g}), "
        f"by {verification.engine} {theirs.CLs_obs:.6g} (expected {theirs.CLs_exp[2]:.6g})"
    )
    return f"{told}, which is doubted too: {theirs.reason}" if theirs.reason else told


def _doubted(result: HypothesisResult, wrong: dict[float, str]) -> dict[str, Any]:
    """Return the fields that change where pyhf found something else."""
    if not wrong:
        return {}
    points = [
        msgspec.structs.replace(
            point, status="suspect", reason=_joined(point.reason, wrong[point.mu])
        )
        if point.mu in wrong
        else point
        for point in result.points
    ]
    reason = _joined(result.reason, "; ".join(wrong.values()))
    return {"status": "suspect", "reason": reason, "points": points}


def _joined(first: str | None, second: str) -> str:
    return f"{first}; {second}" if first else second
