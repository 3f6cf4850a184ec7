"""From a pallet and a request to self-contained tasks of bounded size and time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from fitserve.contract import Task, compress, encode_task
from fitserve.errors import RequestError
from fitserve.estimate import seconds_per_hypothesis

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fitserve.backends.base import Limits
    from fitserve.contract import HypotestRequest, Hypothesis

__all__ = ["Bounds", "Plan", "PlannedTask", "encode_planned", "make_plan"]

# base64 of an envelope, and room for what is not the body.
_ENVELOPE = 4 / 3
_OVERHEAD = 1024


class Bounds(NamedTuple):
    """What no task may exceed.

    ``bytes`` of the encoded task (the default is half of what Globus Compute takes in one
    submission), ``hypotheses`` in it, and its estimated ``seconds``.
    """

    bytes: int = 5 * 1000**2
    hypotheses: int = 64
    seconds: float = 60.0


class PlannedTask(NamedTuple):
    """Hypotheses to be sent together; ``bytes`` is an estimate until it is encoded."""

    hypotheses: tuple[Hypothesis, ...]
    bytes: int
    seconds: float


class Plan(NamedTuple):
    """Tasks and what they will cost; ``seconds`` is the estimated time on all workers."""

    tasks: list[PlannedTask]
    bytes: int
    cpu_seconds: float
    seconds: float


def make_plan(
    workspace: dict[str, Any],
    hypotheses: Sequence[Hypothesis],
    request: HypotestRequest,
    *,
    limits: Limits,
    staged: bool,
    bounds: Bounds | None = None,
) -> Plan:
    """Cut hypotheses into tasks.

    Tasks are as equal in time as the order allows, at least a few for each worker so that
    the end of a run does not wait for one of them, and within every bound.

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

    Raises
    ------
    RequestError
        A single hypothesis does not fit into a task of the allowed size.
    """
    bounds = bounds or Bounds()
    allowed = min(bounds.bytes, limits.task_bytes)
    fixed = _OVERHEAD + (0 if staged else _encoded_size(workspace))
    each = seconds_per_hypothesis(workspace, request)
    most = _hypotheses_per_task(len(hypotheses), each, limits.workers, bounds)
    tasks = []
    for group in _pack(hypotheses, fixed, allowed, most):
        size = fixed + sum(size for _, size in group)
        tasks.append(PlannedTask(tuple(one for one, _ in group), size, each * len(group)))
    cpu = each * len(hypotheses)
    return Plan(tasks, sum(task.bytes for task in tasks), cpu, _makespan(tasks, limits.workers))


def encode_planned(
    hypotheses: Sequence[Hypothesis],
    workspace_digest: str,
    workspace: dict[str, Any] | None,
    request: HypotestRequest,
) -> str:
    """Encode one task; ``workspace`` is None where the backend has staged it."""
    return encode_task(
        Task(
            workspace_digest=workspace_digest,
            workspace=workspace,
            hypotheses=list(hypotheses),
            request=request,
        )
    )


def _encoded_size(content: Any) -> int:
    return math.ceil(_ENVELOPE * len(compress(msgspec.json.encode(content))))


def _hypotheses_per_task(total: int, each: float, workers: int, bounds: Bounds) -> int:
    by_time = math.floor(bounds.seconds / each) if each > 0 else total
    by_workers = math.ceil(total / (4 * workers))
    return max(1, min(bounds.hypotheses, by_time, by_workers))


def _pack(
    hypotheses: Sequence[Hypothesis], fixed: int, allowed: int, most: int
) -> Iterator[list[tuple[Hypothesis, int]]]:
    group: list[tuple[Hypothesis, int]] = []
    total = fixed
    for hypothesis in hypotheses:
        size = _encoded_size(hypothesis)
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


def _makespan(tasks: Sequence[PlannedTask], workers: int) -> float:
    """Return when the last of ``workers`` is done that each take the next task in order."""
    busy = [0.0] * max(1, workers)
    for task in tasks:
        index = busy.index(min(busy))
        busy[index] += task.seconds
    return max(busy)
