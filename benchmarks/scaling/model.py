"""How long a run takes: tasks that are sent one after the other to workers that come late.

A simulation in which every worker takes the next task as soon as it is free. What it knows of
the world is in `Costs`; every number there is measured or documented, see ``costs.py``.
"""

from __future__ import annotations

import heapq
import math
from typing import NamedTuple

import numpy as np

__all__ = ["Costs", "Estimate", "best_size", "simulate"]

_MOST_TASKS = 200_000
"""More tasks than this are not simulated: such a task size is never the best one."""


class Costs(NamedTuple):
    """What a run is made of; seconds and bytes.

    Attributes
    ----------
    fit
        Median of one hypothesis (or toy) on one core.
    spread
        Standard deviation of the logarithm of that time.
    task
        Of one task on its worker beside the fits: decoding, building the model, encoding.
    setup
        Of one worker before its first fit: imports, and compiling or loading programs.
    start
        Of a block, from the start of its job to its workers being connected.
    queue
        Mean time that a block waits in the queue. The waiting times of the blocks are the
        quantiles of an exponential distribution: one block alone waits for its median.
    client
        From the command to the first block being asked for.
    dispatch, byte
        Of one task, and of each of its bytes, in what hands tasks out one after the other.
    request
        Least time between two submissions; 0 where nothing is limited.
    request_tasks, request_bytes
        Most tasks and bytes of one submission.
    task_bytes, hypothesis_bytes
        Encoded size of a task without hypotheses, and what each hypothesis adds.
    workers_per_block
        Workers of one block.
    """

    fit: float
    spread: float
    task: float
    setup: float
    start: float
    queue: float
    client: float
    dispatch: float
    byte: float = 0.0
    request: float = 0.0
    request_tasks: int = 128
    request_bytes: float = 10e6
    task_bytes: float = 0.0
    hypothesis_bytes: float = 0.0
    workers_per_block: int = 1


class Estimate(NamedTuple):
    """What a run of ``tasks`` tasks of ``size`` hypotheses takes.

    ``efficiency`` is the time of the fits alone over that of all workers until the end.
    """

    size: int
    tasks: int
    makespan: float
    efficiency: float


def simulate(costs: Costs, hypotheses: int, workers: int, size: int, *, seed: int = 1) -> Estimate:
    """Return the makespan of a run, in seconds.

    Parameters
    ----------
    costs
        What it is made of.
    hypotheses, workers
        How many there are.
    size
        Hypotheses in one task; the last may have fewer.
    seed
        Of the times of fits.

    Examples
    --------
    Ten fits of a second on two workers that are there at once, in tasks of one:

    >>> ideal = Costs(1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    >>> simulate(ideal, 10, 2, 1)
    Estimate(size=1, tasks=10, makespan=5.0, efficiency=1.0)

    In tasks of four, the second worker is given two after its first four, and waits:

    >>> simulate(ideal, 10, 2, 4).makespan
    6.0
    """
    random = np.random.default_rng(seed)
    tasks = math.ceil(hypotheses / size)
    counts = np.full(tasks, size)
    counts[-1] = hypotheses - size * (tasks - 1)
    fits = _fit_seconds(costs, counts, random)
    released = _released(costs, tasks, size)
    ready = _ready(costs, workers)
    heapq.heapify(ready)
    end = 0.0
    for seconds, at in zip((fits + costs.task).tolist(), released.tolist(), strict=True):
        free = max(heapq.heappop(ready), at) + seconds
        end = max(end, free)
        heapq.heappush(ready, free)
    return Estimate(size, tasks, end, round(float(fits.sum()) / (workers * end), 6))


def best_size(
    costs: Costs, hypotheses: int, workers: int, *, most: int = 65536, seconds: float = 1800.0
) -> Estimate:
    """Return the estimate of the task size, a power of two, with the shortest run.

    Parameters
    ----------
    most
        Largest size.
    seconds
        Longest task that the site takes.
    """
    found: list[Estimate] = []
    size = 1
    while size <= most and (size == 1 or size < 2 * hypotheses):
        fits = size * costs.fit + costs.task <= seconds
        if hypotheses / size <= _MOST_TASKS and (fits or not found):
            found.append(simulate(costs, hypotheses, workers, size))
        size *= 2
    return min(found, key=lambda one: (one.makespan, one.tasks))


def _fit_seconds(
    costs: Costs, counts: np.ndarray[tuple[int], np.dtype[np.int_]], random: np.random.Generator
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the fits' seconds of each task: sums of log-normal times.

    A sum of many is drawn from the normal distribution of the same mean and variance.
    """
    if costs.spread == 0:
        return counts * costs.fit
    mean = costs.fit * math.exp(costs.spread**2 / 2)
    variance = mean**2 * (math.exp(costs.spread**2) - 1)
    if counts[0] > 64:  # noqa: PLR2004 - then the sum is normal enough
        drawn = random.normal(counts * mean, np.sqrt(counts * variance))
        return np.maximum(drawn, counts * costs.fit / 2)
    drawn = random.lognormal(math.log(costs.fit), costs.spread, (len(counts), counts[0]))
    drawn[np.arange(counts[0])[None, :] >= counts[:, None]] = 0.0
    return np.asarray(drawn.sum(axis=1))


def _released(costs: Costs, tasks: int, size: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return when each task is at the workers' disposal."""
    number = np.arange(tasks)
    of_one = costs.task_bytes + size * costs.hypothesis_bytes
    together = min(costs.request_tasks, int(costs.request_bytes // max(of_one, 1.0)))
    requested = costs.request * (number // max(together, 1))
    each = costs.dispatch + costs.byte * of_one
    return costs.client + np.maximum(requested, each * (number + 1))


def _ready(costs: Costs, workers: int) -> list[float]:
    """Return when each worker can begin."""
    blocks = math.ceil(workers / costs.workers_per_block)
    queued = -costs.queue * np.log1p(-(np.arange(blocks) + 0.5) / blocks)
    each = costs.client + queued + costs.start + costs.setup
    return [float(each[worker // costs.workers_per_block]) for worker in range(workers)]
