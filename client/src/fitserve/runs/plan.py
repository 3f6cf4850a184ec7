"""From a pallet and a request to self-contained tasks of bounded size and time.

A task has so many hypotheses, or toys of them, that every worker has several tasks, and that its
fits take much longer than what it costs to send it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from fitserve.errors import RequestError
from fitserve.runs.estimate import (
    Load,
    Work,
    first_fit,
    makespan,
    seconds_per_hypothesis,
    seconds_to_verify,
)
from fitserve_contract import (
    SMALL,
    SignalPatch,
    Task,
    ToyRange,
    ToysRequest,
    compress,
    encode_task,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fitserve.endpoints.base import Limits
    from fitserve_contract import Hypothesis, HypothesisResult, Request

__all__ = [
    "MOST_TOYS",
    "Bounds",
    "Plan",
    "PlannedTask",
    "ToyPart",
    "Verify",
    "encode_planned",
    "make_plan",
    "plan_verification",
    "task_size",
    "toy_parts",
]

# Each worker has so many tasks that none waits long for another in the end; but the fits of a task
# take at least so many times what it costs. `benchmarks/scaling` shows what other sizes give.
_ROUNDS = 8
_WORTH = 5.0
# Tasks that keep all workers busy to the end are taken instead where they save this part of the
# time.
_SAVED = 0.1
# Unless the user bounds it, a task is cut to this time where more tasks cost little to send.
_TASK_SECONDS = 60.0
# All the workspaces of a run may take this many bytes, and this part of those of its patches ...
_WORKSPACE_BYTES = 100_000
_WORKSPACE_SHARE = 0.5
# ... unless one more worker gets this much to do.
_WORTH_SECONDS = 5.0


def task_size(
    work: Work, limits: Limits, *, most: int, longest: float | None = None, carried: float = 0
) -> int:
    """Return how many hypotheses (or toys) a task has.

    Parameters
    ----------
    work
        What is to be done.
    limits
        The backend's, with the costs of its tasks and workers.
    most
        No task has more hypotheses (or toys).
    longest
        Seconds that a task may take, if that is bounded.
    carried
        Encoded size of the workspace in each task, where more tasks are to be made only as far
        as all the workspaces of the run are small beside the patches; else 0.

    Examples
    --------
    >>> from fitserve.endpoints.base import Limits
    >>> from fitserve.runs.estimate import Work
    >>> limits = Limits(task_bytes=10**7, outstanding=100, workers=4)
    >>> task_size(Work(400, 20.0), limits, most=64)
    3
    >>> task_size(Work(400, 20.0), limits, most=64, longest=45.0)
    2
    """
    most = min(most, _within(longest, work))
    least = 1
    if carried:
        patches = work.number * work.each_bytes
        cheap = math.floor((_WORKSPACE_BYTES + _WORKSPACE_SHARE * patches) / carried)
        busy = min(limits.workers, math.ceil(work.number * work.fit / _WORTH_SECONDS))
        least = min(most, math.ceil(work.number / max(cheap, busy, 1)))
    # Fits may take far longer than was estimated, and what is done is kept task by task: none of
    # the workers that come first is left without a task.
    first = min(limits.workers, limits.costs.workers_per_block or limits.workers)
    most = max(least, min(most, _within(_TASK_SECONDS, work), math.ceil(work.number / first)))
    costs = limits.costs
    # What all workers wait for together is handed out one after the other.
    sending = costs.dispatch + costs.byte * work.task_bytes + costs.request / costs.request_tasks
    each = costs.task + limits.workers * sending
    worth = math.ceil(_WORTH * each / work.fit) if work.fit > 0 else most
    even = math.ceil(work.number / (_ROUNDS * limits.workers))
    least = max(1, least)
    usual = max(least, min(most, max(worth, even)))

    def seconds(size: int) -> float:
        tasks = math.ceil(work.number / size)
        one = costs.task + size * work.fit
        return max(math.ceil(tasks / limits.workers) * one, tasks * sending + one)

    # Rounds of tasks in which every worker has one, the last as well.
    rounds = work.number / (usual * limits.workers)
    full = min(
        (
            max(least, min(most, math.ceil(work.number / (whole * limits.workers))))
            for whole in {max(1, math.floor(rounds)), math.ceil(rounds)}
        ),
        key=seconds,
    )
    return full if seconds(full) < (1 - _SAVED) * seconds(usual) else usual


def _within(seconds: float | None, work: Work) -> int:
    """Return how many take no longer than this, at least one."""
    if seconds is None or work.number * work.fit <= seconds:
        return work.number
    return max(1, math.floor(seconds / work.fit))


# The answer for this many has about 2 MB.
MOST_TOYS = 200_000
"""Toys of one task, at most."""


class ToyPart(NamedTuple):
    """The same toys of hypotheses that may be sent together."""

    hypotheses: tuple[Hypothesis, ...]
    toys: ToyRange


def toy_parts(
    hypotheses: Sequence[Hypothesis],
    request: ToysRequest,
    missing: Mapping[str, Sequence[ToyRange]],
    work: Work,
    limits: Limits,
    longest: float | None,
) -> Iterator[ToyPart]:
    """Yield parts of the toys of hypotheses, none longer than allowed.

    Hypotheses of which a part has all toys come together in one part. Which toys are made in which
    part has no effect on them.

    Parameters
    ----------
    hypotheses
        In the order in which they are to be done.
    request
        What is asked for of each of them.
    missing
        Toys still to make, by name, of hypotheses that have some already.
    work
        Of one toy with signal and one without, in a task of one hypothesis.
    limits
        The backend's.
    longest
        Seconds that a part may take, if that is bounded.
    """
    whole = ToyRange(first=0, count=request.toys)
    wanted = {one.name: list(missing.get(one.name, [whole])) for one in hypotheses}
    total = sum(toys.count for ranges in wanted.values() for toys in ranges)
    if not total:
        return
    most = task_size(work._replace(number=total), limits, most=MOST_TOYS, longest=longest)
    together = tuple(
        one for one in hypotheses if request.toys <= most and wanted[one.name] == [whole]
    )
    if together:
        yield ToyPart(together, whole)
    names = {one.name for one in together}
    for one in hypotheses:
        if one.name not in names:
            for toys in wanted[one.name]:
                for part in _cut(toys, most):
                    yield ToyPart((one,), part)


def _cut(toys: ToyRange, most: int) -> Iterator[ToyRange]:
    """Cut a range into as few ranges of nearly the same length as allowed."""
    pieces = math.ceil(toys.count / most)
    for index in range(pieces):
        first, stop = (toys.count * i // pieces for i in (index, index + 1))
        yield ToyRange(first=toys.first + first, count=stop - first)


# base64 of an envelope, and room for what is not the body.
_ENVELOPE = 4 / 3
_OVERHEAD = 1024


class Bounds(NamedTuple):
    """What no task may exceed.

    ``bytes`` of the encoded task (the default is half of what Globus Compute takes in one
    submission), ``hypotheses`` in it, and its estimated ``seconds`` (None: about a minute where
    that costs little to send).
    """

    bytes: int = 5 * 1000**2
    hypotheses: int = 64
    seconds: float | None = None


class PlannedTask(NamedTuple):
    """Hypotheses to be sent together; ``bytes`` is an estimate until it is encoded.

    ``toys`` is the range of toys made of each of them, in a run for toys.
    """

    hypotheses: tuple[Hypothesis, ...]
    bytes: int
    seconds: float
    toys: ToyRange | None = None


class Plan(NamedTuple):
    """Tasks and what they will cost.

    ``cpu_seconds`` are those of all fits on one core. ``seconds`` is the estimated time from the
    command to the last result, ``begins`` that until a worker is ready for the first fit.
    """

    tasks: list[PlannedTask]
    bytes: int
    cpu_seconds: float
    seconds: float
    begins: float


def make_plan(
    workspace: dict[str, Any],
    hypotheses: Sequence[Hypothesis],
    request: Request,
    *,
    limits: Limits,
    staged: bool,
    bounds: Bounds | None = None,
    toys: Mapping[str, Sequence[ToyRange]] | None = None,
) -> Plan:
    """Cut hypotheses into tasks.

    Tasks are within every bound, and of the size of `task_size`; but where every task carries the
    workspace, there are no more than keep the workspaces below the patches in bytes, or than there
    are workers with something to do.

    Parameters
    ----------
    workspace
        The background-only workspace, which every task carries unless it is ``staged``.
    hypotheses
        In the order in which they are to be done.
    limits
        The backend's.
    bounds
        The user's, by default `Bounds()`.
    toys
        Of a request for toys: those to make, by hypothesis, where that is not all of them.

    Raises
    ------
    RequestError
        A single hypothesis does not fit into a task of the allowed size.
    """
    bounds = bounds or Bounds()
    level = limits.compression
    carried = 0 if staged else _encoded_size(workspace, level)
    sizes = _sizes(hypotheses, level)
    once = seconds_per_hypothesis(workspace, request)
    tasks: list[PlannedTask] = []
    if isinstance(request, ToysRequest):
        each = once / request.toys
        of_task = _OVERHEAD + carried + sum(sizes.values()) / max(1, len(sizes))
        work = Work(1, each, task_bytes=of_task)
        longest = _longest(limits, bounds)
        for part in toy_parts(hypotheses, request, toys or {}, work, limits, longest):
            of_part = _tasks(
                part.hypotheses, sizes, each * part.toys.count, carried, limits, bounds
            )
            tasks += [task._replace(toys=part.toys) for task in of_part]
    else:
        tasks += _tasks(hypotheses, sizes, once, carried, limits, bounds)
    return Plan(
        tasks,
        bytes=sum(task.bytes for task in tasks),
        cpu_seconds=sum(task.seconds for task in tasks),
        seconds=makespan(
            limits.costs, [Load(task.seconds, task.bytes) for task in tasks], limits.workers
        ),
        begins=first_fit(limits.costs, limits.workers) if tasks else 0.0,
    )


def plan_verification(
    workspace: dict[str, Any],
    hypotheses: Sequence[Hypothesis],
    request: Request,
    *,
    limits: Limits,
    staged: bool,
    bounds: Bounds | None = None,
) -> list[PlannedTask]:
    """Cut the hypotheses that pyhf verifies into tasks, as `make_plan` does.

    Raises
    ------
    RequestError
        A single hypothesis does not fit into a task of the allowed size.
    """
    level = limits.compression
    return _tasks(
        hypotheses,
        _sizes(hypotheses, level),
        seconds_to_verify(workspace, request),
        0 if staged else _encoded_size(workspace, level),
        limits,
        bounds or Bounds(),
    )


def _tasks(
    hypotheses: Sequence[Hypothesis],
    encoded: Mapping[str, int],
    each: float,
    carried: int,
    limits: Limits,
    bounds: Bounds,
) -> list[PlannedTask]:
    """Cut hypotheses of ``each`` seconds.

    ``encoded`` are their sizes by name, ``carried`` is that of the workspace in a task.
    """
    if not hypotheses:
        return []
    fixed = _OVERHEAD + carried
    sizes = [encoded[hypothesis.name] for hypothesis in hypotheses]
    mean = sum(sizes) / len(sizes)
    allowed = min(bounds.bytes, limits.task_bytes)
    most = task_size(
        Work(len(sizes), each, task_bytes=fixed, each_bytes=mean),
        limits,
        most=min(bounds.hypotheses, max(1, math.floor((allowed - fixed) / mean))),
        longest=_longest(limits, bounds),
        carried=carried,
    )
    tasks = []
    for group in _pack(hypotheses, sizes, fixed, allowed, most):
        size = fixed + sum(size for _, size in group)
        tasks.append(PlannedTask(tuple(one for one, _ in group), size, each * len(group)))
    return tasks


class Verify(NamedTuple):
    """Results that a task compares with pyhf, and the names of the doubted ones."""

    results: Sequence[HypothesisResult]
    doubted: Sequence[str] = ()


def encode_planned(
    hypotheses: Sequence[Hypothesis],
    workspace_digest: str,
    workspace: dict[str, Any] | None,
    request: Request,
    *,
    nonce: str = "",
    verify: Verify | None = None,
    toys: ToyRange | None = None,
    compression: int = SMALL,
) -> str:
    """Encode one task; ``workspace`` is None where the backend has staged it."""
    return encode_task(
        Task(
            workspace_digest=workspace_digest,
            workspace=workspace,
            hypotheses=list(hypotheses),
            request=request,
            nonce=nonce,
            verify=list(verify.results) if verify else [],
            doubted=list(verify.doubted) if verify else [],
            toys=toys,
        ),
        compression,
    )


def _sizes(hypotheses: Sequence[Hypothesis], level: int) -> dict[str, int]:
    """Return the encoded sizes of hypotheses by name.

    Numbers of signals in arrays are taken as they are; their template, which each task has once,
    has a share in the overhead.
    """
    return {
        one.name: math.ceil(_ENVELOPE * (len(one.patch.numbers) + len(one.name)))
        if isinstance(one.patch, SignalPatch)
        else _encoded_size(one, level)
        for one in hypotheses
    }


def _encoded_size(content: Any, level: int) -> int:
    return math.ceil(_ENVELOPE * len(compress(msgspec.json.encode(content), level)))


def _longest(limits: Limits, bounds: Bounds) -> float | None:
    """Return the longest time that a task may take, if it is bounded."""
    both = [one for one in (bounds.seconds, limits.task_seconds) if one is not None]
    return min(both) if both else None


def _pack(
    hypotheses: Sequence[Hypothesis], sizes: Sequence[int], fixed: int, allowed: int, most: int
) -> Iterator[list[tuple[Hypothesis, int]]]:
    group: list[tuple[Hypothesis, int]] = []
    total = fixed
    for hypothesis, size in zip(hypotheses, sizes, strict=True):
        if fixed + size > allowed:
            raise RequestError(
                f"hypothesis '{hypothesis.name}' does not fit into one task",
                evidence=f"workspace and patch take {fixed + size} bytes, {allowed} are allowed",
                hint="raise --max-task-bytes, if the endpoint takes more",
            )
        if group and (len(group) == most or total + size > allowed):
            yield group
            group, total = [], fixed
        group.append((hypothesis, size))
        total += size
    if group:
        yield group
