"""What all engines share: their work, and results of hypotheses that cannot be fitted."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from fitserve_contract import (
    FitRequest,
    HypothesisResult,
    PatchError,
    RankingRequest,
    ToyRange,
    hypothesis_key,
    refusal,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike

    from fitserve_contract import Hypothesis, MuPoint, Request, Status, ToysRequest
    from fitserve_worker.engines.frames import Frame
    from fitserve_worker.kernel import FloatArray
    from fitserve_worker.kernel.batch import Batch

__all__ = [
    "ABOVE",
    "UNFITTED",
    "Engine",
    "UnfitError",
    "Work",
    "answer_by",
    "cls_of",
    "cls_problems",
    "failed",
    "in_words",
    "of_kind",
    "packed",
    "range_of",
    "refused",
    "statistic_of",
    "unfitted",
]

UNFITTED = "none"
"""Stands for the engine in a result without a fit."""

ABOVE = 1e-6
"""A difference of minima of -2 log L that shifts a significance by 1e-3, as for CLs."""

_ROUNDING = 1e-9
_Request = TypeVar("_Request", bound=Struct)


class Work(NamedTuple):
    """A decoded task: hypotheses on one background-only workspace.

    ``request_digest`` is `fitserve_contract.request_digest` of the request, ``toys`` which of
    the toys of a request for toys are to be made (None: all). ``frame`` is how the parameter of
    interest is measured by pyhf, if not as usual.
    """

    workspace_digest: str
    workspace: dict[str, Any]
    hypotheses: Sequence[Hypothesis]
    request: Request
    request_digest: str
    toys: ToyRange | None = None
    frame: Frame | None = None


class Engine(Protocol):
    """Fits hypotheses of one workspace, and answers requests of every kind.

    The kinds are those of `fitserve_contract.Request`.
    `fitserve_worker.engines.pyhf_engine.PyhfEngine` answers them all; other engines pass those
    that they cannot answer on to it.
    """

    def answers(self, work: Work) -> Iterator[HypothesisResult]:
        """Yield one result for each hypothesis, in any order.

        A hypothesis that cannot be fitted is a result with status and reason; an engine
        raises only for what makes every hypothesis impossible.
        """
        ...


def of_kind(work: Work, kind: type[_Request]) -> _Request:
    """Return the request of a task, which must be of the given kind."""
    if not isinstance(work.request, kind):
        raise TypeError(f"the request is no {kind.__name__}")
    return work.request


def statistic_of(request: Request) -> Literal["qtilde", "q"] | None:
    """Return the test statistic of a request, None if it has none."""
    if isinstance(request, FitRequest | RankingRequest):
        return None
    return request.test_stat


def answer_by(
    engine: Engine, work: Work, hypothesis: Hypothesis, diagnostics: Mapping[str, str] | None = None
) -> HypothesisResult:
    """Return an engine's answer to a task for one of its hypotheses, with more diagnostics."""
    result = next(iter(engine.answers(work._replace(hypotheses=[hypothesis]))))
    return replace(result, diagnostics={**result.diagnostics, **(diagnostics or {})})


def failed(work: Work, hypothesis: Hypothesis, reason: str) -> HypothesisResult:
    """Return the result of a hypothesis that could not be fitted at all."""
    return unfitted(work, hypothesis, status="failed", reason=reason, points=[])


def unfitted(
    work: Work,
    hypothesis: Hypothesis,
    *,
    status: Status,
    reason: str | None,
    points: list[MuPoint],
) -> HypothesisResult:
    """Return the result of a hypothesis that no engine has fitted."""
    return HypothesisResult(
        name=hypothesis.name,
        key=hypothesis_key(work.workspace_digest, hypothesis, work.request_digest),
        mass_hypotheses=hypothesis.values,
        status=status,
        reason=reason,
        CLs_obs=points[0].CLs_obs if points else None,
        CLs_exp=points[0].CLs_exp if points else [None] * 5,
        fit_time=0.0,
        setup_time=0.0,
        engine=UNFITTED,
        points=points,
    )


class UnfitError(Exception):
    """A hypothesis cannot be fitted; the message is for the user."""


def in_words(error: Exception) -> str:
    """Return the reason that a result gives for an exception."""
    # By the name of its module: a worker that only needs the kernel does not import pyhf.
    module = type(error).__module__
    if isinstance(error, UnfitError) or module == "pyhf.exceptions":
        return str(error)
    if isinstance(error, PatchError):
        return f"the patch does not apply: {error}"
    if isinstance(error, MemoryError):
        return "the fit broke off: the worker has too little memory for it"
    return f"the fit broke off: {str(error) or 'no reason is given'}"


def refused(request: Request, batch: Batch) -> list[str]:
    """Return the hypotheses of a batch for which a request is refused; pyhf says why."""
    names = []
    for member in batch.members:
        poi = member.sets.get(batch.poi) or member.common.get(batch.poi)
        if poi is not None and refusal(
            request, batch.poi, float(poi.lower[0]), float(poi.upper[0])
        ):
            names.append(member.name)
    return names


def cls_of(point: MuPoint) -> list[float | None]:
    """Return CLs at a point: observed, then expected."""
    return [point.CLs_obs, *point.CLs_exp]


def cls_problems(rows: FloatArray) -> list[str]:
    """Return the faults of CLs, of shape (signal strengths, 6): observed, then expected."""
    problems = []
    if (rows < -_ROUNDING).any() or (rows > 1 + _ROUNDING).any():
        problems.append("a CLs is outside 0 to 1")
    if any(low > high + _ROUNDING for row in rows[:, 1:] for low, high in itertools.pairwise(row)):
        problems.append("the expected CLs are not in order")
    return problems


def range_of(work: Work, request: ToysRequest) -> ToyRange:
    """Return the toys that a task is to make: by default all of the request's."""
    return work.toys or ToyRange(first=0, count=request.toys)


def packed(values: ArrayLike) -> bytes:
    """Return values of the test statistic as `fitserve_contract.ToyValues` has them.

    Examples
    --------
    >>> packed([0.0, 1.5]).hex()
    '000000000000c03f'
    """
    return np.asarray(values, dtype="<f4").tobytes()
