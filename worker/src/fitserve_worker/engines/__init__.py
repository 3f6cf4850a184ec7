"""The engines that fit: pyhf as the reference, and what agrees with it and is faster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitserve.contract import HypothesisResult, ToysRequest, hypothesis_key, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitserve.contract import Hypothesis, Request
    from fitserve_worker.engines.base import Engine, Work
    from fitserve_worker.engines.kernel_toys import KernelToys
    from fitserve_worker.engines.pyhf_reference import PyhfEngine

__all__ = ["answers", "failed", "select"]

# A pyhf fit takes some 10 ms for each modifier and hypothesis, compiling the kernel seconds.
_WORTH_COMPILING = 50


def select(work: Work) -> Engine | KernelToys:
    """Return the engine that a task asks for.

    ``auto`` is the kernel, unless pyhf is done before the kernel is even compiled.
    """
    choice = work.request.engine.engine
    if choice == "pyhf" or (choice == "auto" and _modifiers(work) < _WORTH_COMPILING):
        return _reference(work.request)
    if isinstance(work.request, ToysRequest):
        from fitserve_worker.engines.kernel_toys import KernelToys

        return KernelToys(lambda: _reference(work.request))
    from fitserve_worker.engines.kernel import KernelEngine

    return KernelEngine(lambda: _reference(work.request))


def _modifiers(work: Work) -> int:
    """Return how many modifiers of the background the hypotheses meet in all."""
    channels = work.workspace.get("channels", [])
    each = sum(len(sample["modifiers"]) for one in channels for sample in one["samples"])
    toys = work.request.toys if isinstance(work.request, ToysRequest) else 1
    return len(work.hypotheses) * each * toys


def _reference(request: Request) -> PyhfEngine:
    from fitserve_worker.engines.pyhf_reference import PyhfEngine

    return PyhfEngine(request.engine)


def answers(work: Work) -> Iterator[HypothesisResult]:
    """Return an iterator over the results of a task, from an engine that offers its kind.

    What the selected engine does not offer is done by the reference, as ``engine`` of each
    result says.
    """
    kind = kind_of(work.request)
    engine: object = select(work)
    if not hasattr(engine, kind):
        engine = _reference(work.request)
    found: Iterator[HypothesisResult] = getattr(engine, kind)(work)
    return found


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
