"""How long a run takes, before any fit: a rough estimate.

It serves to cut tasks and to show a first remaining time, which the measured times replace as they
come. Tasks are handed out one by one to workers that start over time, and every worker takes the
next task as soon as it is free. The costs of the way to the workers are
`fitserve.endpoints.base.Costs`, which each backend states.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from fitserve.kinds import kind
from fitserve_contract import EngineOptions, HypotestRequest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fitserve.endpoints.base import Costs
    from fitserve_contract import Request

__all__ = [
    "Connected",
    "Load",
    "Work",
    "connected",
    "end_of",
    "first_fit",
    "free_parameters",
    "makespan",
    "seconds_per_hypothesis",
    "seconds_to_verify",
]

# pyhf with numpy and scipy on one core of a current server: SLSQP takes finite differences,
# so that a fit needs a number of likelihoods proportional to that of the parameters, each
# with a fixed part and one for every modifier of every sample. The two constants are
# those of staus (118 parameters, 2391 modifiers, 4.6 s) and 1Lbb (121, 9499, 14.5 s).
_SECONDS_FIXED = 1.2e-2
_SECONDS_MODIFIER = 1.1e-5

# The kernel takes a 500th of that on the published pallets (7 ms staus, 27 ms 1Lbb).
_KERNEL_SPEED = 500

# pyhf verifies with a tighter tolerance (on staus), from four starts.
_TIGHT = 1.5
_STARTS_TO_VERIFY = 4

_ONE_PER_BIN = ("staterror", "shapesys", "shapefactor")


def free_parameters(workspace: dict[str, Any]) -> int:
    """Return the number of parameters of a workspace's channels, patches not counted."""
    lengths: dict[str, int] = {}
    for sample, modifier in _modifiers(workspace):
        per_bin = modifier["type"] in _ONE_PER_BIN
        lengths[modifier["name"]] = len(sample["data"]) if per_bin else 1
    return sum(lengths.values())


def seconds_per_hypothesis(workspace: dict[str, Any], request: Request) -> float:
    """Return the estimated time of one hypothesis on one core, in seconds."""
    modifiers = sum(1 for _ in _modifiers(workspace))
    likelihood = _SECONDS_FIXED + _SECONDS_MODIFIER * modifiers
    parameters = 1 + free_parameters(workspace)
    one_test = parameters * likelihood
    if request.engine.engine == "pyhf":
        return kind(request).tests(request, parameters) * one_test
    return kind(request).kernel_tests(request, parameters) * one_test / _KERNEL_SPEED


def seconds_to_verify(workspace: dict[str, Any], request: Request) -> float:
    """Return the estimated time of verifying one hypothesis with pyhf, in seconds."""
    tests = kind(request).tests_to_verify(request)
    by_pyhf = HypotestRequest(engine=EngineOptions(engine="pyhf"))
    return _TIGHT * _STARTS_TO_VERIFY * tests * seconds_per_hypothesis(workspace, by_pyhf)


def _modifiers(workspace: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for channel in workspace["channels"]:
        for sample in channel["samples"]:
            for modifier in sample["modifiers"]:
                yield sample, modifier


class Work(NamedTuple):
    """What is to be done; seconds and bytes.

    Attributes
    ----------
    number
        How many hypotheses, or toys; at least 1.
    fit
        Estimated time of one of them on one core.
    task_bytes, each_bytes
        Encoded size of a task without hypotheses, and what each of them adds.
    """

    number: int
    fit: float
    task_bytes: float = 0.0
    each_bytes: float = 0.0


class Load(NamedTuple):
    """One task: ``seconds`` of its fits, and its encoded size in ``bytes``."""

    seconds: float
    bytes: float


class Connected(NamedTuple):
    """A worker: when it is ready, its number, and the extra time of its next task."""

    at: float
    number: int
    setup: float


def makespan(costs: Costs, loads: Sequence[Load], workers: int) -> float:
    """Return when the last task is done, in seconds from the command on; 0 without tasks.

    Parameters
    ----------
    costs
        Of the way to the workers, which all need the same time for their setup.
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
    return end_of(costs, loads, connected(costs, workers, len(loads)))


def first_fit(costs: Costs, workers: int) -> float:
    """Return when the first worker is ready to fit, in seconds from the command on.

    Examples
    --------
    >>> from fitserve.endpoints.base import Costs
    >>> first_fit(Costs(client=1.0, start=2.0, setup=4.0), 2)
    7.0
    """
    first = connected(costs, workers, 1)[0]
    return first.at + first.setup


def connected(costs: Costs, workers: int, most: int) -> list[Connected]:
    """Return the workers in the order in which they are connected, at least one.

    At most ``most`` of them: with as many tasks, later workers have nothing to do.
    """
    workers = max(1, workers)
    per_block = costs.workers_per_block or workers
    blocks = math.ceil(workers / per_block)
    there = []
    for worker in range(max(1, min(workers, most))):
        queued = -costs.queue * math.log1p(-(worker // per_block + 0.5) / blocks)
        there.append(Connected(costs.client + queued + costs.start, worker, costs.setup))
    return there


def end_of(costs: Costs, loads: Sequence[Load], workers: Sequence[Connected]) -> float:
    """Return when the last task is done, with workers as `connected` has them."""
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
        heapq.heapreplace(free, Connected(done, number, 0.0))
        end = max(end, done)
    return end
