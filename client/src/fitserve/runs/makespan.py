"""How long a run takes: tasks are handed out one after the other to workers that come late.

A simulation in which every worker takes the next task as soon as it is free. Tasks are cut to
the size with which it ends soonest, and ``benchmarks/scaling`` predicts with it. What it knows
of the way to the workers is in `Costs`, which each backend states, and of the fits in `Work`.
"""

from __future__ import annotations

import heapq
import math
import random
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fitserve.endpoints.base import Costs

__all__ = ["Estimate", "Load", "Work", "best_size", "first_fit", "makespan", "simulate"]

# What is slower by less than this part is as good: the times are not known better.
_TOLERANCE = 0.02
# Sizes with more tasks are not tried: the last task of a worker is then little of what it does.
_ROUNDS = 32
_MOST_TASKS = 20_000
# Every size that gives all workers the same number of tasks is tried, up to this number.
_EVEN_ROUNDS = 8
# How many runs are simulated for each size, and how many of their tasks for all sizes together.
_RUNS = 32
_SIMULATED = 50_000


# When a worker is connected, or free again; its number; and what its next task takes longer.
_Worker = tuple[float, int, float]


class Work(NamedTuple):
    """What is to be done; seconds and bytes.

    Attributes
    ----------
    number
        How many hypotheses, or toys; at least 1.
    fit
        Mean time of one of them on one core.
    spread
        Standard deviation of the logarithm of that time.
    doubt
        How far the mean time is known: it is up to this part of it larger or smaller.
    task_bytes, each_bytes
        Encoded size of a task without hypotheses, and what each of them adds.
    """

    number: int
    fit: float
    spread: float = 0.3
    doubt: float = 0.5
    task_bytes: float = 0.0
    each_bytes: float = 0.0


class Load(NamedTuple):
    """One task: ``seconds`` of its fits, and its encoded size in ``bytes``."""

    seconds: float
    bytes: float


class Estimate(NamedTuple):
    """What a run of ``tasks`` tasks of ``size`` hypotheses takes.

    ``makespan`` are seconds from the command to the end of the last task, ``efficiency`` is the
    time of the fits alone over that of all workers until then.
    """

    size: int
    tasks: int
    makespan: float
    efficiency: float


def makespan(costs: Costs, loads: Sequence[Load], workers: int) -> float:
    """Return when the last task is done, in seconds from the command on; 0 without tasks.

    Parameters
    ----------
    costs
        Of the way to the workers, which all take as long for their setup.
    loads
        The tasks, in the order in which they are sent.
    workers
        How many there are.

    Examples
    --------
    Three tasks on two workers that need 2 s before their first fit:

    >>> from fitserve.endpoints.base import Costs
    >>> makespan(Costs(setup=2.0), [Load(3.0, 0), Load(1.0, 0), Load(1.0, 0)], 2)
    5.0
    """
    return _end(costs, loads, _workers(costs, workers, len(loads), 1)[0])


def first_fit(costs: Costs, workers: int) -> float:
    """Return when the first worker is ready to fit, in seconds from the command on.

    Examples
    --------
    >>> from fitserve.endpoints.base import Costs
    >>> first_fit(Costs(client=1.0, start=2.0, setup=4.0), 2)
    7.0
    """
    at, _, setup = _workers(costs, workers, 1, 1)[0][0]
    return at + setup


def simulate(costs: Costs, work: Work, workers: int, size: int, *, runs: int = _RUNS) -> Estimate:
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
    runs
        How many are simulated.

    Examples
    --------
    Ten fits of a second on two workers that are there at once, in tasks of one:

    >>> from fitserve.endpoints.base import Costs
    >>> work = Work(10, 1.0, spread=0.0, doubt=0.0)
    >>> simulate(Costs(), work, 2, 1)
    Estimate(size=1, tasks=10, makespan=5.0, efficiency=1.0)

    In tasks of four, the first worker is given two after its first four:

    >>> simulate(Costs(), work, 2, 4).makespan
    6.0
    """
    total = 0.0
    for run, there in enumerate(_workers(costs, workers, work.number, runs)):
        sooner = work.doubt * ((2 * run + 1) / runs - 1)
        loads = _loads(work._replace(fit=work.fit * (1 - sooner)), size, run)
        total += _end(costs, loads, there)
    end = total / runs
    efficiency = work.number * work.fit / (workers * end) if end > 0 else 1.0
    return Estimate(size, math.ceil(work.number / size), end, round(efficiency, 6))


def best_size(
    costs: Costs, work: Work, workers: int, *, least: int = 1, most: int = 65536
) -> Estimate:
    """Return what a run takes with the task size that ends it soonest.

    Of sizes with which the time after the first worker was ready for its first fit is up to 2 %
    longer, it is that with the fewest tasks.

    Parameters
    ----------
    costs, work
        Of the way to the workers, and of the fits.
    workers
        How many there are.
    least, most
        Smallest and largest size.

    Examples
    --------
    Twelve fits of a second on three workers: one task for each of them if all are ready at the
    same time and tasks cost something, smaller ones if some workers are ready later.

    >>> from fitserve.endpoints.base import Costs
    >>> work = Work(12, 1.0, spread=0.0, doubt=0.0)
    >>> best_size(Costs(task=0.5), work, 3)
    Estimate(size=4, tasks=3, makespan=4.5, efficiency=0.888889)
    >>> best_size(Costs(task=0.5, setup=6.0, setup_spread=0.9), work, 3).size
    2
    """
    sizes = _sizes(work.number, workers, least, most)
    tasks = sum(math.ceil(work.number / size) for size in sizes)
    runs = max(1, min(_RUNS, _SIMULATED // tasks))
    found = [simulate(costs, work, workers, size, runs=runs) for size in sizes]
    shortest = min(one.makespan for one in found)
    fitting = max(0.0, shortest - first_fit(costs, workers))
    good = (one for one in found if one.makespan <= shortest + _TOLERANCE * fitting)
    return min(good, key=lambda one: one.tasks)


def _sizes(count: int, workers: int, least: int, most: int) -> list[int]:
    """Return sizes to be tried: 1, 2, 3, 4, 6, 8, ... and those with as many tasks for all."""
    most = max(1, min(most, count))
    tried = min(_ROUNDS * workers, max(_MOST_TASKS, workers))
    least = min(max(least, 1, math.ceil(count / tried)), most)
    doubled = {1 << power for power in range(most.bit_length())}
    halfway = {3 * size // 2 for size in doubled}
    even = {math.ceil(count / (rounds * workers)) for rounds in range(1, _EVEN_ROUNDS + 1)}
    return sorted({least, most} | {one for one in doubled | halfway | even if least <= one <= most})


def _loads(work: Work, size: int, seed: int) -> list[Load]:
    """Return the tasks of a run, with times of their fits whose sum is the expected one.

    The sum of n log-normal times is drawn from the log-normal distribution of the same mean and
    variance (L. F. Fenton, IRE Trans. Commun. Syst. 8 (1960) 57).
    """
    noise = random.Random(seed)  # noqa: S311 - nothing is to be kept from anybody
    drawn: list[tuple[float, float]] = []
    for count, tasks in ((size, work.number // size), (work.number % size, 1)):
        if count:
            of_one = work.task_bytes + count * work.each_bytes
            variance = math.log1p(math.expm1(work.spread**2) / count)
            mean, width = math.log(count) - variance / 2, math.sqrt(variance)
            drawn += [(math.exp(noise.gauss(mean, width)), of_one) for _ in range(tasks)]
    scale = work.number * work.fit / sum(seconds for seconds, _ in drawn)
    return [Load(seconds * scale, of_one) for seconds, of_one in drawn]


def _end(costs: Costs, loads: Sequence[Load], workers: Sequence[_Worker]) -> float:
    """Return when the last task is done."""
    free = list(workers[: max(1, len(loads))])
    handed = requested = end = held = 0.0
    together = 0
    for seconds, size in loads:
        together += 1
        held += size
        if together > 1 and (together > costs.request_tasks or held > costs.request_bytes):
            requested += costs.request
            together, held = 1, size
        handed += costs.dispatch + costs.byte * size
        released = costs.client + max(requested, handed)
        at, number, setup = free[0]
        done = max(at, released) + setup + costs.task + seconds
        heapq.heapreplace(free, (done, number, 0.0))
        end = max(end, done)
    return end


@lru_cache(maxsize=8)
def _workers(costs: Costs, workers: int, most: int, runs: int) -> list[list[_Worker]]:
    """Return, for each run, the workers in the order in which they are connected.

    Not more than ``most`` of them: those that are connected later than there are tasks have
    nothing to do. The setups of a worker are spread evenly over the runs.
    """
    workers = max(1, workers)
    per_block = costs.workers_per_block or workers
    blocks = math.ceil(workers / per_block)
    noise = random.Random(0)  # noqa: S311
    there: list[list[_Worker]] = [[] for _ in range(runs)]
    setups = [
        costs.setup * (1 + costs.setup_spread * ((2 * run + 1) / runs - 1)) for run in range(runs)
    ]
    for worker in range(max(1, min(workers, most))):
        queued = -costs.queue * math.log1p(-(worker // per_block + 0.5) / blocks)
        noise.shuffle(setups)
        for run, setup in zip(there, setups, strict=True):
            run.append((costs.client + queued + costs.start, worker, setup))
    return there
