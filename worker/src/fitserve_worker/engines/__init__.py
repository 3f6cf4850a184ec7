"""The engines that fit: pyhf as the reference, and what agrees with it and is faster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitserve.contract import HypothesisResult, hypothesis_key

if TYPE_CHECKING:
    from fitserve.contract import HypotestRequest, Hypothesis
    from fitserve_worker.engines.base import Engine, Work

__all__ = ["failed", "select"]


def select(request: HypotestRequest) -> Engine:
    """Return the engine that a request asks for."""
    from fitserve_worker.engines.pyhf_reference import PyhfEngine

    return PyhfEngine(request.engine)


def failed(work: Work, hypothesis: Hypothesis, reason: str) -> HypothesisResult:
    """Return the result of a hypothesis that could not be fitted at all."""
    return HypothesisResult(
        name=hypothesis.name,
        key=hypothesis_key(work.workspace_digest, hypothesis, work.request_digest),
        mass_hypotheses=hypothesis.values,
        status="failed",
        reason=reason,
        CLs_obs=None,
        CLs_exp=[None] * 5,
        fit_time=0.0,
        setup_time=0.0,
        engine="none",
        points=[],
    )
