"""The kernel measured: one worker process on each core, as on an endpoint."""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from machine import cores

from fitserve_contract import EngineOptions, HypotestRequest, digest, request_digest
from fitserve_worker.engines.base import Work

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

    from data import Problem

__all__ = ["KernelTiming", "first_use", "fit_all", "measure", "work"]

_MIB = 1024


class KernelTiming(NamedTuple):
    """Seconds of wall time to test all hypotheses, once for each repetition.

    ``first`` is the first time, with compiling. ``peak`` is the largest memory of a worker in
    MiB, ``programs`` how many were compiled in each, ``results`` the CLs by hypothesis:
    observed, then expected.
    """

    workers: int
    hypotheses: int
    seconds: list[float]
    first: float
    peak: float
    programs: int
    results: dict[str, list[float]]

    @property
    def median(self) -> float:
        """Median of the repetitions."""
        return statistics.median(self.seconds)

    @property
    def core_seconds(self) -> float:
        """Time of one core for one hypothesis."""
        return self.median * self.workers / self.hypotheses


def work(problem: Problem, hypotheses: Any = None) -> Work:
    """Return a task as the worker's engines see it."""
    request = HypotestRequest(engine=EngineOptions(engine="kernel"))
    return Work(
        workspace_digest=digest(problem.workspace),
        workspace=problem.workspace,
        hypotheses=problem.hypotheses if hypotheses is None else hypotheses,
        request=request,
        request_digest=request_digest(request),
    )


def measure(problem: Problem, repetitions: int = 5, workers: int | None = None) -> KernelTiming:
    """Fit all hypotheses again and again with warm workers.

    Each worker has every n-th hypothesis. The time is from the moment that all may begin, with
    their hypotheses as decoded JSON, to that when the last one has its results.
    """
    places = cores()[:workers]
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(places) + 1)
    queue: Any = context.Queue()
    processes = [
        context.Process(
            target=_worker, args=(problem, place, index, len(places), repetitions, barrier, queue)
        )
        for index, place in enumerate(places)
    ]
    for process in processes:
        process.start()
    seconds = []
    barrier.wait()  # compiled
    for _ in range(repetitions):
        barrier.wait()
        begin = time.perf_counter()
        barrier.wait()
        seconds.append(time.perf_counter() - begin)
    told = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    return KernelTiming(
        workers=len(places),
        hypotheses=len(problem.hypotheses),
        seconds=seconds,
        first=max(one["first"] for one in told),
        peak=max(one["peak"] for one in told),
        programs=max(one["programs"] for one in told),
        results={name: cls for one in told for name, cls in one["results"].items()},
    )


def _worker(
    problem: Problem,
    place: int,
    index: int,
    count: int,
    repetitions: int,
    barrier: Barrier,
    queue: Any,
) -> None:
    os.sched_setaffinity(0, {place})
    mine = work(problem, problem.hypotheses[index::count])
    begin = time.perf_counter()
    results = fit_all(mine)
    first = time.perf_counter() - begin
    barrier.wait()
    for _ in range(repetitions):
        barrier.wait()
        results = fit_all(mine)
        barrier.wait()
    from fitserve_worker.kernel.program import run

    queue.put(
        {
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MIB,
            "first": first,
            "programs": run._cache_size(),  # noqa: SLF001 - JAX's, for want of another way
            "results": results,
        }
    )


def fit_all(task: Work) -> dict[str, list[float]]:
    """Return the CLs of each hypothesis, observed and then expected, by the kernel alone."""
    from fitserve_worker.engines.kernel_engine import KernelEngine

    found = {}
    for result in KernelEngine(_no_reference).answers(task):
        found[result.name] = [result.CLs_obs, *result.CLs_exp]
    return found


def _no_reference() -> Any:
    raise RuntimeError("a hypothesis of the benchmark was not fitted by the kernel")


def first_use(problem: Problem, cache: str) -> float:
    """Return seconds from importing the engine to the first result, in a new process."""
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    process = context.Process(target=_first, args=(problem, cache, queue))
    process.start()
    seconds: float = queue.get()
    process.join()
    return seconds


def _first(problem: Problem, cache: str, queue: Any) -> None:
    os.environ["FITSERVE_JIT_CACHE"] = cache
    task = work(problem, problem.hypotheses[:1])
    begin = time.perf_counter()
    fit_all(task)
    queue.put(time.perf_counter() - begin)
