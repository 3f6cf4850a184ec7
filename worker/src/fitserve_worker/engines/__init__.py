"""The engines that fit: pyhf as the reference, and the kernel, which is faster and agrees with it.

To add a kind of request, write its answer by pyhf into a file of its own (``pyhf_KIND``) and name
it in `fitserve_worker.engines.pyhf_engine`, where mypy reports it missing. If the kernel is to
answer it too, add ``kernel_KIND`` and a line to the table in
`fitserve_worker.engines.kernel_engine`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from fitserve_contract import (
    HypotestRequest,
    MuPoint,
)
from fitserve_worker.engines.base import unfitted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitserve_contract import EngineOptions, Hypothesis, HypothesisResult
    from fitserve_worker.engines.base import Engine, Work
    from fitserve_worker.engines.pyhf_engine import PyhfEngine

__all__ = ["answers", "select"]


def select(work: Work) -> Engine:
    """Return the engine that a request names, whatever else is in the task.

    ``auto`` is the kernel, which leaves what it does not support to pyhf.
    """
    options = work.request.engine
    if options.engine == "pyhf":
        return _reference(options)
    from fitserve_worker.engines.kernel_engine import KernelEngine

    return KernelEngine(lambda: _reference(options), lambda: _second(options))


def _reference(options: EngineOptions) -> PyhfEngine:
    from fitserve_worker.engines.pyhf_engine import PyhfEngine

    return PyhfEngine(options)


def _second(options: EngineOptions) -> PyhfEngine:
    """Return pyhf with Minuit, which is slow and has its own criterion of convergence.

    It begins with its tighter tolerance: the usual one would be one more reason to differ.
    """
    from fitserve_worker.engines.pyhf_engine import PyhfEngine

    return PyhfEngine(msgspec.structs.replace(options, optimizer="minuit"), tight=True)


def answers(work: Work) -> Iterator[HypothesisResult]:
    """Yield the results of a task, from the engine that its request names.

    ``engine`` of each result says what fitted it, and its diagnostics why that is pyhf where the
    request does not name it. An empty patch to a workspace without the parameter of interest is no
    signal, with a CLs of 1.
    """
    empty = [one for one in work.hypotheses if not one.patch]
    if empty and _is_background(work):
        yield from (_no_signal(work, one) for one in empty)
        work = work._replace(hypotheses=[one for one in work.hypotheses if one.patch])
        if not work.hypotheses:
            return
    yield from select(work).answers(work)


def _is_background(work: Work) -> bool:
    """Tell whether the request is for a test and the workspace alone has no signal to test."""
    if not isinstance(work.request, HypotestRequest):
        return False
    model, channels = work.request.model, work.workspace["channels"]
    pois = [
        model.poi or one["config"]["poi"]
        for one in work.workspace["measurements"]
        if model.measurement in (None, one["name"])
    ]
    return bool(pois) and not any(
        modifier["name"] == pois[0]
        for channel in channels
        for sample in channel["samples"]
        for modifier in sample["modifiers"]
    )


def _no_signal(work: Work, hypothesis: Hypothesis) -> HypothesisResult:
    """Return the result of a hypothesis that is the background, without a fit."""
    if not isinstance(work.request, HypotestRequest):
        raise TypeError("only a test has a result without a signal")
    points = [MuPoint(mu=mu, CLs_obs=1.0, CLs_exp=[1.0] * 5) for mu in work.request.mu]
    return unfitted(work, hypothesis, status="ok", reason=None, points=points)
