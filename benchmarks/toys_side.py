"""Toys measured: fits to pseudo-data by the kernel, on one core."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import machine

from fitserve_contract import EngineOptions, ToysRequest, digest, request_digest
from fitserve_worker.engines.base import Work

if TYPE_CHECKING:
    from data import Problem

__all__ = ["measure"]


def measure(problem: Problem, toys: int = 2000) -> dict[str, Any]:
    """Make toys of the hypothesis in the middle, in a process of its own, on one core.

    There are ``toys`` with signal and as many without; to each at least two fits are made.
    """
    found: dict[str, Any] = machine.in_process(_measure, problem, toys)
    return found


def _measure(problem: Problem, toys: int) -> dict[str, Any]:
    hypothesis = problem.hypotheses[len(problem.hypotheses) // 2]
    _make(problem, hypothesis, 600)  # programs for few and for many fits are compiled
    begin = time.perf_counter()
    result = _make(problem, hypothesis, toys)
    seconds = time.perf_counter() - begin
    values = result.toy_values
    if result.engine != "kernel" or values is None:
        raise RuntimeError(f"the kernel made no toys: {result.reason}")
    return {
        "hypothesis": hypothesis.name,
        "toys": 2 * toys,
        "fits": values.fits,
        "seconds": seconds,
        "fits per second and core": values.fits / seconds,
    }


def _make(problem: Problem, hypothesis: Any, toys: int) -> Any:
    from fitserve_worker.engines import answers

    request = ToysRequest(toys=toys, seed=1, engine=EngineOptions(engine="kernel"))
    task = Work(
        workspace_digest=digest(problem.workspace),
        workspace=problem.workspace,
        hypotheses=[hypothesis],
        request=request,
        request_digest=request_digest(request),
    )
    return next(iter(answers(task)))
