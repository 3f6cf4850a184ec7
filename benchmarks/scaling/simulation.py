"""A run simulated many times: fits scatter, and other workers are the slow ones each time.

Plans have a plain rule for the size of tasks (`fitserve.runs.plan.task_size`); here is what it is
held against, and what runs of any size are predicted with.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from fitserve.runs.estimate import Connected, Load, connected, end_of

if TYPE_CHECKING:
    from fitserve.endpoints.base import Costs
    from fitserve.runs.estimate import Work

__all__ = ["KNOWN", "USUAL", "Estimate", "Scatter", "best_size", "simulate"]

_RUNS = 32


class Scatter(NamedTuple):
    """How times differ from what is estimated.

    Attributes
    ----------
    spread
        Standard deviation of the logarithm of the time of a fit.
    doubt
        How far the mean time is known: it is up to this part of it larger or smaller.
    """

    spread: float = 0.3
    doubt: float = 0.5


USUAL = Scatter()
"""Of fits whose times are estimated by the size of the model."""
KNOWN = Scatter(0.0, 0.0)
"""Of fits whose times are all as estimated."""


class Estimate(NamedTuple):
    """What a run of ``tasks`` tasks of ``size`` hypotheses takes.

    ``makespan`` are seconds from the command to the end of the last task, ``efficiency`` is the
    time of the fits alone over that of all workers until then.
    """

    size: int
    tasks: int
    makespan: float
    efficiency: float


def simulate(
    costs: Costs, work: Work, workers: int, size: int, scatter: Scatter = USUAL
) -> Estimate:
    """Return what a run takes whose tasks have ``size`` hypotheses; the last may have fewer.

    It is the mean of several runs, whose workers differ, and whose fits take less or longer than
    their mean as far as that is in doubt; the same whenever it is asked for.

    Parameters
    ----------
    costs, work
        Of the way to the workers, and of the fits.
    workers
        How many there are.
    size
        Hypotheses in one task.
    scatter
        Of the times of fits.

    Examples
    --------
    Ten fits of a second on two workers that are there at once, in tasks of one:

    >>> from fitserve.endpoints.base import Costs
    >>> from fitserve.runs.estimate import Work
    >>> simulate(Costs(), Work(10, 1.0), 2, 1, KNOWN)
    Estimate(size=1, tasks=10, makespan=5.0, efficiency=1.0)

    In tasks of four, the first worker is given two after its first four:

    >>> simulate(Costs(), Work(10, 1.0), 2, 4, KNOWN).makespan
    6.0
    """
    total = 0.0
    for run, there in enumerate(_workers(costs, workers, work.number)):
        sooner = scatter.doubt * ((2 * run + 1) / _RUNS - 1)
        loads = _loads(work._replace(fit=work.fit * (1 - sooner)), size, scatter.spread, run)
        total += end_of(costs, loads, there)
    end = total / _RUNS
    efficiency = work.number * work.fit / (workers * end) if end > 0 else 1.0
    return Estimate(size, math.ceil(work.number / size), end, round(efficiency, 6))


def best_size(costs: Costs, work: Work, workers: int, most: int) -> Estimate:
    """Return what a run takes with the size, up to ``most``, that ends it soonest."""
    return min(
        (simulate(costs, work, workers, size) for size in range(1, most + 1)),
        key=lambda one: one.makespan,
    )


def _loads(work: Work, size: int, spread: float, seed: int) -> list[Load]:
    """Return the tasks of a run, with times of their fits whose sum is the expected one.

    The sum of n log-normal times is drawn from the log-normal distribution of the same mean and
    variance (L. F. Fenton, IRE Trans. Commun. Syst. 8 (1960) 57).
    """
    noise = random.Random(seed)  # noqa: S311 - nothing is to be kept from anybody
    drawn: list[tuple[float, float]] = []
    for count, tasks in ((size, work.number // size), (work.number % size, 1)):
        if count:
            of_one = work.task_bytes + count * work.each_bytes
            variance = math.log1p(math.expm1(spread**2) / count)
            mean, width = math.log(count) - variance / 2, math.sqrt(variance)
            drawn += [(math.exp(noise.gauss(mean, width)), of_one) for _ in range(tasks)]
    scale = work.number * work.fit / sum(seconds for seconds, _ in drawn)
    return [Load(seconds * scale, of_one) for seconds, of_one in drawn]


@lru_cache(maxsize=8)
def _workers(costs: Costs, workers: int, most: int) -> list[list[Connected]]:
    """Return the workers of each run; the setups of one are spread evenly over the runs."""
    noise = random.Random(0)  # noqa: S311
    spread = [costs.setup_spread * ((2 * run + 1) / _RUNS - 1) for run in range(_RUNS)]
    there: list[list[Connected]] = [[] for _ in range(_RUNS)]
    for worker in connected(costs, workers, most):
        noise.shuffle(spread)
        for run, more in zip(there, spread, strict=True):
            run.append(worker._replace(setup=costs.setup * (1 + more)))
    return there
